"""From a JSON value of Debezium to PostgreSQL's text of it, per type: exact, or refused.

The rules were measured on Debezium 3.7.0.Final with the shipped connector's modes (decimals as
strings, time in microseconds, bytea as hex, JSON numbers of floats kept as tokens, hstore as JSON).
PostgreSQL itself parses the text, so nothing is rounded on the way.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from deltasync.debezium.values import arrays, geometry, moments
from deltasync.postgres.types import CARRIED, Needs, carried, type_key
from deltasync.table import Column

Convert = Callable[[Any], str | None]

_NUMERIC_WORDS = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}
_LENGTH = re.compile(r"\((\d+)\)")


class Codec(NamedTuple):
    """How one column travels: the JSON type that the decoder demands, the way to text, the marker.

    `convert` is None where the JSON string is the text already; `are_texts` may tell of many values at once that each
    is. `unavailable` is the value that stands for an unchanged TOAST value; None where the type is never stored out of
    line, or Debezium stops at it.
    """

    json_type: Any
    convert: Convert | None
    unavailable: Any = None
    are_texts: Callable[[Sequence[Any]], bool] | None = None


def codec(column: Column, placeholder: str, *, raw_text: bool) -> Codec | None:
    """How a column travels, or None for a type that is not carried exactly.

    `placeholder` is the connector's `unavailable.value.placeholder`; `raw_text` says whether it has the
    raw-text converter. That a table needs REPLICA IDENTITY FULL for it is for `unsupported` to say.
    """
    how = carried(column)
    if how is None or (how.needs is Needs.RAW_TEXT and not raw_text):
        return None
    key = type_key(column)
    if raw_text and is_converted(column):
        return Codec(str, _CONVERTED.get(key), placeholder)
    if column.carrier.element is not None:
        return _array_codec(column, placeholder)
    if key == "bit":
        return _bit_codec(column)
    if key == "hstore:hstore":
        return Codec(str, _hstore, msgspec.json.encode({placeholder: placeholder}).decode())
    json_type, convert = _RULES.get(key, (str, _from_hex))
    return Codec(json_type, convert, placeholder if json_type is str else None, _ARE_TEXTS.get(key))


def is_converted(column: Column) -> bool:
    """True for what the raw-text converter delivers, where Connect has it."""
    return column.carrier.element is not None or type_key(column) in _CONVERTED


def is_ambiguous(column: Column) -> bool:
    """True for what comes as a text from the raw-text converter, and without it, too: as another one, or not at all."""
    return column.carrier.element is None and is_converted(column)


def markers(placeholder: str) -> tuple[bytes, ...]:
    """Byte strings of which a row with an unavailable value holds at least one; others may too."""
    codes = ",".join(map(str, placeholder.encode()))
    return placeholder.encode(), codes.encode(), _placeholder_uuid(placeholder).encode()


# What the raw-text converter delivers beside arrays and domains over them, and what its text is checked with.
_CONVERTED: dict[str, Convert | None] = {
    "timetz": moments.timetz,
    **dict.fromkeys(("varbit", "polygon", "int2vector", "oidvector")),
    **dict.fromkeys(("vector:vector", "vector:halfvec", "vector:sparsevec")),
}


def _array_codec(column: Column, placeholder: str) -> Codec | None:
    element = type_key(column).removeprefix("_").replace(":_", ":")
    if element in {"text", "varchar"}:
        return Codec(list[str | None], arrays.of_texts, [placeholder])
    if element in {"json", "jsonb"}:
        return Codec(list[str | None], arrays.of(None), [placeholder])
    if element in {"int4", "int8"}:
        return Codec(list[int | None], arrays.of_numbers, list(placeholder.encode()))
    if element == "uuid":
        return Codec(list[str | None], arrays.of(None), [_placeholder_uuid(placeholder)])
    if element not in _RULES or type_key(column) not in CARRIED:
        return None
    json_type, convert = _RULES[element]
    optional: Any = json_type if json_type is msgspec.Raw else json_type | None  # it takes null by itself
    return Codec(list[optional], arrays.of(convert))


def _placeholder_uuid(placeholder: str) -> str:
    digest = hashlib.md5(placeholder.encode(), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest, version=3))


def _bit_codec(column: Column) -> Codec:
    """`bit(n)`: true or false where n is 1, else base64 of the bits in little endian without leading zeros."""
    found = _LENGTH.search(column.carrier.sql_type)
    length = int(found[1]) if found else 1
    if length == 1:
        return Codec(bool, lambda value: "1" if value else "0")

    def bits(text: str) -> str:
        shown = format(int.from_bytes(binascii.a2b_base64(text, strict_mode=True), "little"), f"0{length}b")
        if len(shown) != length:
            raise ValueError("more bits than its column has")
        return shown

    return Codec(str, bits)


_hstore_pairs = msgspec.json.Decoder(dict[str, str | None])


def _hstore(text: str) -> str:
    pairs = _hstore_pairs.decode(text)
    return ",".join(f"{_quoted(key)}=>{'NULL' if value is None else _quoted(value)}" for key, value in pairs.items())


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _numeric(text: str) -> str:
    return _NUMERIC_WORDS.get(text, text)


def _boolean(value: bool) -> str:  # noqa: FBT001 - a value, not a switch
    return "t" if value else "f"


def _bytea(text: str) -> str:
    return "\\x" + text


def _from_hex(text: str) -> str:
    """What Debezium does not know: the bytes of PostgreSQL's text."""
    return bytes.fromhex(text).decode()


def _float(token: msgspec.Raw) -> str | None:
    """The JSON token itself: PostgreSQL parses it to the nearest float, as it did on the source."""
    text = geometry.number(token)
    return None if text == "null" else text


def _vector(tokens: list[msgspec.Raw]) -> str:
    return "[" + ",".join(map(geometry.number, tokens)) + "]"


_AS_IT_IS = """
    text varchar bpchar char name uuid json jsonb xml money interval inet cidr macaddr macaddr8 tsvector enum
    int4range int8range numrange daterange tsrange tstzrange citext:citext ltree:ltree isn:isbn
"""
_ARE_TEXTS: dict[str, Callable[[Sequence[Any]], bool]] = {
    "numeric": _NUMERIC_WORDS.keys().isdisjoint,
    "timestamptz": moments.are_plain,
}
# By postgres.types.type_key. All that is carried and not named here is the hex of its text.
_RULES: dict[str, tuple[Any, Convert | None]] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), (int, str)),
    **dict.fromkeys(("float4", "float8"), (msgspec.Raw, _float)),
    **dict.fromkeys(_AS_IT_IS.split(), (str, None)),
    **dict.fromkeys(("vector:vector", "vector:halfvec"), (list[msgspec.Raw], _vector)),
    "bool": (bool, _boolean),
    "numeric": (str, _numeric),
    "bytea": (str, _bytea),
    "date": (int, moments.date),
    "time": (int, moments.time),
    "timestamp": (int, moments.timestamp),
    "timestamptz": (str, moments.timestamptz),
    "point": (geometry.Point, geometry.point),
    "line": (geometry.Line, geometry.line),
    "circle": (geometry.Circle, geometry.circle),
    "lseg": (geometry.Wkb, geometry.lseg),
    "box": (geometry.Wkb, geometry.box),
    "path": (geometry.Wkb, geometry.path),
}
