"""The types of the simulated tables: PostgreSQL's text of a value, and how Debezium writes it in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from functools import cache
from itertools import count

import msgspec

from deltasync.table import Column, Table, TypeName

Row = dict[str, str | None]
PLACEHOLDER = "unavailable_0123456789"
# In every text, so that a value in a log is found.
MARK = "zq"
# Values from this length on are stored out of line: they do not travel where an update leaves them alone.
_BIG = 40
_FILLER = "stored out of line " * 3

# Infinity as the snapshot and as the stream writes it.
_INFINITE_DATES = {"infinity": (-622191234, 2146033979), "-infinity": (-625821272, -2147472691)}


@dataclass(frozen=True, eq=False)
class Kind:
    """A type: `text` makes a value of a number, `encode` its JSON (in a snapshot or in the stream)."""

    name: str
    sql_type: str
    text: Callable[[int], str]
    encode: Callable[[str, bool], object]
    placeholder: object = None


def _array(words: list[str]) -> str:
    return "{" + ",".join(f'"{word}"' for word in words) + "}"


def _phrase(n: int) -> str:
    """Short, long, or like a placeholder."""
    shape = n % 4
    return f"{MARK} {n} {PLACEHOLDER if shape == 2 else _FILLER if shape == 3 else ''}"


def _days(text: str, *, snapshot: bool) -> int:
    if text in _INFINITE_DATES:
        return _INFINITE_DATES[text][0 if snapshot else 1]
    return (date.fromisoformat(text) - date(1970, 1, 1)).days


_NUMBERS = ("1", "1.0", "1.00", "2", "2.50", "2.5", "NaN", "-3", "30", "0.10")
_DATES = ("infinity", "-infinity", "2024-02-29", "1969-12-31", "9999-12-31")

INT8 = Kind("int8", "bigint", lambda n: str(n % 9), lambda text, _: int(text))
SITE = Kind("int8", "bigint", lambda n: str(n % 20), lambda text, _: int(text))
INT4 = Kind("int4", "integer", lambda n: str(n % 3), lambda text, _: int(text))
BOOL = Kind("bool", "boolean", lambda n: "ft"[n % 2], lambda text, _: text == "t")
TEXT = Kind("text", "text", _phrase, lambda text, _: text, PLACEHOLDER)
CODE = Kind("text", "text", lambda n: ("1", "1.0", f"{MARK}")[n % 3], lambda text, _: text)
SPOT = Kind(
    "text", "text", lambda n: f"{MARK} {n % 5} {_FILLER if n % 5 > 2 else ''}", lambda text, _: text, PLACEHOLDER
)
JSON = Kind("json", "json", lambda n: json.dumps({"a": _phrase(n)}), lambda text, _: text, PLACEHOLDER)
NUMERIC = Kind(
    "numeric",
    "numeric",
    lambda n: _NUMBERS[n % len(_NUMBERS)],
    lambda text, _: "NAN" if text == "NaN" else text,
    PLACEHOLDER,
)
DATE = Kind("date", "date", lambda n: _DATES[n % len(_DATES)], lambda text, snapshot: _days(text, snapshot=snapshot))
BYTEA = Kind("bytea", "bytea", lambda n: "\\x" + _phrase(n).encode().hex(), lambda text, _: text[2:], PLACEHOLDER)
TEXTS = Kind(
    "_text",
    "text[]",
    lambda n: _array([f"{MARK} {n}"] * (n % 7)),
    lambda text, _: [word.strip('"') for word in text[1:-1].split(",") if word],
    [PLACEHOLDER],
)
INTS = Kind(
    "_int4",
    "integer[]",
    lambda n: "{" + ",".join(str(7000 + n + i) for i in range(n % 12)) + "}",
    lambda text, _: [int(number) for number in text[1:-1].split(",") if number],
    list(PLACEHOLDER.encode()),
)

_TABLES: dict[str, tuple[dict[str, Kind], tuple[str, ...]]] = {
    "item": ({"id": INT8, "note": TEXT, "tags": TEXTS, "n": NUMERIC, "flag": BOOL}, ("id",)),
    "line": ({"x": INT4, "y": CODE, "raw": BYTEA, "nums": INTS}, ("y", "x")),
    "price": ({"k": NUMERIC, "note": TEXT, "doc": JSON}, ("k",)),
    "mixed": ({"k": NUMERIC, "code": CODE, "note": TEXT}, ("k", "code")),
    "day": ({"d": DATE, "note": TEXT, "flag": BOOL}, ("d",)),
}
NAMES = tuple(_TABLES)
# Equal keys of these are equal bytes: their topics may have several partitions.
SPREAD = ("item", "line")
# A table with unique values beside its key.
UNIQUE = "seat"
_TABLES[UNIQUE] = ({"id": INT8, "spot": SPOT, "n": INT4, "flag": BOOL, "note": TEXT}, ("id",))
_INDEXES = {UNIQUE: (("spot",), ("n", "flag"))}
# Tables without a primary key: their REPLICA IDENTITY, and the key that Debezium gives to their records.
_WITHOUT_PRIMARY_KEY = {"ticket": ("i", ("k",)), "pile": ("f", ("a",)), "heap": ("f", ())}
BY_INDEX, *_KEYLESS = _WITHOUT_PRIMARY_KEY
KEYLESS = tuple(_KEYLESS)
_TABLES |= {
    "ticket": ({"k": NUMERIC, "note": TEXT, "x": INT4, "y": CODE}, ("y", "x")),
    "pile": ({"a": INT4, "d": DATE}, ()),
    "heap": ({"flag": BOOL, "k": NUMERIC}, ()),
}
# What tells equal rows apart in the source: no column, and nobody else sees it.
CTID = "ctid"
# What a type may become: numbers that the one before cannot hold, and texts that are no JSON.
_ALTERED = {
    INT4: Kind("int8", "bigint", lambda n: str(5_000_000_000 * (n % 2) + n % 3), lambda text, _: int(text)),
    JSON: Kind("text", "text", _phrase, lambda text, _: text, PLACEHOLDER),
}
# Tables that reference each other: each the one before it.
FAMILY = ("depot", "parcel", "label")
_TABLES |= {
    "depot": ({"id": SITE, "note": TEXT, "flag": BOOL}, ("id",)),
    "parcel": ({"id": SITE, "site": SITE, "note": TEXT}, ("id",)),
    "label": ({"id": INT8, "parcel": SITE, "note": TEXT, "n": INT4}, ("id",)),
}
_REFERENCES = {"parcel": ("site", "depot"), "label": ("parcel", "parcel")}
EXTRA = TEXT


@dataclass(frozen=True)
class Shape:
    """A simulated table: its kinds by column, its description, the columns of its unique indexes and records' keys.

    `reference` is a column with the key of a row of another table, which is named. `numbers` is how many columns it
    ever had: none has the number of another one.
    """

    kinds: dict[str, Kind]
    table: Table
    record_key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...] = ()
    reference: tuple[str, str] | None = None
    numbers: int = 0

    def wider(self) -> Shape:
        """The table with one more column."""
        return self.added(next(name for n in count() if (name := f"extra{n}") not in self.kinds), EXTRA)

    def added(self, name: str, kind: Kind, missing: str | None = None) -> Shape:
        """The table with a new column, in which the rows that there are hold `missing`, its default."""
        new = _column(name, kind, self.numbers + 1)
        new = msgspec.structs.replace(new, missing=missing, default=missing and f"'{missing}'::text")
        found = self._with({**self.kinds, name: kind}, (*self.table.columns, new))
        return replace(found, numbers=self.numbers + 1)

    def dropped(self, name: str) -> Shape:
        """The table without a column, which is in no key."""
        kinds = {column: kind for column, kind in self.kinds.items() if column != name}
        return self._with(kinds, (column for column in self.table.columns if column.name != name))

    def renamed(self, old: str, new: str) -> Shape:
        """The table with a column under another name, which keeps its number."""

        def now(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(new if name == old else name for name in names)

        columns = now(self.kinds)
        found = self._with(
            dict(zip(columns, self.kinds.values(), strict=True)),
            map(_renamed, self.table.columns, columns),
            now(self.table.primary_key),
        )
        return replace(found, record_key=now(self.record_key), unique=tuple(map(now, self.unique)))

    def altered(self) -> Shape:
        """The table with other types, where it has columns that can have them."""
        return self._retyped(
            {name: _ALTERED.get(kind, kind) for name, kind in self.kinds.items() if name not in self.key}
        )

    def required(self, name: str, *, is_required: bool) -> Shape:
        """The table in which a column may not be NULL, or may."""
        return self._changed(name, not_null=is_required)

    def defaulted(self, name: str, default: str | None) -> Shape:
        """The table in which a column has another default, which rows that there are do not get."""
        return self._changed(name, default=default)

    @property
    def key(self) -> tuple[str, ...]:
        return self.table.primary_key

    @property
    def free(self) -> list[str]:
        """The columns that are in no key, no index and no reference."""
        taken = {*self.key, *self.record_key, *(name for index in self.unique for name in index)}
        taken |= {self.reference[0]} if self.reference else set()
        return [name for name in self.kinds if name not in taken]

    @property
    def is_exact(self) -> bool:
        """True where equal keys are equal bytes, in a snapshot and in the stream."""
        return self.table.name in {*SPREAD, UNIQUE, *FAMILY}

    def lacks(self, row: Row) -> bool:
        """True where a row has NULL in a column that may not hold it."""
        return any(column.not_null and row[column.name] is None for column in self.table.columns)

    def taken(self, row: Row) -> list[Hashable]:
        """The unique values of a row; NULL takes nothing."""
        found = ((columns, tuple(row[name] for name in columns)) for columns in self.unique)
        return [one for one in found if None not in one[1]]

    def identity(self, row: Row) -> Hashable:
        """What makes two keys one in PostgreSQL."""
        if self.table.is_keyless:
            return row.get(CTID)
        return tuple(_number(row[name]) if self.kinds[name] is NUMERIC else row[name] for name in self.key)

    def _with(self, kinds: dict[str, Kind], columns: Iterable[Column], key: tuple[str, ...] | None = None) -> Shape:
        primary_key = self.table.primary_key if key is None else key
        table = msgspec.structs.replace(self.table, columns=tuple(columns), primary_key=primary_key)
        return replace(self, kinds=kinds, table=table)

    def _retyped(self, kinds: dict[str, Kind]) -> Shape:
        columns = (
            _typed(column, kinds[column.name]) if column.name in kinds else column for column in self.table.columns
        )
        return self._with({**self.kinds, **kinds}, columns)

    def _changed(self, name: str, **changes: object) -> Shape:
        columns = (
            msgspec.structs.replace(column, **changes) if column.name == name else column
            for column in self.table.columns
        )
        return self._with(self.kinds, columns)


@cache
def shape(name: str) -> Shape:
    """The table of this name, as it is at first."""
    kinds, key = _TABLES[name]
    columns = tuple(_column(column, kind, n, column in key) for n, (column, kind) in enumerate(kinds.items(), 1))
    identity, record_key = _WITHOUT_PRIMARY_KEY.get(name, ("d", key))
    table = Table("shop", name, columns, key, identity)
    return Shape(kinds, table, record_key, _INDEXES.get(name, ()), _REFERENCES.get(name), len(kinds))


def _column(name: str, kind: Kind, number: int, not_null: bool = False) -> Column:  # noqa: FBT001, FBT002 - as in SQL
    column = Column(name, kind.sql_type, TypeName("pg_catalog", kind.name), not_null=not_null, number=number)
    return _typed(column, kind)


def _typed(column: Column, kind: Kind) -> Column:
    element = TypeName("pg_catalog", kind.name[1:]) if kind.name.startswith("_") else None
    type_ = TypeName("pg_catalog", kind.name)
    return msgspec.structs.replace(column, sql_type=kind.sql_type, type=type_, element=element)


def _renamed(column: Column, name: str) -> Column:
    return msgspec.structs.replace(column, name=name)


def is_big(kind: Kind, text: str | None) -> bool:
    return text is not None and kind.placeholder is not None and len(text) >= _BIG


@cache
def token(kind: Kind, text: str | None, snapshot: bool) -> str:  # noqa: FBT001 - part of the cache's key
    """A value's JSON."""
    return "null" if text is None else json.dumps(kind.encode(text, snapshot), separators=(",", ":"))


@cache
def unavailable(kind: Kind) -> str:
    """The JSON of a value that does not travel."""
    return json.dumps(kind.placeholder, separators=(",", ":"))


def _number(text: str | None) -> Hashable:
    number = Decimal(text or "NaN")
    return number if number.is_finite() else text
