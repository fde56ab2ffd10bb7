"""The text format of COPY."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deltasync.postgres.copy_text import copy_text

_ESCAPES = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}


def _parse(payload: bytes) -> list[list[str | None]]:
    """The format read as PostgreSQL's documentation describes it."""
    rows = payload.decode().split("\n")[:-1]
    return [[None if field == "\\N" else _unescape(field) for field in row.split("\t")] for row in rows]


def _unescape(field: str) -> str:
    parts, position = [], 0
    while position < len(field):
        if field[position] == "\\":
            position += 1
            parts.append(_ESCAPES[field[position]])
        else:
            parts.append(field[position])
        position += 1
    return "".join(parts)


_texts = st.one_of(st.none(), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[_texts] * width), min_size=1, max_size=5)))
def test_what_is_written_is_what_is_read(rows: list[tuple[str | None, ...]]) -> None:
    """Backslashes, tabs, line ends and a text that looks like NULL included."""
    assert _parse(copy_text(list(zip(*rows, strict=True)))) == [list(row) for row in rows]
