"""From JSON values to PostgreSQL's text."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.make import PLACEHOLDER, column

from deltasync.debezium import values
from deltasync.debezium.values import codec
from deltasync.postgres.types import CARRIED
from deltasync.table import Column, TypeName


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


def test_every_type_that_set_up_lets_through_has_a_codec() -> None:
    """The list that refuses tables beforehand and the codecs are the same types."""
    assert {name for name in _every_type() if codec(column("c", name), PLACEHOLDER) is not None} == CARRIED


def _every_type() -> frozenset[str]:
    others = {"interval", "timetz", "money", "xml", "inet", "bit", "varbit", "point", "_numeric", "_bool", "int4range"}
    return CARRIED | others | {f"_{name}" for name in CARRIED if not name.startswith("_")}


def test_domains_and_foreign_types_are_refused() -> None:
    """A domain, or a type of an extension, has no codec, whatever it is called."""
    assert codec(column("c", "text", domain=True), PLACEHOLDER) is None
    assert codec(Column("c", "public.text", TypeName("public", "text")), PLACEHOLDER) is None


def test_two_dimensional_arrays_are_not_guessed() -> None:
    """Debezium sends their rows as nulls or as Java's object names."""
    ints, texts = codec(column("c", "_int4"), PLACEHOLDER), codec(column("c", "_text"), PLACEHOLDER)
    assert ints is not None
    assert ints.convert is not None
    assert texts is not None
    assert texts.convert is not None

    assert ints.convert([1, None]) == "{1,NULL}"
    assert ints.convert([]) == "{}"
    for convert, value in ((ints.convert, [None, None]), (texts.convert, ["[Ljava.lang.String;@51dfb674"])):
        with pytest.raises(ValueError, match="dimension"):
            convert(value)


def test_committed_us_round_trip() -> None:
    """The epoch of the ledger's times is that of the records."""
    assert values.timestamp(0) == f"{datetime(1970, 1, 1, tzinfo=UTC):%Y-%m-%d %H:%M:%S}"
