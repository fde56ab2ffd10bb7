"""From JSON values to PostgreSQL's text."""

from __future__ import annotations

import base64
import struct
from datetime import UTC, date, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.make import PLACEHOLDER, column, domain, foreign

from deltasync.debezium.values import Codec, codec
from deltasync.debezium.values import moments as values
from deltasync.table import Column


@given(st.dates())
def test_dates_agree_with_the_standard_library(day: date) -> None:
    """Within its range, datetime is the reference."""
    assert values.date((day - date(1970, 1, 1)).days) == f"{day.year:04d}-{day.month:02d}-{day.day:02d}"


@given(st.datetimes())
def test_timestamps_agree_with_the_standard_library(moment: datetime) -> None:
    """Within its range, datetime is the reference."""
    microseconds = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)  # noqa: DTZ001 - it has no zone
    expected = f"{moment.year:04d}-{moment:%m-%d %H:%M:%S}"

    assert values.timestamp(microseconds) == expected + (f".{moment.microsecond:06d}" if moment.microsecond else "")


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (2146033979, "infinity"),
        (-622191234, "infinity"),
        (-2147472691, "-infinity"),
        (-625821272, "-infinity"),
        (-719529, "0002-12-31 BC"),
        (-719163, "0001-12-31 BC"),
        (-719162, "0001-01-01"),
        (-2440588, "4714-11-24 BC"),
        (2145042905, "5874897-12-31"),
    ],
)
def test_dates_beyond_the_standard_library(days: int, text: str) -> None:
    """Infinities of stream and snapshot, years before 1 and after 9999."""
    assert values.date(days) == text


@pytest.mark.parametrize(
    ("json", "text"),
    [
        ("2016-11-04T11:51:30.123456Z", "2016-11-04T11:51:30.123456Z"),
        ("+294276-12-31T23:59:59.999999Z", "294276-12-31T23:59:59.999999Z"),
        ("0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z BC"),
        ("-0043-03-15T00:00:00Z", "0044-03-15T00:00:00Z BC"),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
    ],
)
def test_timestamptz(json: str, text: str) -> None:
    """Only what PostgreSQL does not read as ISO 8601 is rewritten."""
    assert values.timestamptz(json) == text


def test_times() -> None:
    """The end of the day is not the start of it."""
    assert [values.time(us) for us in (0, 1, 86_400_000_000)] == ["00:00:00", "00:00:00.000001", "24:00:00"]


@pytest.mark.parametrize("bad", ["", "yesterday", "2016-11-04 11:51"])
def test_a_timestamptz_in_no_known_form_is_refused(bad: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="timestamptz"):
        values.timestamptz(bad or "x")


def _text(it: Column, json: object, *, raw_text: bool = False) -> str | None:
    """What a JSON value becomes by the codec of a column."""
    found = codec(it, PLACEHOLDER, raw_text=raw_text)
    assert found is not None
    value = msgspec.json.decode(msgspec.json.encode(json), type=found.json_type)
    return str(value) if found.convert is None else found.convert(value)


@pytest.mark.parametrize(
    ("it", "json", "text"),
    [
        (column("c", "float8"), msgspec.Raw(b"-0.0"), "-0.0"),
        (column("c", "float4"), msgspec.Raw(b"9.9999999E14"), "9.9999999E14"),
        (column("c", "float8"), "NaN", "NaN"),
        (column("c", "numeric"), "POSITIVE_INFINITY", "Infinity"),
        (column("c", "oid"), 4294967295, "4294967295"),
        (column("c", "bytea"), "00ff", "\\x00ff"),
        (column("c", "bit", "bit(1)"), True, "1"),
        (column("c", "bit", "bit(9)"), "AwA=", "000000011"),
        (column("c", "bit", "bit(3)"), "", "000"),
        (column("c", "point"), {"x": 1.5, "y": "NaN", "srid": None}, "(1.5,NaN)"),
        (column("c", "line"), {"a": 1, "b": -1, "c": 0}, "{1,-1,0}"),
        (column("c", "circle"), {"center": {"x": 0, "y": 0}, "radius": "Infinity"}, "<(0,0),Infinity>"),
        (column("c", "xid8"), b"18446744073709551615".hex(), "18446744073709551615"),
        (foreign("c", "shop", "pair", kind="c"), b'(1,"a,b")'.hex(), '(1,"a,b")'),
        (foreign("c", "shop", "mood", kind="e"), "it's", "it's"),
        (foreign("c", "public", "hstore", extension="hstore"), '{"a":null,"q\\"":"\\\\"}', '"a"=>NULL,"q\\""=>"\\\\"'),
        (foreign("c", "public", "vector", extension="vector"), [1.5, -2e-7], "[1.5,-2e-7]"),
        (domain("c", column("c", "bit", "bit(4)")), "AQ==", "0001"),
        (domain("c", column("c", "date")), 0, "1970-01-01"),
        (column("c", "_bool"), [True, None], '{"t",NULL}'),
        (column("c", "_float8"), [1.5, None, "NaN"], '{"1.5",NULL,"NaN"}'),
        (column("c", "_bytea"), ["00", None], '{"\\\\x00",NULL}'),
        (foreign("c", "public", "_citext", extension="citext"), ["A", None], '{"A",NULL}'),
    ],
)
def test_json_to_text(it: Column, json: object, text: str) -> None:
    """One value of each rule."""
    assert _text(it, json) == text


