"""What a demo measures while it runs: how much is applied, and how far behind the replica is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import psycopg

from deltasync.errors import PartError
from deltasync.local import state as states
from deltasync.local.load import Load
from deltasync.local.probe import Probe
from deltasync.local.process import Process

_SAMPLE_S = 0.1
# Longer than Connect takes to start a task, or the applier to be given its partitions, on a busy machine.
_STALLED_S = 90.0
_LOG_LINES = 15


class Sample(NamedTuple):
    """One look: `at` is `time.monotonic()`; `applied` row changes, `lag` such that are committed and not applied.

    `snapshot` is how many of the rows of the start have been applied; `lag_s` the age of the oldest order that is
    not visible on the replica yet.
    """

    at: float
    snapshot: int
    applied: int
    lag: int
    lag_s: float


class Measure:
    """Samples of a running demo; `samples` are all that were taken."""

    def __init__(self, folder: Path, replica: psycopg.Connection, rows: Mapping[str, int]) -> None:
        self.samples: list[Sample] = []
        self._folder = folder
        self._replica = replica
        self._rows = rows

    def until_applied(self, load: Load, probe: Probe, show: Callable[[Sample], None]) -> None:
        """Sample until all is committed, applied and seen. Raises PartError where a part has ended or nothing moves."""
        moved_at, applied = time.monotonic(), -1
        while True:
            sample = self._sample(load, probe)
            self.samples.append(sample)
            show(sample)
            if load.is_done() and not sample.lag and not sample.lag_s:
                return
            refuse_dead_parts(self._folder)
            if sample.applied != applied:
                moved_at, applied = sample.at, sample.applied
            elif sample.lag and sample.at - moved_at > _STALLED_S:
                raise self._stalled()
            time.sleep(_SAMPLE_S)

    def _sample(self, load: Load, probe: Probe) -> Sample:
        # One partition per table, and its snapshot comes first in it.
        found = self._replica.execute("SELECT split_part(topic, '.', 3), next_offset FROM deltasync.ledger").fetchall()
        offsets = {table: offset for table, offset in found if table in self._rows}
        applied = sum(offsets.values())
        return Sample(
            at=time.monotonic(),
            snapshot=sum(min(offset, self._rows[table]) for table, offset in offsets.items()),
            applied=applied,
            lag=max(0, sum(self._rows.values()) + load.records - applied),
            lag_s=probe.oldest_s(),
        )

    def _stalled(self) -> PartError:
        ends = "\n".join(_end_of(Process(part, self._folder)) for part in ("connect", "applier"))
        return PartError(f"Nothing was applied for {_STALLED_S:.0f} s, though the replica is behind. {ends}", remedy="")


def refuse_dead_parts(folder: Path) -> None:
    """Raise PartError where a part of the stack has ended."""
    for part in states.PARTS:
        process = Process(part, folder)
        if process.find() is None:
            raise PartError(f"The part {part} has ended. {_end_of(process)}", remedy="")


def failed(folder: Path, error: psycopg.Error) -> PartError:
    """What to say where a database turned a statement of the demo down, or went away."""
    ends = "\n".join(_end_of(Process(part, folder)) for part in ("source", "replica"))
    return PartError(
        f"A database failed the demo: {type(error).__name__} (SQLSTATE {error.sqlstate}). {ends}", remedy=""
    )


def _end_of(process: Process) -> str:
    return f"The end of {process.log}:\n{process.tail(_LOG_LINES)}"
