"""Rows are shared out without a gap, and nothing is in two parts."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from deltasync.bootstrap.parts import PART_BYTES, Part, Size, Tally, parts
from deltasync.table import TableId

T, U = TableId("shop", "t"), TableId("shop", "u")


@given(st.integers(0, 10_000), st.integers(0, 10**12))
def test_each_block_is_in_one_part(blocks: int, count: int) -> None:
    found = parts({T: Size(blocks, count)})

    assert (found[0].first, found[-1].end) == (0, None)
    assert all(one.end == next_.first and one.first < next_.first for one, next_ in pairwise(found))
    assert len(found) <= max(1, blocks)


def test_the_largest_table_is_first() -> None:
    assert parts({T: Size(2, 16384), U: Size(1000, 2 * PART_BYTES)}) == [
        Part(U, 0, 500, PART_BYTES),
        Part(U, 500, None, PART_BYTES),
        Part(T, 0, None, 16384),
    ]


def test_large_values_beside_the_table_count() -> None:
    """A few blocks may point to very much."""
    assert len(parts({T: Size(10, 5 * PART_BYTES)})) == 5


def test_what_is_told() -> None:
    assert str(Tally(7, 3, 8 * 2**30, 2 * 2**30, 12_345, 100.0)) == (
        "3 of 7 tables, 2,048 MB of 8,192 MB, 12,345 rows, about 5 min left"
    )
    assert str(Tally(1, 0, 2**20, 0, 0, 5.0)) == "0 of 1 tables, 0 MB of 1 MB, 0 rows"
    assert str(Tally(1, 0, 2**30, 2**20, 10, 60.0)).endswith("about 17 h 3 min left")
    assert str(Tally(1, 0, 2**30, 2**29, 10, 8.0)).endswith("about 8 s left")
