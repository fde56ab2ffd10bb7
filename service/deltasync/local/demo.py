"""The whole synchronisation once, on real parts: start, fill, capture, change, apply, compare, measure."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec
import psycopg

from deltasync.errors import PartError
from deltasync.local.load import RATE_PER_S, Load
from deltasync.local.measure import Measure, Sample, failed, refuse_dead_parts
from deltasync.local.probe import Probe, Seen
from deltasync.local.process import Process
from deltasync.local.shop import Size, fill
from deltasync.local.stack import SCHEMA, Stack
from deltasync.verify.compare import TableComparison, compare

_POLL_S = 0.05
_SLOT_TIMEOUT_S = 60.0
# What `Stack.up` tells of.
_STEPS = ("servers", "setup", "applier and connector")


class Bar(StrEnum):
    """What progress is shown of."""

    PARTS = "starting the parts"
    FILL = "filling the source"
    SNAPSHOT = "snapshot on the replica"
    LOAD = "transactions committed"
    LAG = "lag"


class Show(Protocol):
    """Hears of progress: `done` of `total`, and a few words where there is more to say."""

    def __call__(self, bar: Bar, done: float, total: float, note: str = "") -> None: ...


class Scale(NamedTuple):
    """How large a demo is."""

    size: Size
    transactions: int


class Latency(msgspec.Struct, frozen=True):
    """From just before the commit of an order on the source until a session of its own saw it on the replica.

    Over so many `orders` as were placed at a steady rate of transactions after the replica had caught up.
    """

    p50_ms: float
    p99_ms: float
    orders: int
    transactions_per_s: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a demo has found. A change is a row inserted, updated or deleted; a new key counts as two, as in Debezium.

    `backlog_per_s`: rows and changes applied per second until the replica had caught up for the first time.
    `latency` is that of the time after. `lag_max` (changes) and `lag_seconds_max` are over the whole run.
    """

    rows: int
    transactions: int
    changes: int
    backlog_per_s: float
    latency: Latency | None
    lag_max: int
    lag_seconds_max: float
    applier_memory_mb: float | None
    phases_s: dict[str, float]
    tables: list[TableComparison]

    @property
    def is_equal(self) -> bool:
        return all(table.is_equal for table in self.tables)


class Curve(NamedTuple):
    """What the picture shows: every sample, every order seen, and when the steady part began."""

    samples: Sequence[Sample]
    seen: Sequence[Seen]
    steady_at: float


def run(scale: Scale, stack: Stack, show: Show) -> tuple[Report, Curve]:
    """Run a demo on a stack, which is left running: ending it is up to the caller. Blocks.

    Half of the transactions are committed while the snapshot is applied; the others after the replica has caught
    up, so that their latency is not that of a backlog. Raises PartError naming the part that failed.
    """
    try:
        return _run(scale, stack, show)
    except psycopg.Error as error:
        refuse_dead_parts(stack.folder)
        raise failed(stack.folder, error) from error


def _run(scale: Scale, stack: Stack, show: Show) -> tuple[Report, Curve]:
    phases = _Phases()
    _start(stack, scale.size, phases, show)
    env = stack.env()
    source, replica = env["DELTASYNC_SOURCE_ADMIN_DSN"], env["DELTASYNC_REPLICA_ADMIN_DSN"]
    with (
        psycopg.connect(replica, autocommit=True) as session,
        Probe(replica) as probe,
        Load(source, scale.size, probe.placed) as load,
    ):
        measure = Measure(stack.folder, session, scale.size.rows())
        phases.begin("snapshot and changes")
        _wait_for_slot(source)
        _apply_backlog(scale, measure, load, probe, show)
        steady_at, caught_up = time.monotonic(), len(measure.samples)
        phases.begin("steady changes")
        _apply_steadily(scale, measure, load, probe, show)
    phases.begin("waiting")
    stack.command("wait")
    phases.begin("comparing")
    tables = list(compare(source, replica, schemas=[SCHEMA], publication="deltasync"))
    curve = Curve(measure.samples, probe.seen, steady_at)
    return Report(
        rows=sum(scale.size.rows().values()),
        transactions=load.transactions,
        changes=load.records,
        backlog_per_s=_rate(measure.samples[:caught_up]),
        latency=_latency(curve),
        lag_max=max(sample.lag for sample in curve.samples),
        lag_seconds_max=max((one.latency_s for one in curve.seen), default=0.0),
        applier_memory_mb=Process("applier", stack.folder).peak_mb(),
        phases_s=phases.seconds(),
        tables=tables,
    ), curve