@pytest.mark.parametrize(
    ("type_", "numbers", "kind", "closed", "text"),
    [
        ("lseg", (1, 2, 3, 1e300), 2, None, "[(1.0,2.0),(3.0,1e+300)]"),
        ("path", (0.1, -0.0), 2, "false", "[(0.1,-0.0)]"),
        ("path", (0, 0, 1, 1), 2, "true", "((0.0,0.0),(1.0,1.0))"),
        ("box", (3, 4, 3, 2, 1, 2, 1, 4, 3, 4), 3, None, "(3.0,4.0),(1.0,2.0)"),
    ],
)
def test_shapes(type_: str, numbers: tuple[float, ...], kind: int, closed: str | None, text: str) -> None:
    """Their doubles are neither rounded nor lose a sign."""
    rings = struct.pack("<I", 1) if kind == 3 else b""
    points = struct.pack(f"<I{len(numbers)}d", len(numbers) // 2, *numbers)
    wkb = base64.b64encode(struct.pack("<BI", 1, kind) + rings + points).decode()

    assert _text(column("c", type_), {"wkb": wkb, "extensions": {"closed": closed} if closed else None}) == text
    with pytest.raises(ValueError, match="shape"):
        _text(column("c", type_), {"wkb": wkb[:-8] + "AAA="})


def test_the_raw_text_converter_delivers_text() -> None:
    """Arrays of anything, domains over them, and what Debezium mangles."""
    array = foreign("c", "shop", "_mood")
    for it in (column("c", "_time"), array, column("c", "varbit"), column("c", "polygon"), domain("c", array)):
        found = codec(it, PLACEHOLDER, raw_text=True)
        assert found == Codec(str, None, PLACEHOLDER), it
    assert _text(column("c", "timetz"), "10:00:00-15:59:59", raw_text=True) == "10:00:00-15:59:59"


def test_a_timetz_that_was_moved_to_utc_is_refused() -> None:
    """Connect lacks the converter that the settings promise: PostgreSQL would read it all the same."""
    with pytest.raises(ValueError, match="converter"):
        _text(column("c", "timetz"), "10:00:00Z", raw_text=True)


@pytest.mark.parametrize(
    ("it", "marker"),
    [
        (column("c", "text"), PLACEHOLDER),
        (column("c", "tsvector"), PLACEHOLDER),
        (foreign("c", "shop", "pair", kind="c"), PLACEHOLDER),
        (domain("c", column("c", "jsonb")), PLACEHOLDER),
        (column("c", "_jsonb"), [PLACEHOLDER]),
        (column("c", "_int8"), [*PLACEHOLDER.encode()]),
        (foreign("c", "public", "hstore", extension="hstore"), f'{{"{PLACEHOLDER}":"{PLACEHOLDER}"}}'),
        (column("c", "int4"), None),
    ],
)
def test_markers_of_unchanged_large_values(it: Column, marker: object) -> None:
    """Each type has one form of its own, or none."""
    found = codec(it, PLACEHOLDER, raw_text=False)
    assert found is not None
    assert found.unavailable == marker


@pytest.mark.parametrize("type_", ["_int4", "_uuid", "_bool", "_float8"])
def test_nothing_but_nulls_is_not_guessed(type_: str) -> None:
    """Debezium sends the rows of an array of two dimensions as nulls."""
    with pytest.raises(ValueError, match="dimension"):
        _text(column("c", type_), [None, None])
    assert _text(column("c", type_), []) == "{}"


@pytest.mark.parametrize("name", ["[Ljava.lang.String;@51dfb674", "[[Ljava.lang.Object;@1f", "[I@0"])
def test_names_of_java_objects_are_not_guessed(name: str) -> None:
    """Debezium sends the rows of an array of two dimensions of texts as these."""
    with pytest.raises(ValueError, match="dimension"):
        _text(column("c", "_text"), [name])
    assert _text(column("c", "_text"), [None, None]) == "{NULL,NULL}"


def test_committed_us_round_trip() -> None:
    """The epoch of the ledger's times is that of the records."""
    assert values.timestamp(0) == f"{datetime(1970, 1, 1, tzinfo=UTC):%Y-%m-%d %H:%M:%S}"
