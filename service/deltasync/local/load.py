"""The demo's transactions: inserts, updates, deletes and key changes from several threads, at a steady rate.

What transaction number n does depends on n alone, and each thread changes orders and customers of its own: the
outcome is the same on every run, whatever the threads' timing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import LiteralString, NamedTuple, Self

import psycopg
from psycopg.types.json import Jsonb

from deltasync.local.shop import Size

THREADS = 4
# About a tenth of what source and connector could bear, so that latency is that of changes, not of a queue.
RATE_PER_S = 500
# Beyond the keys of every shop that the demo is filled with.
_NEW_KEYS_FROM = 1_000_000_000


# Runs a statement, and returns how many rows it changed.
_Run = Callable[[LiteralString, Sequence[object]], int]


class _Turn(NamedTuple):
    """One transaction to be: its number, its dice, and an existing order and customer of its thread."""

    number: int
    dice: random.Random
    order: int
    customer: int

    @property
    def new_key(self) -> int:
        return _NEW_KEYS_FROM + self.number


def _place(turn: _Turn, run: _Run) -> int:
    lines = turn.dice.randint(1, 3)
    placed = "INSERT INTO shop.orders VALUES (%s, %s, 'new', %s, clock_timestamp(), NULL, %s)"
    delivery = Jsonb({"street": f"Street {turn.number}", "gift": True}) if turn.dice.random() < 0.5 else None  # noqa: PLR2004 - one of two
    count = run(placed, [turn.new_key, turn.customer, turn.dice.randint(100, 99_999) / 100, delivery])
    line = "INSERT INTO shop.order_line SELECT %s, n, 'article ' || n, n, n * 1.10, NULL FROM generate_series(1, %s) n"
    return count + run(line, [turn.new_key, lines])


def _send(turn: _Turn, run: _Run) -> int:
    sent = "UPDATE shop.orders SET status = 'sent', sent_at = clock_timestamp(), total = total + 4.90 WHERE id = %s"
    return run(sent, [turn.order])


def _edit(turn: _Turn, run: _Run) -> int:
    """Leaves the large letter alone."""
    edited = "UPDATE shop.customer SET interests = %s, profile = %s WHERE id = %s"
    interests = turn.dice.choice([None, [], ["music"], ["a,b", None, "{}"]])
    return run(edited, [interests, Jsonb({"level": turn.dice.randint(0, 9), "note": "é\n"}), turn.customer])


def _renumber(turn: _Turn, run: _Run) -> int:
    """A key change: a delete and an insert in Debezium's stream, hence two records."""
    moved = """
        UPDATE shop.order_line AS one SET line = ends.last + 1
          FROM (SELECT min(line) AS first, max(line) AS last FROM shop.order_line WHERE order_id = %s) AS ends
         WHERE one.order_id = %s AND one.line = ends.first"""
    return 2 * run(moved, [turn.order, turn.order])


def _replace(turn: _Turn, run: _Run) -> int:
    """A row goes, and another one takes its key or one beside it in the same transaction."""
    gone = """
        DELETE FROM shop.order_line WHERE order_id = %s
           AND line = (SELECT min(line) FROM shop.order_line WHERE order_id = %s)"""
    moved = """
        UPDATE shop.order_line SET line = line - 1, discount = NULL WHERE order_id = %s
           AND line = (SELECT min(line) FROM shop.order_line WHERE order_id = %s)"""
    count = run(gone, [turn.order, turn.order]) + 2 * run(moved, [turn.order, turn.order])
    new = """
        INSERT INTO shop.order_line SELECT order_id, max(line) + 1, 'late', 1, 9.50, 0.1
          FROM shop.order_line WHERE order_id = %s GROUP BY order_id"""
    return count + run(new, [turn.order])


def _cancel(turn: _Turn, run: _Run) -> int:
    count = run("DELETE FROM shop.order_line WHERE order_id = %s", [turn.order])
    return count + run("DELETE FROM shop.orders WHERE id = %s", [turn.order])


_KINDS = (_place, _send, _edit, _renumber, _replace, _cancel)
_WEIGHTS = (35, 25, 15, 10, 5, 10)


class Load:
    """Commits transactions; `transactions` and `records` (row changes, as Debezium counts them) are committed so far.

    `placed(order, at)` hears of every new order, with the time (`time.monotonic()`) just before its commit.
    """

    def __init__(self, dsn: str, size: Size, placed: Callable[[int, float], None]) -> None:
        self.transactions = 0
        self.records = 0
        self._dsn = dsn
        self._size = size
        self._placed = placed
        self._begun = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="load")
        self._writers: list[Future[None]] = []

    def start(self, transactions: int) -> None:
        """Commit so many more, in the background."""
        numbers = range(self._begun, self._begun + transactions)
        self._begun += transactions
        due = time.monotonic()
        self._writers = [self._pool.submit(self._write, thread, numbers, due) for thread in range(THREADS)]

    def is_done(self) -> bool:
        """Whether all that was started is committed. Raises what a writer failed with."""
        done = [writer for writer in self._writers if writer.done()]
        for writer in done:
            writer.result()
        return len(done) == len(self._writers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopped.set()
        self._pool.shutdown()

    def _write(self, thread: int, numbers: range, begun: float) -> None:
        with psycopg.connect(self._dsn) as connection:
            for number in numbers[(thread - numbers.start) % THREADS :: THREADS]:
                self._stopped.wait(begun + (number - numbers.start) / RATE_PER_S - time.monotonic())
                if self._stopped.is_set():
                    return
                self._commit(connection, self._turn(thread, number))

    def _turn(self, thread: int, number: int) -> _Turn:
        dice = random.Random(number)  # noqa: S311 - the same on every run

        def own(count: int) -> int:
            return min(count, 1 + thread + THREADS * dice.randrange(max(1, count // THREADS)))

        return _Turn(number, dice, own(self._size.orders), own(self._size.customers))

    def _commit(self, connection: psycopg.Connection, turn: _Turn) -> None:
        kind = turn.dice.choices(_KINDS, _WEIGHTS)[0]
        records = kind(turn, lambda query, values: connection.execute(query, values).rowcount)
        at = time.monotonic()
        connection.commit()
        with self._lock:
            self.transactions += 1
            self.records += records
        if kind is _place:
            self._placed(turn.new_key, at)
