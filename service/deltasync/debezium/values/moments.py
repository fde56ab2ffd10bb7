"""Dates and times: from Debezium's numbers and ISO 8601 to PostgreSQL's text, over PostgreSQL's whole range."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

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
_PLAIN_TIMESTAMPTZ = re.compile(r"(?!0000)\d{4}-\d\d-\d\dT[\d:.]+Z")
_TIMESTAMPTZ = re.compile(r"([+-]?\d+)-(\d\d-\d\dT[\d:.]+)Z")
_FROM_1000 = frozenset("123456789")
_TIMETZ = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d(:\d\d){0,2}")


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


def are_plain(texts: Iterable[str | None]) -> bool:
    """True where each `timestamptz` is of the years 1000 to 9999, or null."""
    told = [text for text in texts if text is not None]
    return all([text[:1] in _FROM_1000 and text[4:5] == "-" and text[-1:] == "Z" for text in told])  # noqa: C419 - faster


def timetz(text: str) -> str:
    """`timetz` as the raw-text converter delivers it; stock Debezium's, moved to UTC, ends in Z."""
    if _TIMETZ.fullmatch(text) is None:
        raise ValueError("a timetz that is not PostgreSQL's text: Connect lacks the raw-text converter")
    return text
