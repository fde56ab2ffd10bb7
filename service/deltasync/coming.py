"""What has come of a transaction of the source that is not whole yet, and whether that is all of it: pure.

Debezium counts a transaction's changes, and its end tells how many there are. A connector that is restarted inside a
transaction sends the rest of it again and counts on; where it had come no further than the transaction's first place,
it may count what it repeats as new, so that all behind is numbered higher than before. So numbers only say whether all
has come, and compare within one run of the connector's task; what comes again is told by its place in the log.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from uuid import UUID

from deltasync.change import Partition
from deltasync.debezium.transaction import End

_BLOCK_BITS = 10
_BLOCK = 1 << _BLOCK_BITS
# The version of UUIDs that begin with milliseconds since 1970.
_WITH_TIME = 7


class Coming:
    """What has come of one transaction, partition by partition: one that is lost is forgotten, and comes again.

    `partitions` hold records of it that wait to be applied, and `truncates` tells whether one of them is a TRUNCATE.
    """

    __slots__ = ("_parts", "partitions", "truncates")

    def __init__(self) -> None:
        self._parts: dict[Partition, _Part] = {}
        self.partitions: dict[Partition, None] = {}
        self.truncates = False

    @property
    def rows(self) -> int:
        """How many of its records are in memory."""
        return sum(part.rows for part in self._parts.values())

    @property
    def is_repeated(self) -> bool:
        """True where more than one run of the connector sent it."""
        return len(self._runs()) > 1

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self._parts.values())

    def is_new(self, partition: Partition, lsn: int, what: Hashable) -> bool:
        """True for a change that the partition has not had, and has from now on.

        A connector repeats changes in their order, and their places in the log only grow within a transaction: what
        stands before the last one has come. Several may share a place; `what` tells them apart.
        """
        return self._part(partition).is_new(lsn, what)

    def count(self, partition: Partition, run: str, number: int) -> None:
        """A change has come, whether it is new or not."""
        self._part(partition).numbers(run).add(number)

    def hold(self, partition: Partition, size: int, *, truncates: bool) -> None:
        """A record waits to be applied, of so many bytes."""
        part = self._part(partition)
        part.rows += 1
        part.bytes += size
        self.partitions[partition] = None
        self.truncates |= truncates

    def left(self, partition: Partition, size: int) -> None:
        """A record is not in memory any more."""
        part = self._part(partition)
        part.rows -= 1
        part.bytes -= size

    def forget(self, partition: Partition) -> None:
        """All that has come from a partition will come again."""
        self.partitions.pop(partition, None)
        self._parts.pop(partition, None)

    def missing(self, end: End) -> int:
        """The highest number of a change that has not come, by what this end counts; 0 where all of them have.

        The end counts as its own run does, which is the last one that had begun when it was sent. From its number
        down, a run tells what has come until a number is missing; from there on the run before it does, back to the
        one that told the transaction's begin. Each of them counts no higher than the next one, so that its numbers
        reach as far, or further: this is also right where a run did not deliver all. A run that has every number from
        1 on sent the whole transaction, whatever the clocks say.
        """
        runs = sorted(self._runs())
        alone = [self._missing(end.changes, [run]) for run in runs]
        if len(runs) == 1 or 0 in alone:
            return min(alone)
        first = max((run for run in runs if (began_ms(run) or 0) <= end.begun_ms), default="")
        return self._missing(end.changes, [run for run in runs if run >= first and (began_ms(run) or 0) <= end.sent_ms])

    def _runs(self) -> set[str]:
        return {run for part in self._parts.values() for run in part.runs}

    def _missing(self, number: int, runs: Sequence[str]) -> int:
        """The highest number, from this one down, that no run tells of: the last one is asked first."""
        for run in reversed(runs):
            number = highest_missing(number, [part.runs[run] for part in self._parts.values() if run in part.runs])
        return number

    def _part(self, partition: Partition) -> _Part:
        found = self._parts.get(partition)
        if found is None:
            found = self._parts[partition] = _Part()
        return found


class _Part:
    """What has come from one partition: numbers by run, and the last place with what stands there."""

    __slots__ = ("_first", "_lsn", "_others", "bytes", "rows", "runs")

    def __init__(self) -> None:
        self.rows = self.bytes = 0
        self.runs: dict[str, Numbers] = {}
        self._lsn = 0
        self._first: Hashable = None
        self._others: set[Hashable] = set()

    def numbers(self, run: str) -> Numbers:
        found = self.runs.get(run)
        if found is None:
            found = self.runs[run] = Numbers()
        return found

    def is_new(self, lsn: int, what: Hashable) -> bool:
        if lsn > self._lsn:
            self._lsn, self._first = lsn, what
            self._others.clear()
            return True
        if lsn < self._lsn or what == self._first or what in self._others:
            return False
        self._others.add(what)
        return True


class Numbers:
    """A set of numbers from 1 on, a bit for each."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}

    def add(self, number: int) -> None:
        block = number >> _BLOCK_BITS
        self._blocks[block] = self._blocks.get(block, 0) | 1 << (number & _BLOCK - 1)

    def block(self, block: int) -> int:
        return self._blocks.get(block, 0)


def highest_missing(number: int, sets: Sequence[Numbers]) -> int:
    """The highest number, from this one down, that none of the sets has; 0 where they have all from 1 on."""
    block, bit = number >> _BLOCK_BITS, number & _BLOCK - 1
    while block >= 0:
        known = 0
        for one in sets:
            known |= one.block(block)
        missing = ~known & ((2 << bit) - 1)
        if missing:
            return (block << _BLOCK_BITS) + missing.bit_length() - 1
        block, bit = block - 1, _BLOCK - 1
    return 0


@lru_cache(maxsize=1000)
def began_ms(run: str) -> int | None:
    """When a run of the connector's task began, in milliseconds since 1970: its id is a UUID of version 7 (RFC 9562).

    None for what is no such id.
    """
    try:
        found = UUID(run)
    except ValueError:
        return None
    return found.int >> 80 if found.version == _WITH_TIME else None
