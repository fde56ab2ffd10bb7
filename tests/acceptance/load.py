"""Writers that keep a source busy, and a witness that watches the ledger while they do."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NamedTuple, Self

import psycopg
from tests.flow import Flow, until

# Given a session on the source, what commits one transaction with it.
Begin = Callable[[psycopg.Connection], Callable[[], None]]

TABLES = ("shop.journal", "shop.account", "shop.item", "shop.pair")
SCHEMA = """
    CREATE SCHEMA shop;
    -- Nothing in it is ever changed: a lost transaction shows, whatever comes later.
    CREATE TABLE shop.journal (id bigint PRIMARY KEY, note text);
    -- A version only grows: an older state shows, even if a newer one follows.
    CREATE TABLE shop.account (id int PRIMARY KEY, version bigint NOT NULL);
    CREATE TABLE shop.item (id bigint PRIMARY KEY, name text, price numeric(12,2), tags text[], at timestamptz);
    CREATE TABLE shop.pair (a bigint, b text, note text, PRIMARY KEY (b, a));
    INSERT INTO shop.account SELECT n, 0 FROM generate_series(1, 2) n;
    INSERT INTO shop.item SELECT n, 'snapshot ' || n, n * 1.1, ARRAY['a', NULL], now() FROM generate_series(-500, -1) n;
"""
_FORBID_OLDER = """
    CREATE TABLE public.went_back (was bigint, became bigint);
    GRANT INSERT ON public.went_back TO PUBLIC;
    CREATE FUNCTION public.note_older() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN INSERT INTO public.went_back VALUES (OLD.version, NEW.version); RETURN NULL; END $$;
    CREATE TRIGGER note_older AFTER UPDATE ON shop.account FOR EACH ROW
      WHEN (NEW.version < OLD.version) EXECUTE FUNCTION public.note_older();
    ALTER TABLE shop.account ENABLE ALWAYS TRIGGER note_older;
"""
_ID_SPACE = 10**12


class Writers:
    """Sessions on the source that commit transactions until the block ends; it fails if one of them did.

    Each of `begin` is called with its connection (autocommit), on a thread of its own. With `persists` a source that
    goes is nothing to fail for: each is called again when it is there again.
    """

    def __init__(self, flow: Flow, begin: Iterable[Begin], pause_s: float = 0.02, *, persists: bool = False) -> None:
        self._dsn = flow.pipeline.source_admin
        self._pause_s = pause_s
        self._persists = persists
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self.transactions = 0
        self._threads = [threading.Thread(target=self._write, args=(one,)) for one in begin]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert kind is not None or not self._failed, self._failed

    def _write(self, begin: Begin) -> None:
        while not self._stop.wait(self._pause_s):
            try:
                self._commit(begin)
            except psycopg.OperationalError as error:
                if not self._persists:
                    self._failed.append(error)
                    return
            except Exception as error:  # noqa: BLE001 - the block's end raises it
                self._failed.append(error)
                return

    def _commit(self, begin: Begin) -> None:
        with psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as connection:
            commit_one = begin(connection)
            while not self._stop.wait(self._pause_s):
                commit_one()
                self.transactions += 1


class Load(Writers):
    """Two writers with transactions of every kind; the same seed, the same choices.

    Each has keys of its own, so neither waits for the other, and their transactions overlap.
    """

    def __init__(self, flow: Flow, seed: int, pause_s: float = 0.02, *, persists: bool = False) -> None:
        begin = [_Writer(number, random.Random(seed + number)).begin for number in (1, 2)]  # noqa: S311 - repeatable
        super().__init__(flow, begin, pause_s, persists=persists)


class _Writer:
    _connection: psycopg.Connection

    def __init__(self, number: int, rng: random.Random) -> None:
        self._number = number
        self._rng = rng
        self._done = 0
        self._top = self._first = number * _ID_SPACE

    def begin(self, connection: psycopg.Connection) -> Callable[[], None]:
        """Go on with another connection."""
        self._connection = connection
        return self.commit_one

    def commit_one(self) -> None:
        kind = self._rng.choices((self._few, self._keys, self._copy, self._large), (74, 20, 5, 1))[0]
        with self._connection.transaction():
            self._done += 1
            id_ = self._number * _ID_SPACE + self._done
            self._run("INSERT INTO shop.journal VALUES (%s, %s)", id_, kind.__name__)
            kind()
            self._run("UPDATE shop.account SET version = version + 1 WHERE id = %s", self._number)

    def _run(self, statement: str, *values: object) -> None:
        self._connection.execute(statement, values)

    def _any(self) -> int:
        return self._rng.randint(self._first, self._top)

    def _insert(self, count: int) -> None:
        self._run(
            "INSERT INTO shop.item SELECT n, 'inserted', n %% 1000 * 1.10, ARRAY['x', n::text], clock_timestamp()"
            " FROM generate_series(%s::bigint, %s::bigint) n",
            self._top + 1,
            self._top + count,
        )
        self._top += count

    def _few(self) -> None:
        for _ in range(self._rng.randint(1, 5)):
            match self._rng.randint(1, 3):
                case 1:
                    self._insert(1)
                case 2:
                    self._run(
                        "UPDATE shop.item SET name = 'updated', at = clock_timestamp() WHERE id = %s", self._any()
                    )
                case _:
                    self._run("DELETE FROM shop.item WHERE id = %s", self._any())

    def _keys(self) -> None:
        """Key changes: new ones, two that change places, one that goes and comes back."""
        base = self._done
        a, b = (self._number * _ID_SPACE + base, self._number * _ID_SPACE + base + 1_000_000_000)
        self._run("INSERT INTO shop.pair VALUES (%s, 'k', 'first'), (%s, 'k', 'second')", a, b)
        self._run("UPDATE shop.pair SET b = 'swap' WHERE a = %s", a)
        self._run("UPDATE shop.pair SET a = %s WHERE (a, b) = (%s, 'k')", a, b)
        self._run("UPDATE shop.pair SET a = %s, b = 'k' WHERE (a, b) = (%s, 'swap')", b, a)
        self._run("DELETE FROM shop.pair WHERE a = %s AND b = 'k'", a if self._rng.random() < 0.5 else b)
        self._run("UPDATE shop.item SET id = -id WHERE id = %s", self._any())

    def _copy(self) -> None:
        with self._connection.cursor().copy("COPY shop.item (id, name) FROM STDIN") as copy:
            for n in range(self._rng.randint(20, 200)):
                copy.write_row((self._top + 1 + n, "copied"))
                last = self._top + 1 + n
        self._top = last

    def _large(self) -> None:
        self._insert(self._rng.randint(500, 1500))
        low = self._any()
        self._run("UPDATE shop.item SET price = price + 1 WHERE id BETWEEN %s AND %s", low, low + 500)


class Sample(NamedTuple):
    """One partition's row of the ledger."""

    next_offset: int
    watermark: tuple[int, int]


