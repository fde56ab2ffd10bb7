"""Never older: the rule that tells a re-emitted record from a new one."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.make import change

from deltasync import progress as rule
from deltasync.change import Change, Position
from deltasync.errors import RecordError
from deltasync.progress import Progress


def _at(seq0: int | None, seq1: int | None, committed_us: int, op: str = "u", **more: Any) -> Change:  # noqa: ANN401 - fields of Change
    return change(op, position=Position(seq0, seq1, committed_us), **more)


AT = rule.applied(Progress(4, (10, 10), 90), _at(20, 30, 100, key=7, offset=4))


@pytest.mark.parametrize(
    ("one", "older"),
    [
        (_at(20, 29, 100), True),
        (_at(19, 99, 90), True),
        (_at(20, 30, 100), False),
        (_at(20, 30, 100, key=7), True),
        (_at(20, 30, 101, key=7), False),
        (_at(20, 30, 100, "d", key=7), False),
        (_at(20, 31, 100), False),
        (_at(21, 1, 100), False),
        (_at(None, 1, 100), False),
        (_at(20, None, 100), False),
        (_at(19, 1, 90, "r"), False),
        (_at(19, 1, 90, "t"), False),
    ],
)
def test_is_older(one: Change, *, older: bool) -> None:
    """What stands below the watermark, or at it and was applied there; reads and truncates never are."""
    assert rule.is_older(AT, one) is older


def test_older_with_a_later_commit_stops() -> None:
    """The source's log was replaced: no order is known."""
    with pytest.raises(RecordError, match="replaced"):
        rule.is_older(AT, _at(19, 1, 101))


def test_nothing_is_older_than_the_beginning() -> None:
    """Without a watermark everything is new."""
    assert not rule.is_older(Progress(), _at(1, 1, 1))


def test_a_null_first_half_starts_a_new_watermark() -> None:
    """After an offsets or slot reset the log begins anew, and what follows is compared with that."""
    after = rule.applied(AT, _at(None, 5, 101, offset=5))

    assert after.watermark == (None, 5)
    assert not rule.is_older(after, _at(7, 3, 102))
    assert rule.is_older(after, _at(0, 4, 101))


def test_what_comes_again_behind_a_truncate_is_applied_again() -> None:
    """The truncate takes the watermark back; otherwise the rows behind it would be lost."""
    again = rule.applied(AT, _at(15, 16, 80, "t"))

    assert not rule.is_older(again, _at(15, 17, 80))


def test_incremental_reads_leave_the_watermark_alone() -> None:
    """They are taken between transactions, with a position that later changes may be below."""
    assert rule.applied(AT, _at(99, 99, 500, "r", snapshot="incremental")).watermark == AT.watermark


def test_the_commit_time_never_goes_back_and_is_not_a_snapshots() -> None:
    """A read carries the snapshot's clock."""
    assert rule.applied(AT, _at(20, 31, 90)).committed_us == 100
    assert rule.applied(AT, _at(20, 31, 120)).committed_us == 120
    assert rule.applied(AT, _at(None, 31, 999, "r")).committed_us == 100


def test_offsets() -> None:
    """Whatever becomes of a record, the next offset is the one behind it."""
    one = _at(1, 1, 1, offset=7)

    assert {found.next_offset for found in (rule.passed(AT, 7), rule.skipped(AT, one), rule.applied(AT, one))} == {8}
    assert rule.skipped(AT, one).skipped == 1


def test_what_shares_a_position_is_told_apart_by_op_and_key() -> None:
    """COPY and key changes put several changes at one position: each is skipped when it comes again, and no other."""
    group = [_at(21, 40, 110, op, key=key) for op, key in (("c", 1), ("c", 2), ("d", 3), ("c", 3))]
    progress = AT
    for one in group[:3]:
        assert not rule.is_older(progress, one)
        progress = rule.applied(progress, one)

    assert [rule.is_older(progress, one) for one in group] == [True, True, True, False]
    assert rule.applied(progress, _at(21, 41, 110, key=9)).tied != progress.tied
    assert not rule.is_older(rule.applied(progress, _at(21, 41, 110, key=9)), _at(21, 41, 110, key=1))


def test_a_snapshots_reads_are_not_remembered_one_by_one() -> None:
    """All of them share one position, and none is ever skipped."""
    progress = AT
    for key in range(5):
        progress = rule.applied(progress, _at(30, 50, 120, "r", key=key))

    assert progress.tied == ()


def test_where_positions_began_anew_what_may_be_again_is_told() -> None:
    """All up to there; what has a later first half, or was committed later, is new for certain."""
    first = rule.applied(Progress(), _at(None, 5, 90))
    again = rule.applied(AT, _at(None, 5, 90))

    assert not rule.may_be_again(Progress(), _at(None, 5, 90))
    assert not rule.may_be_again(first, _at(None, 6, 90))
    assert rule.may_be_again(first, _at(None, 5, 90))
    assert not rule.may_be_again(AT, _at(20, 31, 100))
    assert [rule.may_be_again(AT, _at(None, 5, at)) for at in (90, 100, 101)] == [True, True, False]
    assert [rule.may_be_again(again, _at(20, 50, at)) for at in (90, 100, 101)] == [True, True, False]
    assert not rule.may_be_again(again, _at(21, 50, 90))
    assert rule.applied(again, _at(30, 50, 120)).floor == (20, 100)
    assert rule.may_be_again(rule.anew(AT), _at(20, 30, 100))


def test_a_snapshot_in_front_of_the_stream_does_not_begin_positions_anew() -> None:
    """Its reads have no first half either, and nothing was streamed before them."""
    read = rule.applied(Progress(), _at(None, 5, 90, "r"))

    assert not rule.may_be_again(read, _at(None, 4, 90))
