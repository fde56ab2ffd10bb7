"""Decodes the rows and keys of one table: raw JSON in, columns of PostgreSQL text out.

A value is a text, None for NULL, `UNAVAILABLE` for an unchanged TOAST value that did not travel,
or `ABSENT` for a column that the record does not have: four different things.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Final

import msgspec

from deltasync.debezium.values import Codec, codec, is_ambiguous, markers
from deltasync.errors import MisfitError, RecordError
from deltasync.postgres.copy_text import copy_text
from deltasync.postgres.types import type_key
from deltasync.table import Column, Table


class Missing(Enum):
    """Why a column of a row has no value to write."""

    UNAVAILABLE = "unavailable"
    ABSENT = "absent"


UNAVAILABLE: Final = Missing.UNAVAILABLE
ABSENT: Final = Missing.ABSENT

# Built-in types of which equal values have the same JSON, whoever wrote it: snapshot or stream.
_ONE_ENCODING = frozenset({"int2", "int4", "int8", "uuid", "text", "varchar", "bytea", "bool"})

_NOTHING = msgspec.Raw(b"null")
# msgspec has no field of such a name.
NOT_A_FIELD = re.compile(r'["\\\x00-\x1f]')
# How the decoder says that a column came as the converter delivers it, which this worker does not know of.
_TEXT_FOR_ARRAY = re.compile(r"Expected `array[^`]*`, got `str`")
_RAW_TEXT = "DELTASYNC_CONNECT_RAW_TEXT=true"
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])

Text = str | None
Json = bytes | msgspec.Raw
Row = dict[str, Text | Missing]


@dataclass(frozen=True)
class Rows:
    """Rows column by column: `values[i]` holds the texts of `columns[i]`, all of the same length.

    `fresh` says that none of them should be on the replica yet; a connector that repeats itself makes that wrong.
    """

    columns: tuple[str, ...]
    values: list[list[Text]]
    fresh: bool = False

    @property
    def count(self) -> int:
        return len(self.values[0]) if self.values else 0

    @cached_property
    def copy_text(self) -> bytes:
        """The payload of `COPY … FROM STDIN`; made once."""
        return copy_text(self.values)

    def only(self, columns: Sequence[str]) -> Rows:
        """The same rows with these columns alone, in this order."""
        return Rows(tuple(columns), [self.values[self.columns.index(name)] for name in columns])


def joined(parts: Iterable[Rows]) -> list[Rows]:
    """The rows of all parts, those with the same columns together, but fresh ones apart."""
    alike: dict[tuple[frozenset[str], bool], list[Rows]] = {}
    for part in parts:
        alike.setdefault((frozenset(part.columns), part.fresh), []).append(part)
    return [_joined(found) for found in alike.values()]


def _joined(parts: Sequence[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    columns = parts[0].columns
    ordered = [part.only(columns).values for part in parts]
    return Rows(columns, [list(chain.from_iterable(column)) for column in zip(*ordered, strict=True)], parts[0].fresh)


class UnknownColumnError(Exception):
    """A record has a column that the table's description lacks: a newer description is on its way."""


# So many tables have their decoders kept where others change, or are described again as they are.
_DECODERS_KEPT = 1000


@lru_cache(maxsize=_DECODERS_KEPT)
def row_decoder(table: Table, placeholder: str, *, raw_text: bool) -> RowDecoder:
    """The decoder of a table, which is compiled once. Raises as its constructor does."""
    return RowDecoder(table, placeholder, raw_text=raw_text)


