"""Never twice: which changes of a table without a key were applied before, and where nothing tells."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.make import change

from deltasync import keyless as rule
from deltasync.change import Change, Position
from deltasync.errors import RecordError
from deltasync.progress import Progress, anew


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
    return change(op, position=position, transaction=transaction, order=order, **more)._replace(key=None)


def _read(seq1: int, snapshot: str, **more: Any) -> Change:  # noqa: ANN401 - fields of Change
    return _at(None, seq1, 0, "r", None, None, snapshot=snapshot, **more)


def _after(*changes: Change) -> Progress:
    progress = Progress()
    for one in changes:
        begun = one.op == "r" and rule.begins(progress, one)
        progress = rule.applied(progress, one._replace(begins=begun))
    return progress


AT = _after(_at(20, 30))


@pytest.mark.parametrize(
    ("one", "again"),
    [
        (_at(20, 30, order=2), True),
        (_at(20, 30, order=3), True),
        (_at(20, 30, order=4), False),
        (_at(20, 29, order=9), True),
        (_at(19, 99, 90, order=9), True),
        (_at(20, 31, order=1), False),
        (_at(21, 1, order=1), False),
        (_at(20, 29, op="t", order=2), True),
        (_at(20, 30, op="d", order=4), False),
        (_at(20, 29, 0, "r"), False),
    ],
)
def test_a_change_is_known_by_its_position_and_its_number(one: Change, *, again: bool) -> None:
    assert rule.is_again(AT, one) is again


def test_the_first_transaction_has_no_first_halves() -> None:
    first = _after(_read(10, "last_in_data_collection"), _at(None, 30))

    assert rule.is_again(first, _at(None, 12, order=1))
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
        (AT, _at(None, 50), "the connector began anew"),
        (AT, _at(None, 50, 99, transaction="8"), "the connector began anew"),
        (anew(AT), _at(20, 30, 100), "the connector began anew"),
        (AT._replace(tied=()), _at(20, 30), "the connector began anew"),
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
        ((), _read(10, "true"), True),
        ((_read(10, "first"),), _read(10, "true"), False),
        ((_read(10, "first"), _read(10, "true")), _read(10, "last_in_data_collection"), False),
        ((_read(10, "first"), _read(10, "true")), _read(10, "first"), True),
        ((_read(10, "true"),), _read(10, "first_in_data_collection"), True),
        ((_read(10, "true"),), _read(11, "last"), True),
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

    assert rule.begins(anew(after), _read(40, "first"))
    again = rule.applied(anew(after), _read(40, "first", begins=True))
    assert (again.watermark, again.committed_us, again.floor, again.tied) == ((None, 40), None, None, ())
    assert not rule.begins(again, _read(40, "true"))


def test_incremental_snapshots_stop() -> None:
    with pytest.raises(RecordError, match="incremental snapshot"):
        rule.begins(AT, _read(10, "incremental", incremental=True))