def _start(stack: Stack, size: Size, phases: _Phases, show: Show) -> None:
    rows = sum(size.rows().values())
    names = iter(_STEPS)

    def tell(doing: str) -> None:
        name = next(names)
        phases.begin(name)
        show(Bar.PARTS, _STEPS.index(name), len(_STEPS), doing)

    def fill_source(env: dict[str, str]) -> None:
        phases.begin("filling")
        fill(env["DELTASYNC_SOURCE_ADMIN_DSN"], size, lambda filled: show(Bar.FILL, filled, rows))

    stack.up(tell, fill_source)
    show(Bar.PARTS, len(_STEPS), len(_STEPS), "all run")


def _wait_for_slot(source: str) -> None:
    """What is committed from now on is streamed, and not part of the snapshot: it can be counted."""
    made = "SELECT FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL"
    deadline = time.monotonic() + _SLOT_TIMEOUT_S
    with psycopg.connect(source, autocommit=True) as connection:
        while connection.execute(made).fetchone() is None:
            if time.monotonic() > deadline:
                raise PartError(f"Debezium has made no slot on the source within {_SLOT_TIMEOUT_S:.0f} s.", remedy="")
            time.sleep(_POLL_S)


def _apply_backlog(scale: Scale, measure: Measure, load: Load, probe: Probe, show: Show) -> None:
    rows = sum(scale.size.rows().values())

    def shown(sample: Sample) -> None:
        show(Bar.SNAPSHOT, sample.snapshot, rows)
        _show_load(scale, load, measure.samples, show)

    load.start(scale.transactions // 2)
    measure.until_applied(load, probe, shown)


def _apply_steadily(scale: Scale, measure: Measure, load: Load, probe: Probe, show: Show) -> None:
    load.start(scale.transactions - scale.transactions // 2)
    measure.until_applied(load, probe, lambda _: _show_load(scale, load, measure.samples, show))


def _show_load(scale: Scale, load: Load, samples: Sequence[Sample], show: Show) -> None:
    show(Bar.LOAD, load.transactions, scale.transactions)
    greatest = max(one.lag for one in samples)
    show(Bar.LAG, samples[-1].lag, greatest, f"{samples[-1].lag:,} changes, {samples[-1].lag_s:.2f} s")


def _latency(curve: Curve) -> Latency | None:
    steady = sorted(one.latency_s * 1000 for one in curve.seen if one.committed_at >= curve.steady_at)
    if not steady:
        return None
    return Latency(quantile(steady, 0.5), quantile(steady, 0.99), len(steady), RATE_PER_S)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _rate(samples: Sequence[Sample]) -> float:
    first, last = samples[0], samples[-1]
    return (last.applied - first.applied) / max(last.at - first.at, 1e-3)


class _Phases:
    """How long each part of a run takes."""

    def __init__(self) -> None:
        self._begun: list[tuple[str, float]] = []

    def begin(self, name: str) -> None:
        """The part before has ended, and this one begins."""
        self._begun.append((name, time.monotonic()))

    def seconds(self) -> dict[str, float]:
        """By name; the last part ends now."""
        ends = [*(at for _, at in self._begun[1:]), time.monotonic()]
        return {name: round(end - at, 1) for (name, at), end in zip(self._begun, ends, strict=True)}
