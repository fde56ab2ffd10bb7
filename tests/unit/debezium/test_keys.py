"""The key of a row, where the record's own need not be the table's."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.make import TABLE, envelope, record

from deltasync.change import Change
from deltasync.debezium.envelope import decode
from deltasync.debezium.keys import RowKeys
from deltasync.debezium.rows import UnknownColumnError
from deltasync.errors import RecordError
from deltasync.table import Table

BY_INDEX = msgspec.structs.replace(TABLE, primary_key=("b", "id"), replica_identity="i")


def _keyed(
    op: str, before: object, after: dict[str, object] | None = None, *, schemas: bool = False, table: Table = BY_INDEX
) -> Change:
    value: dict[str, object] = {**envelope(op, after), "before": before}
    found = record({"schema": {}, "payload": value} if schemas else value, key={"a": None})
    change = decode(found)
    assert change is not None
    return RowKeys(table).keyed(change)


@pytest.mark.parametrize("schemas", [False, True])
def test_the_key_is_that_of_the_row_in_the_order_of_the_index(*, schemas: bool) -> None:
    after = {"id": 1, "a": "x", "b": "1.0"}

    assert _keyed("c", None, after, schemas=schemas)[2:3] == (b'{"b":"1.0","id":1}',)
    assert _keyed("r", None, after, schemas=schemas).key == b'{"b":"1.0","id":1}'
    assert _keyed("d", {"id": 7, "a": None, "b": "2"}, schemas=schemas).key == b'{"b":"2","id":7}'
    assert _keyed("t", None).key is None


def test_a_column_may_have_any_name() -> None:
    named = msgspec.structs.replace(BY_INDEX, primary_key=('say "x"',))

    assert _keyed("c", None, {'say "x"': 1, "id": 2}, table=named).key == b'{"say \\"x\\"":1}'


def test_a_row_that_had_another_key_tells_it() -> None:
    after = {"id": 1, "a": "x", "b": "1.0"}

    assert _keyed("u", None, after).old_key is None
    assert _keyed("u", {"id": 1, "a": None, "b": "1.0"}, after).old_key is None
    assert _keyed("u", {"id": 2, "a": None, "b": "1.0"}, after).old_key == b'{"b":"1.0","id":2}'


@pytest.mark.parametrize(
    ("op", "before", "after"),
    [
        ("d", None, None),
        ("d", {"id": None, "a": None, "b": "1"}, None),
        ("c", None, {"id": 1, "b": None}),
        ("u", {"id": 1, "b": None}, {"id": 1, "b": "1"}),
    ],
)
def test_a_key_that_is_not_told_is_not_guessed(op: str, before: object, after: dict[str, object] | None) -> None:
    with pytest.raises(RecordError, match=r"offset 0 does not hold the key of shop.t \(b, id\)"):
        _keyed(op, before, after)


@pytest.mark.parametrize(
    ("op", "before", "after"), [("d", {"a": "x", "b": "1"}, None), ("u", {"id": 1, "b": "1"}, {"number": 1, "b": "1"})]
)
def test_a_key_that_has_another_name(op: str, before: object, after: dict[str, object] | None) -> None:
    """The row is of another version of its table, which may be on its way."""
    with pytest.raises(UnknownColumnError):
        _keyed(op, before, after)


def _are_told(key: object, *, op: str = "c", table: Table = TABLE) -> bool:
    found = record(envelope(op), key=key)
    change = decode(found._replace(key=None) if key is None else found)
    assert change is not None
    return RowKeys(table).are_told(change)


def test_a_key_of_other_columns_than_the_tables_tells_nothing() -> None:
    """Debezium had none, or a unique index', when it met a table whose key it did not see yet."""
    two = msgspec.structs.replace(TABLE, primary_key=("b", "id"))

    assert [_are_told(key) for key in ({"id": 1}, None, {"a": 1}, {"idea": 1})] == [True, False, False, False]
    assert [_are_told(key, table=two) for key in ({"id": 1, "b": "1"}, {"b": "1"}, {"b": "1", "a": "id"})] == [
        True,
        False,
        False,
    ]
    assert not _are_told({"b": "1", "id": 1}, table=BY_INDEX)
    assert _are_told(None, op="t")
    assert not _are_told(None, op="t", table=BY_INDEX)
