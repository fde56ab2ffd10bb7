"""Rows and keys of one table: NULL, absent and unavailable are three things."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.make import PLACEHOLDER, TABLE, column, compact_json, decoder

from deltasync.debezium.rows import ABSENT, UNAVAILABLE, RowDecoder, Rows, UnknownColumnError
from deltasync.errors import RecordError
from deltasync.table import Table


def _rows(known: RowDecoder, raws: list[bytes]) -> Rows:
    found = known.rows(raws)
    assert found is not None
    return found


def test_rows_column_by_column() -> None:
    """Whole rows decode at once, NULL is None."""
    rows = _rows(decoder(), [b'{"id":1,"a":"x","b":null}', b'{"b":"1.50","id":2,"a":""}'])

    assert rows.columns == ("id", "a", "b")
    assert rows.values == [["1", "2"], ["x", ""], [None, "1.50"]]
    assert rows.count == 2


@pytest.mark.parametrize("raw", [b'{"id":1,"a":"x"}', b'{"id":1,"a":"x","b":"1","c":2}', b'{"id":"1","a":"x","b":"1"}'])
def test_rows_that_are_not_whole_are_not_decoded_at_once(raw: bytes) -> None:
    """An absent, an unknown or an unfit column is never taken for NULL."""
    with pytest.raises(msgspec.ValidationError):
        decoder().rows([raw])


def test_null_absent_and_unavailable_differ() -> None:
    """One row by itself tells the three apart."""
    row = decoder().row(compact_json({"id": 1, "a": PLACEHOLDER}))

    assert row == {"id": "1", "a": UNAVAILABLE, "b": ABSENT}
    assert decoder().row(b'{"id":1,"a":null,"b":null}') == {"id": "1", "a": None, "b": None}


def test_a_users_text_that_contains_the_placeholder_is_a_value() -> None:
    """Only the whole value is the placeholder; a row that merely looks like it is read with care."""
    text = f"about {PLACEHOLDER}"
    raw = compact_json({"id": 1, "a": text, "b": None})

    assert decoder().may_lack_values(raw)
    assert decoder().row(raw)["a"] == text


def test_the_placeholders_of_arrays() -> None:
    """text[] marks with itself, int[] with its characters' codes, uuid[] with its UUIDv3."""
    table = Table(
        "s",
        "t",
        (column("id", "int4"), column("t", "_text"), column("i", "_int8"), column("u", "_uuid"), column("y", "bytea")),
        ("id",),
    )
    raw = compact_json(
        {
            "id": 1,
            "t": ["__debezium_unavailable_value"],
            "i": list(b"__debezium_unavailable_value"),
            "u": ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"],
            "y": "__debezium_unavailable_value",
        }
    )
    from deltasync.debezium.rows import RowDecoder  # noqa: PLC0415 - with Debezium's own placeholder, whose UUID is known

    found = RowDecoder(table, "__debezium_unavailable_value", raw_text=False)

    assert list(found.row(raw).values()) == ["1", *[UNAVAILABLE] * 4]
    assert found.may_lack_values(raw)


def test_unknown_columns_wait_for_a_description() -> None:
    """A column that the description lacks is its own kind of error."""
    with pytest.raises(UnknownColumnError):
        decoder().row(b'{"id":1,"a":"x","b":"1","new":1}')


def test_misfits_name_the_column_and_not_the_value() -> None:
    """The message may be logged."""
    with pytest.raises(RecordError, match=r"\$\.id") as caught:
        decoder().row(b'{"id":"secret","a":"x","b":"1"}')

    assert "secret" not in str(caught.value)


def test_floats_keep_their_tokens() -> None:
    """What PostgreSQL printed is what PostgreSQL parses."""
    table = Table("s", "t", (column("id", "int4"), column("f", "float8")), ("id",))
    raws = [b'{"id":1,"f":%s}' % token for token in (b"0.30000000000000004", b"-0.0", b"1.0E-5", b'"NaN"', b"null")]

    assert _rows(decoder(table), raws).values[1] == ["0.30000000000000004", "-0.0", "1.0E-5", "NaN", None]


