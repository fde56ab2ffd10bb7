"""consistency = "transaction": at each of its commits the replica is the source at some commit."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import psycopg
import pytest
from tests.acceptance.load import Writers
from tests.acceptance.topics import Topics
from tests.flow import Flow, until
from tests.servers import Addresses

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
SUM = """
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


class Trade(Writers):
    """Two sessions that move money until the block ends; their transactions overlap."""

    def __init__(self, flow: Flow, seed: int, pause_s: float = 0.02) -> None:
        super().__init__(flow, [partial(_begin, half, seed + half) for half in (0, 1)], pause_s)


def _begin(half: int, seed: int, connection: psycopg.Connection) -> Callable[[], None]:
    rng = random.Random(seed)  # noqa: S311 - so that a failure can be repeated

    def commit_one() -> None:
        with connection.transaction():
            for statement in _transaction(rng, half):
                connection.execute(statement)

    return commit_one


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
    total = f"(SELECT {_MONEY} - {amount} - ({SUM}))"
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
                (money,) = connection.execute(SUM).fetchone() or (0,)
                self.sums += 1
                self._stop.wait(0.002)
                if money != _MONEY:
                    self.wrong.append(money)


@pytest.fixture
def whole(flow: Flow) -> Flow:
    """A pipeline in this mode."""
    flow.settings = flow.settings.model_copy(update={"consistency": "transaction"})
    flow.env["DELTASYNC_CONSISTENCY"] = "transaction"
    return flow


@pytest.mark.timeout(300)
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
        for kill in range(5):
            if kill == 2:
                servers.embedded.connect.process.stop(signal.SIGKILL)
                servers.embedded.start()
            victim = whole.workers[-1]
            until(lambda: victim.events("assigned"), "partitions assigned")  # noqa: B023 - called at once
            victim.runs_for(rng.uniform(0, 1.2))
            victim.kill()
            whole.start_worker(**FAST, DELTASYNC_BATCH_ROWS_MAX=rng.choice(("100", "500", "10000")))
        servers.embedded.connect.wait()
        wait_for_moves(whole)
    assert trade.transactions > 500
    assert auditor.sums > 1000
    whole.wait_equal(*TABLES)


def wait_for_moves(flow: Flow) -> None:
    """Return when what is committed from now on arrives."""
    flow.source.execute("INSERT INTO shop.purse VALUES (1000, 0)")
    query = "SELECT 1 FROM shop.purse WHERE id = 1000"
    wait_for(flow, lambda: flow.replica.execute(query).fetchone(), "the last move")


def wait_for(flow: Flow, holds: Callable[[], object], what: str) -> None:
    try:
        until(holds, what, 90)
    except AssertionError as error:
        said = f"{flow.cli('lag')}\n{flow.ledger()}\n{flow.workers[-1].log.read_text()[-4000:]}"
        raise AssertionError(f"{error}\n{said}") from None


@pytest.mark.timeout(240)
def test_a_large_transaction_is_applied_whole(whole: Flow, servers: Addresses) -> None:
    """It goes to disk; Connect is killed in the middle of it, and repeats a part, in topics of several partitions."""
    if servers.embedded is None:
        pytest.skip("Connect is not ours to kill")
    whole.set_up(SCHEMA, **SPREAD)
    worker = whole.start_worker(DELTASYNC_BATCH_ROWS_MAX="500")
    whole.wait_equal(*TABLES[:2])
    topics = Topics(whole)
    with Auditor(whole):
        with psycopg.connect(whole.pipeline.source_admin) as large:
            for start in range(1000, 16_000, 5_000):
                for table, amount in (("giro", 1), ("purse", -1)):
                    large.execute(
                        f"INSERT INTO shop.{table} SELECT n, {amount} FROM generate_series({start}, {start + 4999}) n"
                    )
            large.execute("UPDATE shop.giro SET id = id + 100000 WHERE id >= 11000")
        until(lambda: sum(topics.ends("shop.purse").values()) > 6_000, "Connect is within it")
        servers.embedded.connect.process.stop(signal.SIGKILL)
        servers.embedded.start()
        servers.embedded.connect.wait()
        wait_for(whole, lambda: worker.events("large transaction applied"), "it is applied")
        whole.wait_equal(*TABLES)
    (applied,) = worker.events("large transaction applied")
    assert applied["changes"] == 2 * 15_000 + 2 * 5_000