class RowDecoder:
    """The decoder of one version of a table. Construct it once: it compiles its decoders.

    `exact_keys` tells that equal keys are equal bytes, whoever wrote them: snapshot or stream; `is_plain` besides that
    all that a row holds is told by its bytes, whoever wrote them.
    Raises RecordError where a column's type is not carried exactly, or the key holds a generated column.
    """

    def __init__(self, table: Table, placeholder: str, *, raw_text: bool) -> None:
        self.table = table
        self.columns = table.stored_columns
        self._codecs = [_required_codec(table, column, placeholder, raw_text=raw_text) for column in self.columns]
        self._markers = markers(placeholder)
        self._names = tuple(column.name for column in self.columns)
        self._aliases = {c.name: f"<{i}>" for i, c in enumerate(table.columns) if NOT_A_FIELD.search(c.name)}
        self._index = {name: i for i, name in enumerate(self._names)}
        if not self._index.keys() >= set(table.primary_key):
            raise self._key_misfit()
        self._key_types = [type_key(self.columns[self._index[name]]) for name in table.primary_key]
        self.exact_keys = _ONE_ENCODING.issuperset(self._key_types)
        ambiguous = raw_text and any(is_ambiguous(column) for column in self.columns)
        self.is_plain = self.exact_keys and not table.is_keyless and not ambiguous
        self._whole = msgspec.json.Decoder(self._struct(self._names, lenient=False))
        self._one = msgspec.json.Decoder(self._struct(self._names, lenient=True))
        self._keys = msgspec.json.Decoder(list[self._struct(table.primary_key, lenient=False)])  # type: ignore[misc]

    def _struct(self, names: Iterable[str], *, lenient: bool) -> type[msgspec.Struct]:
        """A struct with a field per column, in order; a lenient one takes absent and unknown columns."""
        fields: list[Any] = []
        for position, name in enumerate(names):
            json_type = self._codecs[self._index[name]].json_type
            if json_type is not msgspec.Raw:  # which takes null and absence by itself
                json_type = json_type | None | msgspec.UnsetType if lenient else json_type | None
            default = {"default": msgspec.UNSET} if lenient else {}
            fields.append((f"c{position}", json_type, msgspec.field(name=self._aliases.get(name, name), **default)))
        # A snapshot sends generated columns, the stream may not; the replica computes them itself. A skipped column
        # comes until the connector leaves it out, too.
        for position, column in enumerate(self.table.columns):
            if column.generated or column.skipped:
                name = self._aliases.get(column.name, column.name)
                fields.append((f"g{position}", msgspec.Raw, msgspec.field(name=name, default=_NOTHING)))
        return msgspec.defstruct("Row", fields, gc=False, forbid_unknown_fields=True)

    def identity(self, key: bytes) -> Hashable:
        """What keys of one text have in common: the raw JSON where their encoding is one to one, else the texts.

        Equal keys may differ in text (-0 and 0, a composite of 1.0 and 1.00). To keep those apart is sound:
        a row whose key changes its text travels as a delete of the old and a create of the new one, so that of
        equal keys the last change of at most one is no delete, and deletes are carried out first.
        Raises RecordError as `keys` does.
        """
        if self.exact_keys:
            return key
        texts = (text for (text,) in self.keys([key]).values)
        try:
            return tuple(_comparable(text, key) for text, key in zip(texts, self._key_types, strict=True))
        except InvalidOperation:  # no number: the key's columns have exchanged their names
            raise self._key_misfit() from None

    def may_lack_values(self, row: bytes) -> bool:
        """True where the raw row holds a marker of an unavailable value; a user's text may look like one."""
        return any(marker in row for marker in self._markers)

    def lacks_values(self, row: bytes) -> bool:
        """True where a value of the raw row is unavailable. Raises as `row` does, but for columns not known yet."""
        try:
            return self.may_lack_values(row) and UNAVAILABLE in self.row(row).values()
        except UnknownColumnError:
            return False

    def rows(self, raws: Sequence[Json]) -> Rows | None:
        """Decode rows that have every column; None where one of them has an unavailable value.

        Raises msgspec.ValidationError or ValueError where one lacks a column or does not fit: `row` says which and why.
        """
        found = self._columns(self._names, map(self._whole.decode, map(self._renamed, raws) if self._aliases else raws))
        for known, values in zip(self._codecs, found, strict=True):
            if known.unavailable is not None and known.unavailable in values:
                return None
        return self._texts(self._names, found)

    def keys(self, raws: Sequence[bytes]) -> Rows:
        """Decode keys. Raises RecordError (without the value) where one does not fit the table."""
        try:
            key = self.table.primary_key
            return self._texts(key, self._columns(key, self._keys.decode(self._list(raws))))
        except (ValueError, RecursionError) as error:
            raise self._key_misfit(str(error)) from None

    def row(self, raw: bytes) -> Row:
        """Decode one row of any completeness.

        Raises UnknownColumnError for a column that the description lacks, and MisfitError (without
        the value) for one that does not fit its type.
        """
        try:
            values = msgspec.structs.astuple(self._one.decode(self._renamed(raw)))
        except msgspec.ValidationError as error:
            if "unknown field" in str(error):
                raise UnknownColumnError(str(error)) from None
            raise self._misfit(str(error)) from None
        except ValueError as error:
            raise self._misfit(str(error) if isinstance(error, msgspec.MsgspecError) else "not UTF-8") from None
        return {
            column.name: self._value(column, known, value)
            for column, known, value in zip(self.columns, self._codecs, values, strict=False)
        }

    def _list(self, raws: Sequence[bytes]) -> bytes:
        return b"[" + b",".join(map(self._renamed, raws) if self._aliases else raws) + b"]"

    def _renamed(self, raw: Json) -> Json:
        """A raw row or key with aliases for the names that its decoder cannot have."""
        if not self._aliases:
            return raw
        fields = _fields.decode(raw)
        return msgspec.json.encode({self._aliases.get(name, name): value for name, value in fields.items()})

    def _value(self, column: Column, known: Codec, value: Any) -> Text | Missing:  # noqa: ANN401 - whatever the column's JSON type is
        if value is msgspec.UNSET:
            return ABSENT
        if value is None:
            return None
        if known.unavailable is not None and value == known.unavailable:
            return UNAVAILABLE
        try:
            return value if known.convert is None else known.convert(value)
        except ValueError as error:
            raise self._misfit(f"{error} (column {column.name})") from None

    @staticmethod
    def _columns(names: Sequence[str], structs: Iterable[msgspec.Struct]) -> list[list[Any]]:
        columns = zip(*map(msgspec.structs.astuple, structs), strict=True)
        return [list(column) for column, _ in zip(columns, names, strict=False)]

    def _texts(self, names: Sequence[str], values: list[list[Any]]) -> Rows:
        for position, name in enumerate(names):
            known = self._codecs[self._index[name]]
            convert = known.convert
            if convert is str:
                values[position] = _shown(values[position])
            elif convert is not None and not (known.are_texts and known.are_texts(values[position])):
                values[position] = [None if value is None else convert(value) for value in values[position]]
        return Rows(tuple(names), values)

    def _misfit(self, why: str) -> MisfitError:
        return MisfitError(
            f"A record of {self.table.id} does not fit the table's description: {why}.",
            remedy=f"{_of_converter(why)}See whether the table was changed without being announced: run deltasync "
            "source setup again.",
        )

    def _key_misfit(self, why: str = "") -> MisfitError:
        return MisfitError(
            f"A key of {self.table.id} does not fit the table's primary key ({', '.join(self.table.primary_key)}).",
            remedy=f"{_of_converter(why)}See whether the key was changed on the source: run deltasync source setup "
            "again.",
        )


