"""From a JSON value of Debezium to PostgreSQL's text of it, per type: exact, or refused.

The rules were measured on Debezium 3.7.0.Final with the shipped connector's modes (decimals as
strings, time in microseconds, bytea as hex, JSON numbers of floats kept as tokens). PostgreSQL
itself parses the text, so nothing is rounded on the way.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from deltasync.table import Column

Convert = Callable[[Any], str | None]

_DAY_US = 86_400_000_000
_MARCH = 3
_MARCH_TO_DECEMBER = 10
_DATE_INFINITY = {
    2146033979: "infinity",
    -622191234: "infinity",  # in a snapshot
    -2147472691: "-infinity",
    -625821272: "-infinity",  # in a snapshot
}
_TIMESTAMP_INFINITY = {2**63 - 1: "infinity", -(2**63): "-infinity"}
_NUMERIC_WORDS = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}
_PLAIN_TIMESTAMPTZ = re.compile(r"(?!0000)\d{4}-\d\d-\d\dT[\d:.]+Z")
_TIMESTAMPTZ = re.compile(r"([+-]?\d+)-(\d\d-\d\dT[\d:.]+)Z")
_JAVA_OBJECT = re.compile(r"\[L[\w.$]+;@[0-9a-f]+")


class Codec(NamedTuple):
    """How one column travels: the JSON type that the decoder demands, the way to text, the marker.

    `convert` is None where the JSON string is the text already. `unavailable` is the value that
    stands for an unchanged TOAST value; None where the type is never stored out of line.
    """

    json_type: Any
    convert: Convert | None
    unavailable: Any = None


def civil(days: int) -> tuple[int, int, int]:
    """Days since 1970-01-01 to (year, month, day), proleptic Gregorian, astronomical years.

    The inverse of days_from_civil in Howard Hinnant's "chrono-compatible low-level date algorithms":
    datetime.date ends at the years 1 and 9999, PostgreSQL does not.
    """
    days += 719468
    era, day_of_era = divmod(days, 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < _MARCH_TO_DECEMBER else shifted - 9
    return year_of_era + era * 400 + (month < _MARCH), month, day_of_year - (153 * shifted + 2) // 5 + 1


def _era(year: int) -> tuple[int, str]:
    return (year, "") if year > 0 else (1 - year, " BC")


@lru_cache(maxsize=65_536)
def _day(days: int) -> tuple[str, str]:
    year, month, day = civil(days)
    shown, era = _era(year)
    return f"{shown:04d}-{month:02d}-{day:02d}", era


def date(days: int) -> str:
    """`date`: days since 1970, with four sentinels outside PostgreSQL's range."""
    return _DATE_INFINITY.get(days) or "".join(_day(days))


def time(microseconds: int) -> str:
    """`time`: microseconds since midnight; 24:00:00 is 86400000000."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{fraction:06d}" if fraction else text


def timestamp(microseconds: int) -> str:
    """`timestamp`: microseconds since 1970, with two sentinels."""
    if microseconds in _TIMESTAMP_INFINITY:
        return _TIMESTAMP_INFINITY[microseconds]
    days, rest = divmod(microseconds, _DAY_US)
    day, era = _day(days)
    return f"{day} {time(rest)}{era}"


def timestamptz(text: str) -> str:
    """`timestamptz`: ISO 8601 in UTC, which PostgreSQL reads as it is for the years 1 to 9999."""
    if _PLAIN_TIMESTAMPTZ.fullmatch(text) or text in ("infinity", "-infinity"):
        return text
    match = _TIMESTAMPTZ.fullmatch(text)
    if match is None:
        raise ValueError("a timestamptz in no known form")
    year, era = _era(int(match[1]))
    return f"{year:04d}-{match[2]}Z{era}"


def _numeric(text: str) -> str:
    return _NUMERIC_WORDS.get(text, text)


def _boolean(value: bool) -> str:  # noqa: FBT001 - a value, not a switch
    return "t" if value else "f"


def _bytea(text: str) -> str:
    return "\\x" + text


def _float(token: msgspec.Raw) -> str | None:
    """The JSON token itself: PostgreSQL parses it to the nearest float, as it did on the source."""
    text = bytes(token).decode()
    return None if text == "null" else text.strip('"')


def _element(value: str | None) -> str:
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text_array(values: list[str | None]) -> str:
    for value in values:
        if value is not None and _JAVA_OBJECT.fullmatch(value):
            raise ValueError("an array of more than one dimension, which Debezium does not carry")
    return "{" + ",".join(map(_element, values)) + "}"


def _int_array(values: list[int | None]) -> str:
    if values and all(value is None for value in values):
        # Debezium sends the rows of a two-dimensional array as nulls: {NULL,NULL} and {{1},{2}} look alike.
        raise ValueError("an array of nothing but nulls, which is also how Debezium sends one of two dimensions")
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"


# By pg_type.typname. What is not here is refused before the start (postgres/types.py says so to the user).
_PLAIN: dict[str, tuple[Any, Convert | None]] = {
    "int2": (int, str),
    "int4": (int, str),
    "int8": (int, str),
    "float4": (msgspec.Raw, _float),
    "float8": (msgspec.Raw, _float),
    "bool": (bool, _boolean),
    "date": (int, date),
    "time": (int, time),
    "timestamp": (int, timestamp),
    "timestamptz": (str, timestamptz),
    "uuid": (str, None),
}
_TOASTABLE: dict[str, tuple[Any, Convert | None]] = {
    "text": (str, None),
    "varchar": (str, None),
    "bpchar": (str, None),
    "json": (str, None),
    "jsonb": (str, None),
    "numeric": (str, _numeric),
    "bytea": (str, _bytea),
}
_TEXT_ARRAYS = frozenset({"text", "varchar"})
_INT_ARRAYS = frozenset({"int4", "int8"})


def codec(column: Column, placeholder: str) -> Codec | None:
    """How a column travels, or None for a type that is not carried exactly yet.

    `placeholder` is the connector's `unavailable.value.placeholder`.
    """
    if column.domain:
        return None
    if column.element is not None:
        return _array_codec(column, placeholder)
    if column.labels is not None:
        return Codec(str, None)
    if column.type.schema != "pg_catalog":
        return None
    if column.type.name in _PLAIN:
        return Codec(*_PLAIN[column.type.name])
    if column.type.name in _TOASTABLE:
        return Codec(*_TOASTABLE[column.type.name], placeholder)
    return None


def _array_codec(column: Column, placeholder: str) -> Codec | None:
    element = column.element
    if element is None or element.schema != "pg_catalog" or column.labels is not None:
        return None
    if element.name in _TEXT_ARRAYS:
        return Codec(list[str | None], _text_array, [placeholder])
    if element.name in _INT_ARRAYS:
        return Codec(list[int | None], _int_array, list(placeholder.encode()))
    if element.name == "uuid":
        digest = hashlib.md5(placeholder.encode(), usedforsecurity=False).digest()
        return Codec(list[str | None], _text_array, [str(uuid.UUID(bytes=digest, version=3))])
    return None


def markers(placeholder: str) -> tuple[bytes, ...]:
    """Byte strings of which a row with an unavailable value holds at least one; others may too."""
    digest = hashlib.md5(placeholder.encode(), usedforsecurity=False).digest()
    codes = ",".join(map(str, placeholder.encode()))
    return placeholder.encode(), codes.encode(), str(uuid.UUID(bytes=digest, version=3)).encode()
