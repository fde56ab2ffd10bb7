"""What a piece of work costs: seconds, the CPU of each part, the most memory of what applies."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]  # it ships no types

from deltasync.local.process import Process


class Cost(msgspec.Struct, frozen=True):
    """`seconds` on the clock; `cpu_s` by part; `memory_mb` is the peak of the processes that apply, in 10^6 bytes."""

    seconds: float
    cpu_s: dict[str, float]
    memory_mb: float | None = None

    def per_change(self, changes: int) -> dict[str, float]:
        """The figures of a work of so many changes: a second, and CPU seconds for a million of them."""
        used = {**self.cpu_s, "postgresql": self.cpu_s["source"] + self.cpu_s["replica"]}
        return {
            "changes": changes,
            "seconds": round(self.seconds, 3),
            "per_s": round(changes / self.seconds, 1),
            **{f"cpu_{part}": round(seconds * 1e6 / changes, 3) for part, seconds in used.items()},
            **({} if self.memory_mb is None else {"memory_mb": self.memory_mb}),
        }

    def share(self) -> dict[str, float]:
        """The CPU of each part in percent of one core."""
        return {f"percent_{part}": round(100 * used / self.seconds, 2) for part, used in self.cpu_s.items()}


class Meter:
    """Runs from when it is made until `read`."""

    def __init__(self, parts: Mapping[str, Collection[Process]], memory_of: Collection[Process]) -> None:
        self._parts = parts
        self._memory_of = memory_of
        for process in memory_of:
            _forget_peak(process)
        self._before = self._cpu()
        self._started = time.monotonic()

    def read(self) -> Cost:
        """The cost so far."""
        seconds = time.monotonic() - self._started
        after = self._cpu()
        used = {part: round(after[part] - self._before[part], 2) for part in after}
        peaks = [peak for process in self._memory_of if (peak := process.peak_mb()) is not None]
        return Cost(seconds, used, round(sum(peaks), 1) if peaks else None)

    def _cpu(self) -> dict[str, float]:
        return {part: sum(map(_cpu_s, processes)) for part, processes in self._parts.items()}


def _cpu_s(process: Process) -> float:
    """Of a process, its children, and those of them that have ended."""
    leader = process.find()
    if leader is None:
        return 0.0
    total = 0.0
    for one in [leader, *leader.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            used = one.cpu_times()
            total += used.user + used.system + used.children_user + used.children_system
    return total


def _forget_peak(process: Process) -> None:
    """Have the peak of a process's memory begin anew (proc(5), clear_refs), where the system can."""
    leader = process.find()
    if leader is not None:
        with suppress(OSError):
            Path(f"/proc/{leader.pid}/clear_refs").write_text("5")