class Witness:
    """Samples the ledger on a thread of its own; leaving the block fails if a partition ever went back."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.samples = 0
        self.went_back: list[str] = []

    def __enter__(self) -> Self:
        self._flow.replica.execute(_FORBID_OLDER)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10)
        if kind is None:
            assert self.samples > 100
            assert not self.went_back, self.went_back[:5]
            assert self._flow.replica.execute("SELECT * FROM public.went_back LIMIT 5").fetchall() == []

    def _watch(self) -> None:
        before: dict[tuple[str, int], Sample] = {}
        with psycopg.connect(self._flow.pipeline.replica_admin, autocommit=True) as connection:
            while not self._stop.wait(0.02):
                now = sample(connection)
                for key, was in before.items():
                    found = now.get(key)
                    if found is None or found.next_offset < was.next_offset or found.watermark < was.watermark:
                        self.went_back.append(f"{key}: {was} became {found}")
                before = now
                self.samples += 1


def sample(connection: psycopg.Connection) -> dict[tuple[str, int], Sample]:
    """The ledger, by topic and partition."""
    query = "SELECT topic, partition, next_offset, seq0, seq1 FROM deltasync.ledger"
    rows = connection.execute(query).fetchall()
    return {(topic, number): Sample(at, (seq0 or 0, seq1 or 0)) for topic, number, at, seq0, seq1 in rows}


def offsets(flow: Flow) -> dict[tuple[str, int], int]:
    """The next offsets in the ledger, by table (`shop.item`) and partition."""
    prefix = f"{flow.settings.topic_prefix}."
    return {(topic.removeprefix(prefix), n): s.next_offset for (topic, n), s in sample(flow.replica).items()}


def wait_for_work(flow: Flow, transactions: int = 20, deadline_s: float = 60) -> None:
    """Return when so many more of the writers' transactions have reached the replica."""
    query = "SELECT count(*) FROM shop.journal"

    def count() -> int:
        row = flow.replica.execute(query).fetchone()
        return int(row[0]) if row else 0

    enough = count() + transactions
    until(lambda: count() >= enough, f"{transactions} more transactions on the replica", deadline_s)
