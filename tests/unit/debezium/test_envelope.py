"""Envelopes in both forms, what is passed over, and what is refused."""

from __future__ import annotations

import pytest
from tests.unit.make import envelope, record

from deltasync.change import Op, Position
from deltasync.debezium.envelope import decode
from deltasync.errors import RecordError


def test_schemaless_and_with_schemas_are_the_same_change() -> None:
    """The key's and the row's raw JSON do not depend on the form."""
    plain = decode(record(envelope("u")))
    wrapped = decode(
        record(
            {"schema": {"type": "struct", "fields": []}, "payload": envelope("u")},
            key={"schema": {"type": "struct"}, "payload": {"id": 1}},
        )
    )

    assert plain == wrapped
    assert plain is not None
    assert (plain.key, plain.row, plain.op) == (b'{"id":1}', b'{"id":1,"a":"x","b":"1.0"}', Op.UPDATE)


def test_a_key_column_called_schema_is_not_a_schema() -> None:
    """A key whose first column is called "schema" stays whole."""
    change = decode(record(envelope("c"), key={"schema": "x", "payload": "y"}))

    assert change is not None
    assert change.key == b'{"schema":"x","payload":"y"}'


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"ts_ms": 1},
        {"status": "BEGIN", "id": "1:2", "ts_ms": 1},
        {"op": "m", "ts_ms": 1, "source": None, "message": {"prefix": "p", "content": ""}},
    ],
    ids=["tombstone", "heartbeat", "transaction", "logical message"],
)
def test_passed_over(value: object) -> None:
    """Records without a row change are passed over."""
    assert decode(record(value)) is None


@pytest.mark.parametrize(
    "value",
    [
        b"no json",
        b'{"op":"u","after":{"id":1',
        b"",
        b"[]",
        b'"text"',
        {"hello": "secret"},
        {**envelope("u"), "op": "x"},
        envelope("u", connector="mysql"),
        {**envelope("u"), "after": None},
        {**envelope("c"), "source": None},
        envelope("u", sequence="secret"),
        envelope("u", sequence='["99999999999999999999","1"]'),
        envelope("u", ts_us=10**30),
        envelope("u", ts_us=-1),
        b'{"op":"\xff"}',
        b'{"deep":' + b"[" * 100_000,
        envelope("u", table=5),
    ],
)
def test_what_is_not_debeziums_is_refused_without_its_values(value: object) -> None:
    """An unreadable record names topic and offset, gives a remedy, and shows no value."""
    with pytest.raises(RecordError, match=r"p\.shop\.t\[0\] offset 7") as caught:
        decode(record(value, offset=7))

    assert "secret" not in str(caught.value)
    assert caught.value.remedy


def test_positions() -> None:
    """The halves of source.sequence may be null."""
    found = [decode(record(envelope("u", sequence=s))) for s in ('["12","34"]', '[null,"34"]', None)]

    assert [change and change.position for change in found] == [
        Position(12, 34, 10),
        Position(None, 34, 10),
        Position(None, None, 10),
    ]


def test_incremental_reads_are_marked() -> None:
    """Reads of an incremental snapshot do not move the watermark, so they are told apart."""
    change = decode(record(envelope("r", snapshot="incremental")))

    assert change is not None
    assert change.incremental
