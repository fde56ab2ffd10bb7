"""Never twice: which changes of a table without a key were applied before, and where nothing tells."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.make import change

from deltasync import keyless as rule
from deltasync.change import Change, Position
from deltasync.errors import RecordError
from deltasync.progress import Progress, anew, placed


def _at(  # noqa: PLR0913, PLR0917 - a position, and a number in a transaction
    seq0: int | None,
    seq1: int | None,
    committed_us: int = 100,
    op: str = "c",
    transaction: str | None = "7",
    order: int | None = 3,
    **more: Any,  # noqa: ANN401 - fields of Change
) -> Change:
    position = Position(seq0, seq1, committed_us)
    return change(op, position=position, transaction=transaction, order=order, **{"run": "1", **more})


def _read(seq1: int, snapshot: str, **more: Any) -> Change:  # noqa: ANN401 - fields of Change
    return _at(None, seq1, 0, "r", None, None, snapshot=snapshot, **more)


def _after(*changes: Change) -> Progress:
    progress = Progress()
    for one in changes:
        progress = rule.applied(progress, one._replace(begins=rule.begins(progress, one)))
    return progress


AT = _after(_at(20, 30))
# Three rows of a COPY, two of which are equal.
_COPY = [_at(20, 30, order=n, row={"a": text}) for n, text in enumerate("xxy", 3)]
COPY = _after(*_COPY)


def _sent(order: int, text: str, run: str = "2", **more: Any) -> Change:  # noqa: ANN401 - fields of Change
    return _at(20, 30, order=order, row={"a": text}, run=run, **more)


@pytest.mark.parametrize(
    ("one", "again"),
    [
        (_at(20, 30, order=3), True),
        (_at(20, 30, order=3, run="2"), True),
        (_at(20, 30, order=4), False),
        (_at(20, 29, order=9), True),
        (_at(None, 29, order=9), True),
        (_at(None, 31, order=4), False),
        (_at(19, 99, 90, transaction="6", order=9), True),
        (_at(20, 31, order=1), False),
        (_at(21, 1, transaction="8", order=1), False),
        (_at(20, 29, op="t", order=2), True),
        (_at(20, 30, op="d", order=4, before=b"{}"), False),
        (_at(20, 29, 0, "r"), False),
    ],
)
def test_a_change_is_known_by_its_place_and_its_number(one: Change, *, again: bool) -> None:
    assert rule.is_again(AT, one) is again


@pytest.mark.parametrize(
    ("one", "again"),
    [
        (_sent(3, "x"), True),
        (_sent(5, "y"), True),
        (_sent(6, "z"), False),
        (_sent(6, "y", run="1"), False),
        (_sent(6, "x", run="1"), False),
    ],
)
def test_another_run_goes_on_with_what_is_like_nothing_that_was_applied(one: Change, *, again: bool) -> None:
    assert rule.is_again(COPY, one) is again


@pytest.mark.parametrize("one", [_sent(6, "y"), _sent(6, "x"), _sent(9, "y")])
def test_a_row_under_a_new_number_that_may_be_one_of_those_stops(one: Change) -> None:
    """A connector that was restarted in a transaction's first place may send its last row under the next number."""
    with pytest.raises(RecordError, match="may have been applied before") as caught:
        rule.is_again(COPY, one)
    assert "deltasync ledger set p.shop.t 0 OFFSET" in (caught.value.remedy or "")


@pytest.mark.parametrize("one", [_sent(4, "y"), _sent(5, "x"), _sent(2, "x"), _sent(4, "x", op="u", before=b"{}")])
def test_numbers_that_have_shifted_stop(one: Change) -> None:
    with pytest.raises(RecordError, match="has the number of another change"):
        rule.is_again(COPY, one)


def test_several_restarts_shift_by_more_than_one() -> None:
    """What was skipped of the run between them changes nothing: only what was applied is compared."""
    rows = _after(*(_sent(n, text, "1") for n, text in enumerate("abbbb", 1)))
    for order in (4, 5):
        assert rule.is_again(rows, _sent(order, "b", "2"))
    with pytest.raises(RecordError, match="may have been applied before"):
        rule.is_again(rows, _sent(6, "b", "3"))


