"""Points and what is made of them: Debezium's objects, and well-known binary (WKB), to PostgreSQL's text."""

from __future__ import annotations

import binascii
import struct

import msgspec

_LINE_STRING, _POLYGON = 2, 3
_HEADER, _COUNT, _POINT = 5, 4, 16  # bytes: order and type; a count; two doubles


class Point(msgspec.Struct, gc=False):
    """`point`: its numbers stay the tokens that they are."""

    x: msgspec.Raw
    y: msgspec.Raw


class Line(msgspec.Struct, gc=False):
    """`line`."""

    a: msgspec.Raw
    b: msgspec.Raw
    c: msgspec.Raw


class Circle(msgspec.Struct, gc=False):
    """`circle`."""

    center: Point
    radius: msgspec.Raw


class Wkb(msgspec.Struct, gc=False):
    """`lseg`, `box` and `path`."""

    wkb: str
    extensions: dict[str, str] | None = None


def number(token: msgspec.Raw) -> str:
    """A JSON number, or the name of one that JSON has not, in quotes: PostgreSQL parses both."""
    return bytes(token).decode().strip('"')


def point(value: Point) -> str:
    """`point`."""
    return f"({number(value.x)},{number(value.y)})"


def line(value: Line) -> str:
    """`line`."""
    return f"{{{number(value.a)},{number(value.b)},{number(value.c)}}}"


def circle(value: Circle) -> str:
    """`circle`."""
    return f"<{point(value.center)},{number(value.radius)}>"


def lseg(value: Wkb) -> str:
    """`lseg`."""
    return f"[{','.join(_points(value))}]"


def box(value: Wkb) -> str:
    """`box`: the first and the third corner of a ring."""
    corners = _points(value)
    return f"{corners[0]},{corners[2]}"


def path(value: Wkb) -> str:
    """`path`, open or closed."""
    points = ",".join(_points(value))
    return f"({points})" if (value.extensions or {}).get("closed") == "true" else f"[{points}]"


def _points(value: Wkb) -> list[str]:
    """Raises ValueError for what is neither a line string nor a polygon of one ring, in little endian."""
    try:
        data = binascii.a2b_base64(value.wkb, strict_mode=True)
        order, kind = struct.unpack_from("<BI", data)
        start = _HEADER + (_COUNT if kind == _POLYGON else 0)
        (count,) = struct.unpack_from("<I", data, start)
        numbers = struct.unpack_from(f"<{2 * count}d", data, start + _COUNT)
    except (struct.error, binascii.Error):
        raise ValueError("a shape that is not well-known binary") from None
    if order != 1 or kind not in (_LINE_STRING, _POLYGON) or len(data) != start + _COUNT + count * _POINT:
        raise ValueError("a shape of an unknown kind")
    return [f"({x!r},{y!r})" for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
