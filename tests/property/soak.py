"""`make soak`: any number of seeds against the replica in memory, with progress. Exits 1 at the first that fails."""

from __future__ import annotations

import sys
import time

from tests.property.scenario import scenario
from tests.property.shrink import failure, report, watched

_TELL_EVERY_S = 5.0


def soak(first: int, count: int) -> int:
    """Run the seeds; returns the exit code."""
    started = told = time.monotonic()
    for done, seed in enumerate(range(first, first + count)):
        why = failure(scenario(seed))
        if why is not None:
            print(report(seed, why))  # noqa: T201 - a command's output
            return 1
        now = time.monotonic()
        if now - told > _TELL_EVERY_S:
            told = now
            print(f"{done + 1} of {count} seeds, {(done + 1) / (now - started):.0f} per second", flush=True)  # noqa: T201
    print(f"{count} seeds from {first} on: none fails")  # noqa: T201
    return 0


if __name__ == "__main__":
    with watched():
        sys.exit(soak(int(sys.argv[1]), int(sys.argv[2])))
