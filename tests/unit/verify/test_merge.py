"""Two sorted streams of rows, compared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deltasync.verify.merge import Tally, merge


def _merge(source: list[bytes], replica: list[bytes], keys: int = 1, columns: tuple[str, ...] = ("a", "b")) -> Tally:
    return merge(iter(source), iter(replica), keys, columns)


def test_equal_rows() -> None:
    rows = [b"1\tx\ty\n", b"10\tx\t\\N\n", b"2\t\ty\n"]

    assert _merge(rows, rows) == Tally(equal=3)


def test_empty_sides() -> None:
    assert _merge([], []) == Tally()
    assert _merge([b"1\tx\ty\n"], []) == Tally(missing=1)
    assert _merge([], [b"1\tx\ty\n", b"2\tx\ty\n"]) == Tally(extra=2)


def test_each_kind_of_difference_is_counted_once() -> None:
    source = [b"1\tx\ty\n", b"2\tx\ty\n", b"3\tx\ty\n", b"5\tx\ty\n"]
    replica = [b"1\tx\ty\n", b"3\tx\tz\n", b"4\tx\ty\n", b"5\tx\ty\n"]

    assert _merge(source, replica) == Tally(equal=2, differing=1, missing=1, extra=1, columns={"b"})


def test_null_is_not_the_text_that_stands_for_it() -> None:
    assert _merge([b"1\t\\N\ty\n"], [b"1\t\\\\N\ty\n"]).columns == {"a"}


def test_keys_of_several_columns_are_compared_in_order() -> None:
    source = [b"1\t2\tx\n", b"10\t1\tx\n"]
    replica = [b"1\t3\tx\n", b"10\t1\tx\n"]

    assert _merge(source, replica, keys=2, columns=("a",)) == Tally(equal=1, missing=1, extra=1)


def test_escaped_keys_sort_as_what_they_stand_for() -> None:
    # A tab sorts before a letter, its escape (a backslash) behind upper-case letters.
    source = [b"A\\tZ\tx\n", b"AA\tx\n"]
    replica = [b"AA\tx\n"]

    assert _merge(source, replica, columns=("a",)) == Tally(equal=1, missing=1)


def test_equal_rows_without_a_key_are_counted_one_by_one() -> None:
    row = b"(1,x)\t1\tx\n"

    assert _merge([row, row, row], [row, row]) == Tally(equal=2, missing=1)


_sides = st.dictionaries(st.integers(0, 30), st.tuples(st.integers(0, 3), st.integers(0, 3)))


@given(_sides, _sides)
def test_counts_are_those_of_sets(source: dict[int, tuple[int, int]], replica: dict[int, tuple[int, int]]) -> None:
    def rows(side: dict[int, tuple[int, int]]) -> list[bytes]:
        return sorted(
            (f"{key}\t{a}\t{b}\n".encode() for key, (a, b) in side.items()), key=lambda row: row.split(b"\t")[0]
        )

    both = source.keys() & replica.keys()
    tally = _merge(rows(source), rows(replica))

    assert tally.equal == sum(source[key] == replica[key] for key in both)
    assert tally.differing == sum(source[key] != replica[key] for key in both)
    assert tally.missing == len(source.keys() - replica.keys())
    assert tally.extra == len(replica.keys() - source.keys())


def test_memory_does_not_grow_with_the_rows() -> None:
    alive = 0
    most = 0

    class Row(bytes):
        def __init__(self, _row: bytes) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    left, right = ((Row(b"%d\tx\ty\n" % key) for key in range(10_000, 99_999, step)) for step in (7, 11))
    merge(left, right, 1, ("a", "b"))

    assert most < 10