def _began(*, first: int, rows: int, run: str = "1") -> Progress:
    """So many rows at a transaction's first place, and one at the next."""
    place = [_at(20, 29, order=n, row={"a": "x"}, run=run) for n in range(first, first + rows)]
    return _after(*place, _sent(first + rows, "y", run))


def test_a_run_that_begins_behind_the_first_place_numbers_as_the_one_before_it() -> None:
    began = _began(first=1, rows=3)

    assert not rule.is_again(began, _sent(5, "y"))
    again = rule.skipped(began, _sent(4, "y"))
    assert (again.next_offset, again.skipped) == (1, 1)
    assert not rule.is_again(again, _sent(5, "y"))
    assert not rule.is_again(rule.applied(again, _sent(5, "y", "2")), _sent(6, "y", "3"))


def test_a_run_that_sends_the_transaction_from_its_begin_numbers_alike() -> None:
    again = rule.skipped(_began(first=1, rows=3), _at(20, 29, order=1, row={"a": "x"}, run="2"))

    assert not rule.is_again(again, _sent(5, "y"))


@pytest.mark.parametrize(
    "progress",
    [
        rule.skipped(_began(first=1, rows=3), _at(20, 29, order=3, row={"a": "x"}, run="2")),
        rule.skipped(
            rule.skipped(_began(first=1, rows=3), _at(20, 29, order=3, row={"a": "x"}, run="2")),
            _at(20, 29, order=3, row={"a": "x"}, run="3"),
        ),
        placed(_began(first=1, rows=3), 8),
        rule.skipped(placed(_began(first=1, rows=3), 8), _sent(4, "y")),
        _began(first=2, rows=3),
        _after(_at(20, 29, op="t", order=1), _sent(3, "y", "1")),
    ],
    ids=[
        "it began in it",
        "so did a later one",
        "moved by hand",
        "and skipped",
        "another partition has it",
        "so may one",
    ],
)
def test_one_that_may_have_begun_in_the_first_place_is_doubted(progress: Progress) -> None:
    with pytest.raises(RecordError, match="may have been applied before"):
        rule.is_again(progress, _sent(9, "y"))


def test_a_run_that_goes_on_from_one_in_doubt_is_doubted() -> None:
    """Wherever it begins: the number that is stored with an offset may be too high by then."""
    again = rule.skipped(_began(first=1, rows=3), _at(20, 29, order=4, row={"a": "x"}, run="2"))

    assert not rule.is_again(again, _sent(5, "z", "3"))
    with pytest.raises(RecordError, match="may have been applied before"):
        rule.is_again(again, _sent(5, "y", "3"))


def test_an_operator_vouches_for_one_record_and_its_transaction_goes_on() -> None:
    for offset in (5, 7):
        moved = placed(COPY._replace(next_offset=5), offset)
        assert rule.is_again(moved, _sent(5, "y", offset=offset))
        assert not rule.is_again(moved, _sent(6, "y", offset=offset))
        assert not rule.is_again(moved, _sent(4, "y", offset=offset))
        with pytest.raises(RecordError):
            rule.is_again(moved, _sent(6, "y", offset=offset + 1))
        after = rule.applied(moved, _sent(6, "y", offset=offset))
        assert not rule.is_again(after, _sent(7, "y", offset=offset + 1))
        assert rule.is_again(after, _sent(6, "y", "3"))


def test_behind_a_number_that_was_vouched_for_only_the_smaller_ones_are_known() -> None:
    after = rule.applied(placed(COPY, 1), _sent(4, "y", offset=1))

    assert rule.is_again(after, _sent(3, "x"))
    assert rule.is_again(after, _sent(4, "y"))
    assert not rule.is_again(after, _sent(5, "x"))


def test_so_much_is_remembered_and_what_is_not_stops() -> None:
    progress = _after(*(_sent(n, str(n), "1") for n in range(1, 1102)))
    assert len(progress.tied) == 1001
    assert rule.is_again(progress, _sent(102, "102"))
    with pytest.raises(RecordError, match="has the number of another change"):
        rule.is_again(progress, _sent(101, "101"))


