"""What the replica has to do."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.make import PLACEHOLDER, TABLE, change, compact_json, decoder

from deltasync.change import Change
from deltasync.compact import compact
from deltasync.errors import RecordError
from deltasync.plan import StaleDescriptionError, TablePlan, plan


def _plan(*changes: Change) -> TablePlan:
    decoders = {TABLE.id: decoder()}
    return plan(compact(changes, decoders), decoders)[0]


def test_upserts_and_deletes() -> None:
    """Deletes by key, upserts by row."""
    found = _plan(change("c"), change("d", 2), change("u", 3))

    assert found.deletes is not None
    assert found.deletes.values == [["2"]]
    assert [rows.values for rows in found.upserts] == [[["1", "3"], ["x", "x"], ["1.0", "1.0"]]]
    assert not found.updates


def test_a_missing_value_comes_from_the_older_row() -> None:
    """Of the same key in the same batch: then the row is whole, and an upsert."""
    found = _plan(change("c"), change("u", row={"id": 1, "a": PLACEHOLDER, "b": "2"}))

    assert [rows.values for rows in found.upserts] == [[["1"], ["x"], ["2"]]]
    assert not found.updates


def test_a_missing_value_that_nobody_has_leaves_the_column_alone() -> None:
    """An update of the other columns, which must find its row."""
    found = _plan(change("u", row={"id": 1, "a": PLACEHOLDER, "b": "2"}), change("u", 2))

    assert [(rows.columns, rows.values) for rows in found.updates] == [(("id", "b"), [["1"], ["2"]])]
    assert [rows.columns for rows in found.upserts] == [("id", "a", "b")]


def test_a_newer_null_is_a_value() -> None:
    """It is not taken from the older row."""
    found = _plan(change("c"), change("u", row={"id": 1, "a": None, "b": PLACEHOLDER}))

    assert [rows.values for rows in found.upserts] == [[["1"], [None], ["1.0"]]]


def test_an_absent_column_is_left_out() -> None:
    """It is not NULL: the replica's default applies, as it did on the source."""
    found = _plan(change("c", row={"id": 1, "a": "x"}), change("c", 2))

    assert [rows.columns for rows in found.upserts] == [("id", "a"), ("id", "a", "b")]


def test_a_row_under_another_key_takes_what_it_lacks_from_the_old_one() -> None:
    """On the replica, where it still is; the old key is deleted."""
    moved = change("c", 2, row={"id": 2, "a": PLACEHOLDER, "b": "1"}, old_key=b'{"id":1}')
    found = _plan(moved)

    (moves,) = found.moves
    assert (moves.rows.columns, moves.rows.values, moves.lacking) == (("id", "b"), [["2"], ["1"]], ("a",))
    assert (moves.origins.columns, moves.origins.values) == (("id",), [["1"]])
    assert found.deletes is not None
    assert found.deletes.values == [["1"]]
    assert (found.upserts, found.updates) == ([], [])


def test_a_row_under_another_key_takes_what_it_lacks_from_the_same_batch() -> None:
    """Then it is whole, and an upsert."""
    moved = change("c", 2, row={"id": 2, "a": PLACEHOLDER, "b": "1"}, old_key=b'{"id":1}')
    found = _plan(change("c"), moved)

    assert [rows.values for rows in found.upserts] == [[["2"], ["x"], ["1"]]]
    assert found.moves == []


def test_a_new_row_without_its_value_is_refused() -> None:
    """Which row had it is not known: the records of a topic with several partitions do not say."""
    with pytest.raises(RecordError, match="REPLICA IDENTITY FULL"):
        _plan(change("d"), change("c", 2, row={"id": 2, "a": PLACEHOLDER, "b": "1"}))


def test_a_record_ahead_of_its_description_waits() -> None:
    """And is named, so that those before it can go on."""
    ahead = change("c", row={"id": 1, "a": "x", "b": "1", "new": 1}, offset=5)
    with pytest.raises(StaleDescriptionError) as caught:
        _plan(change("c", 2), ahead)

    assert caught.value.change == ahead


def test_a_key_that_does_not_fit_is_refused() -> None:
    """Without the value."""
    with pytest.raises(RecordError, match="primary key") as caught:
        _plan(change("d", key="secret"))

    assert "secret" not in str(caught.value)


def test_truncate_is_part_of_the_plan() -> None:
    """It comes first."""
    found = _plan(change("c"), change("t"))

    assert (found.truncate, found.deletes, found.upserts) == (True, None, [])


KEYLESS = msgspec.structs.replace(TABLE, primary_key=(), replica_identity="f")


def _of_rows(*rows: tuple[str, object, object]) -> TablePlan:
    """The plan of changes given as op, row before and row after; of the columns id, a, b."""
    found = []
    for op, *both in rows:
        before, after = (None if row is None else compact_json(row) for row in both)
        found.append(change(op)._replace(key=None, before=before, row=after))
    decoders = {TABLE.id: decoder(KEYLESS)}
    return plan(compact(found, decoders), decoders)[0]


def _row(id_: int, b: str | None = "1.0", **more: str) -> dict[str, object]:
    return {"id": id_, "a": None, "b": b, **more}


def test_rows_without_a_key_are_counted() -> None:
    """What comes and goes again is nothing; one JSON or another, it is the row that counts."""
    found = _of_rows(
        ("c", None, _row(1)),
        ("c", None, _row(1)),
        ("c", None, {"b": "1.0", "a": None, "id": 1}),
        ("d", _row(2), None),
        ("u", _row(2), _row(3)),
        ("u", _row(3), _row(2)),
        ("u", _row(4), _row(4)),
        ("d", _row(5, "1.00"), None),
        ("c", None, _row(5)),
    )

    assert found.inserts is not None
    assert found.removes is not None
    assert sorted(zip(*found.inserts.values, strict=True)) == [("1", None, "1.0")] * 3 + [("5", None, "1.0")]
    assert sorted(zip(*found.removes.values, strict=True)) == [("2", None, "1.0"), ("5", None, "1.00")]
    assert (found.deletes, found.upserts, found.updates, found.moves, found.truncate) == (None, [], [], [], False)


def test_behind_a_truncate_only_what_came_later_counts() -> None:
    found = _of_rows(("d", _row(9), None), ("c", None, _row(1)), ("t", None, None), ("c", None, _row(2)))

    assert (found.truncate, found.removes) == (True, None)
    assert found.inserts is not None
    assert found.inserts.values == [["2"], [None], ["1.0"]]
    with pytest.raises(RecordError, match=r"1 rows of shop\.t that were changed or deleted"):
        _of_rows(("t", None, None), ("d", _row(1), None))


def test_a_batch_is_of_rows_with_the_same_columns() -> None:
    """Where the table got a column in between, the batch is parted there; what did not travel is not guessed."""
    short = {"id": 1, "a": None}
    assert _of_rows(("c", None, short), ("d", short, None), ("c", None, short)).inserts is not None
    for rows in ([("c", None, short), ("d", _row(1), None)], [("c", None, _row(1, a=PLACEHOLDER))]):
        with pytest.raises(RecordError, match="lacks columns or values"):
            _of_rows(*rows)
    with pytest.raises(StaleDescriptionError):
        _of_rows(("c", None, _row(1, new="x")))
