"""While the source is written to, or not: how long a commit takes to be visible, and what idling costs."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import psycopg

from bench.capture import capturing
from bench.contestants import Applying, Contestant, Task, taking_part
from bench.prepare import Prepared, Tell, digest, prepare
from bench.shapes import SCHEMA, Shape, mark, ticks
from bench.stage import Stage, until, wait_for_marks
from bench.works import Outcome, Pair
from deltasync.local.probe import Probe, Seen

_THREADS = 4
# Java has compiled what it runs most by then, and who applies has found its topics. Not counted.
_WARM_S = 5.0
_SETTLE_S = 10.0
_IDLE_S = 30.0
_SECONDS = 60.0
# Fewer seconds tell nothing of the slowest hundredth.
_SECONDS_MIN = 3.0
_SEEN_S_MAX = 120.0


class Latency(NamedTuple):
    """`rate` transactions a second, for a minute: from before the commit on the source until another session sees it.

    Each has a connector and topics of its own, and starts without a backlog.
    """

    name: str
    says: str
    rate: int
    appliers: tuple[Contestant, ...]
    pairs: tuple[Pair, ...]

    @property
    def contestants(self) -> Mapping[str, bool]:
        return taking_part(self.appliers)

    def prepare(self, stage: Stage, scale: float, tell: Tell) -> Callable[[str], Outcome]:
        shape = ticks()
        seconds = max(_SECONDS_MIN, _SECONDS * min(1.0, scale))
        return partial(self._run, stage, shape, _prepared(stage, shape, tell), seconds)

    def _run(self, stage: Stage, shape: Shape, prepared: Prepared, seconds: float, name: str) -> Outcome:
        (contestant,) = (one for one in self.appliers if one.name == name)
        with streaming(stage, shape, prepared, contestant) as (database, applying):
            replica = stage.replica(database)
            with Probe(replica) as probe:
                writers = _Writers(stage.source(prepared.database), self.rate, probe.placed)
                writers.write(round((_WARM_S + seconds) * self.rate), applying.look)
                until(lambda: probe.oldest_s() == 0, "all is seen", _SEEN_S_MAX)
            counted = [one for one in probe.seen if one.committed_at >= writers.begun + _WARM_S]
            stage.execute(stage.source(prepared.database), *map(mark, shape.tables))
            wait_for_marks(replica, shape, applying.look)
            equal = digest(replica, shape) == digest(stage.source(prepared.database), shape)
            return Outcome({**_latencies(counted), "transactions_per_s": round(writers.rate(), 1)}, equal)


class Idle(NamedTuple):
    """The connector streams and nothing is written: CPU over 30 s, after 10 s of settling."""

    name: str
    says: str
    appliers: tuple[Contestant, ...]
    pairs: tuple[Pair, ...]

    @property
    def contestants(self) -> Mapping[str, bool]:
        return taking_part(self.appliers)

    def prepare(self, stage: Stage, scale: float, tell: Tell) -> Callable[[str], Outcome]:
        del scale  # nothing is nothing
        shape = ticks()
        return partial(self._run, stage, shape, _prepared(stage, shape, tell))

    def _run(self, stage: Stage, shape: Shape, prepared: Prepared, name: str) -> Outcome:
        (contestant,) = (one for one in self.appliers if one.name == name)
        with streaming(stage, shape, prepared, contestant) as (database, applying):
            time.sleep(_SETTLE_S)
            meter = stage.meter(applying.service)
            time.sleep(_IDLE_S)
            cost = meter.read()
            applying.look()
            equal = digest(stage.replica(database), shape) == digest(stage.source(prepared.database), shape)
            return Outcome(cost.share(), equal)


def _prepared(stage: Stage, shape: Shape, tell: Tell) -> Prepared:
    return prepare(stage, shape, tell, ["json"])


@contextmanager
def streaming(stage: Stage, shape: Shape, prepared: Prepared, contestant: Contestant) -> Iterator[tuple[str, Applying]]:
    """A replica that is equal, whose connector and applier run, and have brought a first row."""
    source = stage.source(prepared.database)
    rows = max(prepared.rows.values())
    stage.execute(
        source, *(f"DELETE FROM {SCHEMA}.{table} WHERE id NOT BETWEEN 1 AND {rows}" for table in shape.tables)
    )
    with ExitStack() as held:
        database = held.enter_context(stage.replica_copy(prepared.base))
        task = Task(prepared, database, "", None, {})
        if contestant.form is not None:
            capture = held.enter_context(capturing(stage, prepared.database, shape.tables, form=contestant.form))
            capture.start()
            stage.wait_for_slot(capture.name, "active AND confirmed_flush_lsn IS NOT NULL", capture.look)
            task = task._replace(prefix=capture.name)
        applying = held.enter_context(contestant.applying(stage, task))
        applying.begin()
        stage.execute(source, *map(mark, shape.tables))
        wait_for_marks(stage.replica(database), shape, applying.look)
        stage.execute(source, *(f"DELETE FROM {SCHEMA}.{table} WHERE id < 0" for table in shape.tables))
        yield database, applying


class _Writers:
    """Threads that each insert an order and pay their previous one, in one transaction, at a common rate."""

    def __init__(self, dsn: str, rate: int, placed: Callable[[int, float], None]) -> None:
        self.begun = 0.0
        self._dsn, self._rate, self._placed = dsn, rate, placed
        self._stopped = threading.Event()
        self._count = 0
        self._seconds = 0.0

    def write(self, transactions: int, look: Callable[[], None]) -> None:
        """Commit so many. Raises what a writer failed with, and what `look` raises."""
        self.begun = time.monotonic()
        self._count = transactions
        with ThreadPoolExecutor(_THREADS) as pool:
            try:
                running = [pool.submit(self._write, thread) for thread in range(_THREADS)]
                while not _are_done(running):
                    look()
                    time.sleep(0.5)
            finally:
                self._stopped.set()
        self._seconds = time.monotonic() - self.begun

    def rate(self) -> float:
        """Transactions per second that were committed indeed."""
        return self._count / self._seconds

    def _write(self, thread: int) -> None:
        with psycopg.connect(self._dsn) as connection:
            for number in range(thread, self._count, _THREADS):
                self._stopped.wait(self.begun + number / self._rate - time.monotonic())
                if self._stopped.is_set():
                    return
                order = ticks().rows + 1 + number
                connection.execute("INSERT INTO shop.orders VALUES (%s, 'new', 9.99, clock_timestamp())", [order])
                connection.execute("UPDATE shop.orders SET status = 'paid' WHERE id = %s", [order - _THREADS])
                at = time.monotonic()
                connection.commit()
                self._placed(order, at)


def _are_done(running: Sequence[Future[None]]) -> bool:
    done = [one for one in running if one.done()]
    for one in done:
        one.result()
    return len(done) == len(running)


def _latencies(seen: Sequence[Seen]) -> dict[str, float]:
    found = [one.latency_s * 1000 for one in seen]
    hundredths = statistics.quantiles(found, n=100, method="inclusive")
    figures = {"p50_ms": hundredths[49], "p99_ms": hundredths[98], "max_ms": max(found)}
    return {**{name: round(value, 2) for name, value in figures.items()}, "seen": len(found)}