def _shown(numbers: list[int | None]) -> list[Text]:
    """The texts of integers: written all at once, in half of the time."""
    try:
        texts = msgspec.json.encode(numbers)[1:-1].decode().split(",")
    except OverflowError:  # none of PostgreSQL's
        return [None if number is None else str(number) for number in numbers]
    return [None if text == "null" else text for text in texts] if None in numbers else texts  # type: ignore[return-value]


def _of_converter(why: str) -> str:
    found = _TEXT_FOR_ARRAY.search(why)
    return f"If Connect has the raw-text converter by now, set {_RAW_TEXT} for this worker too. " if found else ""


def _required_codec(table: Table, column: Column, placeholder: str, *, raw_text: bool) -> Codec:
    known = codec(column, placeholder, raw_text=raw_text)
    if known is not None:
        return known
    what = f"The column {table.id}.{column.name} has the type {column.sql_type}, which is not carried exactly"
    if codec(column, placeholder, raw_text=True) is not None:
        raise RecordError(
            f"{what} without the raw-text converter.",
            remedy=f"If Connect has it, set {_RAW_TEXT} for this worker too.",
        )
    raise RecordError(
        f"{what}.",
        remedy="Leave the table out: add it to `exclude` in [source] and run deltasync source setup again.",
    )


def _comparable(text: Text, key: str) -> Hashable:
    """A numeric's value (1.0 and 1.00 are one key), any other text as it is."""
    if key != "numeric" or text is None:
        return text
    number = Decimal(text)
    return number if number.is_finite() else text
