"""consistency = "transaction": at each of its commits the replica is the source at some commit."""

from __future__ import annotations

import random
import signal
import threading
from types import TracebackType
from typing import Self

import psycopg
import pytest
from tests.conftest import Addresses
from tests.flow import Flow, until

TABLES = ("shop.giro", "shop.purse", "shop.stock")
# Money is in three tables, and goes from one to another; `note` is large and does not travel when it stays.
SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.giro (id int PRIMARY KEY, amount bigint NOT NULL, note text);
    ALTER TABLE shop.giro ALTER note SET STORAGE EXTERNAL;
    CREATE TABLE shop.purse (id int PRIMARY KEY, amount bigint NOT NULL);
    CREATE TABLE shop.stock (id int PRIMARY KEY, amount bigint NOT NULL);
    INSERT INTO shop.giro SELECT n, 1000, repeat(md5(n::text), 100) FROM generate_series(1, 40) n;
    INSERT INTO shop.purse SELECT n, 1000 FROM generate_series(1, 40) n;
"""
_SUM = """
    SELECT (SELECT sum(amount) FROM shop.giro) + (SELECT sum(amount) FROM shop.purse)
         + (SELECT coalesce(sum(amount), 0) FROM shop.stock)
"""
_MONEY = 80_000
SEED = 20_261_125
FAST = {"DELTASYNC_KAFKA_SESSION_TIMEOUT_S": "6"}
# Two of the tables have topics of several partitions, so that key changes and TRUNCATE go across them.
SPREAD = {
    "topic__creation__groups": "control,transaction,spread",
    "topic__creation__spread__include": ".*shop[.](giro|stock)",
    "topic__creation__spread__partitions": "3",
    "topic__creation__spread__replication__factor": "-1",
}


class Trade:
    """Two sessions that move money until the block ends; their transactions overlap."""

    def __init__(self, flow: Flow, seed: int) -> None:
        self._dsn = flow.pipeline.source_admin
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self.transactions = 0
        self._threads = [threading.Thread(target=self._run, args=(half, seed + half)) for half in (0, 1)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert kind is not None or not self._failed, self._failed

    def _run(self, half: int, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - so that a failure can be repeated
        try:
            with psycopg.connect(self._dsn) as connection:
                while not self._stop.wait(0.01):
                    with connection.transaction():
                        for statement in _transaction(rng, half):
                            connection.execute(statement)
                    self.transactions += 1
        except BaseException as error:
            self._failed.append(error)
            raise


def _transaction(rng: random.Random, half: int) -> list[str]:
    """Money moves; each session has accounts of its own, and only the first one the stock."""
    giro, purse, amount = (rng.randrange(half, 40, 2) + 1 for _ in range(3))
    take = f"UPDATE shop.purse SET amount = amount - {amount} WHERE id = {purse}"
    # An account is known by the rest of its number: its key changes, and so does its partition.
    give = f"UPDATE shop.giro SET amount = amount + {amount} WHERE id % 100 = {giro}"
    rekey = f"UPDATE shop.giro SET id = id + 100 WHERE id % 100 = {giro} AND id < 2000000000"
    match rng.randrange(8) if half == 0 else rng.randrange(4):
        case 0:
            return [rekey, take, give]
        case 1:
            return [give, rekey, take]
        case 2:
            return [take, f"DELETE FROM shop.purse WHERE id = {purse}", *_back(purse, amount), give]
        case 4 | 5:
            fill = f"INSERT INTO shop.stock SELECT n, 1 FROM generate_series(1, {amount}) n"
            return [*_SWEEP, take, fill]
        case 6:
            return [take, *_SWEEP, give]
        case _:
            return [take, give]


def _back(purse: int, amount: int) -> list[str]:
    """A row that is deleted comes back, with what the others have too much or too little."""
    total = f"(SELECT {_MONEY} - {amount} - ({_SUM}))"
    return [f"INSERT INTO shop.purse SELECT {purse}, {total}"]


_SWEEP = [
    "UPDATE shop.purse SET amount = amount + (SELECT coalesce(sum(amount), 0) FROM shop.stock) WHERE id = 1",
    "TRUNCATE shop.stock",
]


class Auditor:
    """Sums the replica's money again and again, each time in one statement."""

    def __init__(self, flow: Flow) -> None:
        self._dsn = flow.pipeline.replica_admin
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.wrong: list[int] = []
        self.sums = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(60)
        assert kind is not None or not self.wrong, f"{len(self.wrong)} of {self.sums}: {self.wrong[:10]}"

    def _run(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.is_set():
                (money,) = connection.execute(_SUM).fetchone() or (0,)
                self.sums += 1
                if money != _MONEY:
                    self.wrong.append(money)


@pytest.fixture
def whole(flow: Flow) -> Flow:
    """A pipeline in this mode."""
    flow.settings = flow.settings.model_copy(update={"consistency": "transaction"})
    flow.env["DELTASYNC_CONSISTENCY"] = "transaction"
    return flow


@pytest.mark.timeout(240)
def test_money_is_never_missing(whole: Flow, servers: Addresses) -> None:
    """While worker and Connect are killed, and batches are of every size."""
    if servers.embedded is None:
        pytest.skip("Connect is not ours to kill")
    rng = random.Random(SEED)  # noqa: S311 - so that a failure can be repeated
    whole.set_up(SCHEMA, **SPREAD)
    whole.start_worker(**FAST)
    whole.wait_equal(*TABLES[:2])
    with Auditor(whole) as auditor, Trade(whole, SEED) as trade:
        until(lambda: whole.count("shop.stock"), "the stock is there")
        for kill in range(8):
            if kill % 4 == 2:
                servers.embedded.connect.process.stop(signal.SIGKILL)
                servers.embedded.start()
            whole.workers[-1].runs_for(rng.uniform(0.5, 2.5))
            whole.workers[-1].kill()
            whole.start_worker(**FAST, DELTASYNC_BATCH_ROWS_MAX=rng.choice(("20", "500", "10000")))
        servers.embedded.connect.wait()
        wait_for_moves(whole)
    assert trade.transactions > 500
    assert auditor.sums > 1000
    whole.wait_equal(*TABLES)


def wait_for_moves(flow: Flow) -> None:
    """Return when what is committed from now on arrives."""
    flow.source.execute("INSERT INTO shop.purse VALUES (1000, 0) ON CONFLICT (id) DO UPDATE SET id = excluded.id")
    until(lambda: flow.replica.execute("SELECT FROM shop.purse WHERE id = 1000").fetchone(), "the last move", 120)