def test_the_first_transaction_has_no_first_halves() -> None:
    first = _after(_read(10, "last_in_data_collection"), _at(None, 30))

    assert rule.is_again(first, _at(None, 12, order=1))
    assert rule.is_again(first, _at(29, 12, order=1))
    assert rule.is_again(first, _at(None, 30, order=3))
    assert not rule.is_again(first, _at(None, 30, order=4))
    assert not rule.is_again(first, _at(None, 40, order=5))
    assert not rule.is_again(first, _at(35, 40, 101, transaction="8", order=1))
    assert not rule.is_again(_after(_read(10, "first")), _at(None, 5, order=1))  # it began before the snapshot


@pytest.mark.parametrize(
    ("progress", "one", "why"),
    [
        (AT, _at(20, 31, order=None), "does not tell its number"),
        (AT, _at(20, 31, transaction=None), "does not tell its number"),
        (AT, _at(20, None), "does not tell its number"),
        (AT, _at(20, 31, run=""), "which run of the connector"),
        (AT, _at(None, 50, transaction="8"), "the connector began anew"),
        (AT, _at(None, 50, 99, transaction="8"), "the connector began anew"),
        (anew(AT), _at(20, 30, 100), "the connector began anew"),
        (AT._replace(tied=()), _at(20, 30), "the connector began anew"),
        (AT, _at(20, 30, transaction="8"), "the connector began anew"),
        (AT, _at(20, 29, 101), "the source's log was replaced"),
    ],
)
def test_what_nothing_tells_stops(progress: Progress, one: Change, why: str) -> None:
    with pytest.raises(RecordError, match=why) as caught:
        rule.is_again(progress, one)
    assert caught.value.remedy


def test_what_was_committed_later_is_new_where_positions_begin_anew() -> None:
    assert not rule.is_again(AT, _at(None, 5, 101, transaction="8", order=1))
    assert not rule.is_again(anew(AT), _at(30, 5, 101))


@pytest.mark.parametrize(
    ("before", "one", "begins"),
    [
        ((), _read(10, "first"), True),
        ((_read(10, "first"),), _read(10, "true"), False),
        ((_read(10, "first"), _read(10, "true")), _read(10, "last_in_data_collection"), False),
        ((_read(10, "first"), _read(10, "true")), _read(10, "first"), True),
        ((_read(10, "first"), _read(10, "true")), _read(10, "first_in_data_collection"), True),
        ((_read(10, "first"),), _read(11, "last"), True),
        ((_read(10, "last_in_data_collection"),), _read(10, "last_in_data_collection"), True),
        ((_read(10, "last"),), _read(10, "last"), True),
    ],
)
def test_where_a_snapshot_begins(before: tuple[Change, ...], one: Change, *, begins: bool) -> None:
    assert rule.begins(_after(*before), one) is begins


def test_a_snapshot_behind_changes_stops_until_somebody_looked_at_it() -> None:
    after = _after(_read(10, "first"), _at(20, 30))
    for one in (_read(40, "first"), _read(40, "true")):
        with pytest.raises(RecordError, match=r"reads shop\.t again"):
            rule.begins(after, one)

    moved = placed(after._replace(next_offset=9), 9)
    assert rule.begins(moved, _read(40, "first", offset=9))
    again = rule.applied(moved, _read(40, "first", offset=9, begins=True))
    assert (again.watermark, again.committed_us, again.floor) == ((None, 40), None, None)
    assert not rule.begins(again, _read(40, "true"))


def test_a_snapshot_that_does_not_begin_with_its_first_row_stops() -> None:
    for progress in (Progress(), _after(_read(9, "first"))):
        with pytest.raises(RecordError, match="not the first one"):
            rule.begins(progress, _read(10, "true"))


def test_a_step_over_something_leaves_the_snapshot_as_it_was() -> None:
    assert not rule.begins(placed(_after(_read(10, "first")), 9), _read(10, "true"))


def test_incremental_snapshots_stop() -> None:
    with pytest.raises(RecordError, match="incremental snapshot"):
        rule.begins(AT, _read(10, "incremental"))


def test_the_row_before_a_change_has_to_be_there() -> None:
    for op in "ud":
        with pytest.raises(RecordError, match=r"does not tell what a row of shop\.t was"):
            rule.told(change(op), "1")
    assert rule.told(change("d", before=b"{}"), "1").run == "1"
