"""Arrays as stock Debezium sends them: lists of their elements, of one dimension that starts at 1.

Rows of a two-dimensional array arrive as nulls, those of text as the names of Java's objects: such a value
stops its partition. Other lower bounds are lost without a trace; the raw-text converter keeps both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

Convert = Callable[[Any], str | None]

_JAVA_OBJECT = re.compile(r"\[+[A-Z][\w.$]*;?@[0-9a-f]+")


def of_texts(values: Sequence[str | None]) -> str:
    """An array of what Debezium sends as strings and PostgreSQL reads as they are."""
    for value in values:
        if value is not None and _JAVA_OBJECT.fullmatch(value):
            raise ValueError("an array of more than one dimension, which Debezium does not carry")
    return "{" + ",".join(map(_quoted, values)) + "}"


def of_numbers(values: Sequence[int | None]) -> str:
    """An array of integers."""
    _refuse_nulls(values)
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"


def of(convert: Convert | None) -> Convert:
    """The way to text of an array whose elements have this one; None where they are strings and stay so."""

    def array(values: Sequence[Any]) -> str:
        texts = [None if value is None else value if convert is None else convert(value) for value in values]
        _refuse_nulls(texts)
        return of_texts(texts)

    return array


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _refuse_nulls(values: Sequence[object]) -> None:
    """{NULL,NULL} and {{1},{2}} look alike."""
    if values and all(value is None or value == msgspec.Raw(b"null") for value in values):
        raise ValueError("an array of nothing but nulls, which is also how Debezium sends one of two dimensions")