def test_generated_columns_are_left_to_the_replica() -> None:
    """A snapshot sends them and a stream does not: both rows are whole."""
    table = Table("s", "t", (column("id", "int4"), column("g", "text", generated="s"), column("a", "text")), ("id",))

    assert _rows(decoder(table), [b'{"id":1,"g":"X","a":"x"}', b'{"id":2,"a":"y"}']).values == [["1", "2"], ["x", "y"]]


def test_identity_of_keys() -> None:
    """Raw bytes where equal keys are equal bytes; numbers by value."""
    numeric = Table("s", "t", (column("id", "numeric"),), ("id",))

    assert decoder().identity(b'{"id":1}') == b'{"id":1}'
    assert decoder(numeric).identity(b'{"id":"1.0"}') == decoder(numeric).identity(b'{"id":"1.00"}')
    assert decoder(numeric).identity(b'{"id":"1.0"}') != decoder(numeric).identity(b'{"id":"1.01"}')


def test_texts_in_a_key_are_no_numbers() -> None:
    """Beside a numeric one, 1 and 1.0 are two texts: taken for one key, a row was lost."""
    mixed = decoder(Table("s", "t", (column("n", "numeric"), column("code", "text")), ("n", "code")))

    assert mixed.identity(b'{"n":"1","code":"1"}') == mixed.identity(b'{"n":"1.0","code":"1"}')
    assert mixed.identity(b'{"n":"1","code":"1"}') != mixed.identity(b'{"n":"1","code":"1.0"}')


def test_a_type_that_is_not_carried_is_refused() -> None:
    """With the table, the column and the type in the message."""
    with pytest.raises(RecordError, match=r"s\.t\.i has the type timetz"):
        decoder(Table("s", "t", (column("id", "int4"), column("i", "timetz")), ("id",)))


def test_a_generated_column_in_the_key_is_refused() -> None:
    """Its values do not travel."""
    with pytest.raises(RecordError, match=r"primary key \(id\)"):
        decoder(Table("s", "t", (column("id", "int4", generated="s"), column("a", "text")), ("id",)))


def test_tables_are_their_json() -> None:
    """A description survives its own JSON."""
    assert Table.from_json(msgspec.json.encode(TABLE)) == TABLE
    assert Table.from_value(TABLE.to_value()) == TABLE


def test_names_that_json_escapes() -> None:
    """A quote, a backslash or a control character in a column's name, generated ones included."""
    names = ('a "b"', "back\\slash", "new\nline")
    table = Table("s", "t", (*(column(name, "text") for name in names), column('"', "text", generated="s")), names[:1])
    raw = compact_json(dict(zip((*names, '"'), "abcd", strict=True)))

    assert _rows(decoder(table), [raw]).values == [["a"], ["b"], ["c"]]
    assert list(decoder(table).row(raw).values()) == ["a", "b", "c"]
    assert decoder(table).keys([compact_json({names[0]: "k"})]).values == [["k"]]


def test_keys_are_the_same_where_their_values_are() -> None:
    """Numbers by value; texts that look like numbers, and what else differs in text, are told apart."""

    def identity(type_: str, *values: object) -> set[object]:
        table = Table("s", "t", (column("a", type_), column("d", "date")), ("a", "d"))
        found = decoder(table)
        return {found.identity(compact_json({"a": value, "d": 0})) for value in values}

    assert len(identity("numeric", "1.0", "1.00", "1")) == 1
    assert len(identity("numeric", "NAN", "POSITIVE_INFINITY", "1")) == 3
    assert len(identity("text", "1.0", "1.00")) == 2
    assert len(identity("float8", 0.0, -0.0)) == 2
    assert len(identity("date", 2146033979, -622191234)) == 1
