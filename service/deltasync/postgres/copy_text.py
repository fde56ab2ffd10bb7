"""Rows to the text format of COPY, column by column, so that the work stays in C."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NULL = "\\N"
_SPECIAL = re.compile(r"[\\\n\r\t]")
_ESCAPED = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def copy_text(columns: Sequence[Sequence[str | None]]) -> bytes:
    """The payload of `COPY … FROM STDIN` for rows given column by column; None is NULL."""
    text = _lines([_shown(column) for column in columns])
    rows, nulls = len(columns[0]), sum(column.count(None) for column in columns)
    # No more of the special characters than we have put there: nothing is to be escaped.
    separators = text.count("\t") == rows * (len(columns) - 1) and text.count("\n") == rows
    if not (separators and text.count("\\") == nulls and "\r" not in text):
        text = _lines([list(map(_escape, column)) for column in columns])
    return text.encode()


def _lines(fields: Sequence[Sequence[str]]) -> str:
    return "\n".join(map("\t".join, zip(*fields, strict=True))) + "\n"


def _shown(column: Sequence[str | None]) -> Sequence[str]:
    if None in column:
        return [_NULL if value is None else value for value in column]
    return column  # type: ignore[return-value]  # None was excluded just above


def _escape(value: str | None) -> str:
    if value is None:
        return _NULL
    return value.translate(_ESCAPED) if _SPECIAL.search(value) else value
