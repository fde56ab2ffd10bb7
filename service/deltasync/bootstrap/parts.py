"""How the rows of many tables are shared out, and how long the rest of them takes. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from deltasync.table import TableId

# Some seconds of work: each is a transaction on the replica, and what is left at the end keeps few jobs waiting.
PART_BYTES = 64 * 2**20


class Size(NamedTuple):
    """How large a table is: the blocks of its largest file, which one of its partitions has, and all of its bytes."""

    blocks: int
    bytes: int


class Part(NamedTuple):
    """The rows of a table in its blocks from `first` on, before `end`; None where nothing is behind them.

    Of a partitioned table, these blocks of every partition.
    """

    table: TableId
    first: int
    end: int | None
    bytes: int


def parts(sizes: Mapping[TableId, Size]) -> list[Part]:
    """All rows of these tables, each in one part: the largest table first, so that small ones fill what is left."""
    ordered = sorted(sizes.items(), key=lambda one: (-one[1].bytes, one[0]))
    return [part for table, size in ordered for part in _of_table(table, size)]


def _of_table(table: TableId, size: Size) -> list[Part]:
    count = max(1, min(size.blocks, math.ceil(size.bytes / PART_BYTES)))
    firsts = [size.blocks * number // count for number in range(count)]
    ends = [*firsts[1:], None]  # a table may have grown since it was measured
    return [Part(table, first, end, size.bytes // count) for first, end in zip(firsts, ends, strict=True)]


class Tally(NamedTuple):
    """How far a load is."""

    tables: int
    tables_done: int
    bytes: int
    bytes_done: int
    rows: int
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """At the pace until now; None where nothing tells."""
        if not self.bytes_done:
            return None
        return self.seconds * (self.bytes - self.bytes_done) / self.bytes_done

    def __str__(self) -> str:
        left = self.seconds_left
        told = "" if left is None else f", about {_duration(left)} left"
        return (
            f"{self.tables_done} of {self.tables} tables, {_size(self.bytes_done)} of {_size(self.bytes)}, "
            f"{self.rows:,} rows{told}"
        )


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MB"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes > 1 else f"{seconds:.0f} s"
