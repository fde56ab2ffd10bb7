"""What the type matrix is made of: a type with its values, and expressions of large ones."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A type. `big` is an expression of a large value."""

    type: str
    values: tuple[str, ...]
    needs: str = ""
    keys: tuple[tuple[str, str], ...] = ()
    big: str | None = None


BIG_TEXT = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 200) i)"
BIG_WORDS = "(SELECT string_agg(md5(i::text), ' ') FROM generate_series(1, 500) i)"
BIG_JSON = f"to_json({BIG_TEXT})"


BIG_POLYGON = "(SELECT '(' || string_agg(format('(%s,%s)', i, i / 3.0), ',') || ')' FROM generate_series(1, 300) i)"
BIG_SPARSE = "(SELECT '{' || string_agg(i || ':1.5', ',') || '}/9000' FROM generate_series(1, 1500) i)"


def big_array(element: str, count: int = 3000) -> str:
    return f"(SELECT array_agg({element}) FROM generate_series(1, {count}) i)"