def test_a_second_worker_stands_by(whole: Flow) -> None:
    """It takes over when the first one has gone."""
    whole.set_up(SCHEMA, **SPREAD)
    first = whole.start_worker(**FAST)
    whole.wait_equal(*TABLES[:2])
    second = whole.start_worker(**FAST)
    until(lambda: second.events("standing by"), "the second stands by")
    whole.source.execute("UPDATE shop.purse SET amount = amount + 1")
    whole.wait_equal(*TABLES)
    assert not second.events("assigned")

    first.kill()
    whole.source.execute("UPDATE shop.purse SET amount = amount - 1")
    whole.wait_equal(*TABLES)
    until(lambda: second.events("assigned"), "the second has it")
    assert second.stop() == 0


def test_what_cannot_be_applied_stops_all(whole: Flow) -> None:
    """Nothing passes it, whatever table it is in; when it can be applied, the rest follows."""
    whole.set_up(SCHEMA)
    worker = whole.start_worker()
    whole.wait_equal(*TABLES[:2])
    whole.replica.execute("ALTER TABLE shop.purse ADD CHECK (amount < 2000)")
    whole.source.execute(
        "UPDATE shop.giro SET amount = 999 WHERE id = 2; UPDATE shop.purse SET amount = 2001 WHERE id = 1"
    )
    whole.source.execute("UPDATE shop.giro SET amount = 998 WHERE id = 1")
    until(lambda: worker.events("partition stopped"), "it stops")
    (stopped,) = worker.events("partition stopped")
    assert "cannot be applied (shop.giro, shop.purse): CheckViolation" in stopped["reason"]
    assert "Nothing is applied behind it" in stopped["reason"]
    assert whole.replica.execute("SELECT sum(amount) FROM shop.giro").fetchone() == (40_000,)
    assert worker.stop() == 0
    assert "nothing is applied again" in whole.cli("ledger", "set", "shop.purse", "0", "0", "--reason", "again", code=1)

    whole.replica.execute("ALTER TABLE shop.purse DROP CONSTRAINT purse_amount_check")
    whole.start_worker()
    whole.wait_equal(*TABLES)


def test_a_table_is_changed_between_transactions(whole: Flow) -> None:
    """What came before it is applied first; one that changed rows before it changed their table waits and says so."""
    whole.env["DELTASYNC_DDL_RENAME_COLUMN"] = "apply"
    whole.set_up(SCHEMA)
    worker = whole.start_worker()
    whole.wait_equal(*TABLES[:2])

    whole.source.execute("UPDATE shop.purse SET amount = amount - 1")
    with whole.source.transaction():
        whole.source.execute("ALTER TABLE shop.purse RENAME amount TO money; UPDATE shop.purse SET money = money + 1")
        whole.source.execute("INSERT INTO shop.stock VALUES (1, 1)")
    whole.source.execute("DELETE FROM shop.purse WHERE id = 1")
    whole.wait_equal(*TABLES)

    whole.source.execute("UPDATE shop.purse SET money = 0; ALTER TABLE shop.purse RENAME money TO amount")
    with whole.source.transaction():
        whole.source.execute("UPDATE shop.purse SET amount = 1; ALTER TABLE shop.purse RENAME amount TO money")
        whole.source.execute("UPDATE shop.purse SET money = 2; INSERT INTO shop.stock VALUES (2, 1)")
    until(lambda: worker.said("and then the table itself"), "it waits")
    assert whole.replica.execute("SELECT DISTINCT amount FROM shop.purse").fetchall() == [(0,)]
    assert whole.count("shop.stock") == 1


def test_records_that_tell_no_transaction_are_refused(whole: Flow) -> None:
    """The connector does not say what belongs together."""
    whole.set_up(SCHEMA, provide__transaction__metadata="false")
    worker = whole.start_worker()
    until(lambda: worker.events("partition stopped"), "it stops")
    offset = whole.ledger()["deltasync.canary"][0]
    reason = worker.events("partition stopped")[0]["reason"]
    assert f"offset {offset} does not tell its transaction" in reason


def test_a_replica_with_single_changes_is_refused(flow: Flow) -> None:
    """Some transactions may be there in part."""
    flow.set_up(SCHEMA, provide__transaction__metadata="true")
    first = flow.start_worker()
    flow.source.execute("UPDATE shop.giro SET amount = 1 WHERE id = 1")
    flow.wait_equal(*TABLES)
    assert first.stop() == 0

    second = flow.start_worker(DELTASYNC_CONSISTENCY="transaction")
    until(lambda: second.process.poll() is not None, "it ends")
    assert second.process.returncode == 1
    assert second.said("transactions may be applied in part")
