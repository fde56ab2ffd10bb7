"""The tables of the type matrix, what is done to them, and the document that says what was proved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from tests.acceptance.types_kinds import Kind
from tests.acceptance.types_matrix import GROUPS, KINDS


class Made(NamedTuple):
    """A table of the matrix: its name, its columns in order, and how to fill it, with `changes` of it for later."""

    name: str
    kinds: tuple[Kind, ...]
    create: str
    changes: tuple[str, ...]


def tables(*, raw_text: bool) -> list[Made]:
    """The tables that the source captures, with or without the converter."""
    return [*_value_tables(raw_text=raw_text), *_large_tables(raw_text=raw_text), *_key_tables(raw_text=raw_text)]


def _may(kind: Kind, *, raw_text: bool) -> bool:
    return raw_text or kind.needs != "raw"


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _by_identity(kinds: Iterable[Kind], *, raw_text: bool) -> Iterator[tuple[bool, tuple[Kind, ...]]]:
    """Kinds that need REPLICA IDENTITY FULL here, and those that do not."""
    found = [kind for kind in kinds if _may(kind, raw_text=raw_text)]
    for full in (False, True):
        some = tuple(kind for kind in found if (kind.needs == "full" and not raw_text) is full)
        if some:
            yield full, some


def _columns(kinds: Iterable[Kind]) -> str:
    return ", ".join(f"c{number} {kind.type}" for number, kind in enumerate(kinds))


def _identity(name: str, *, full: bool) -> str:
    return f"ALTER TABLE {name} REPLICA IDENTITY FULL;" if full else ""


def _rows(name: str, values: list[tuple[str, ...]], start: int) -> str:
    """Row by row the next value of each column, NULL where there is none."""
    rows = []
    for place in range(max((len(some) for some in values), default=0)):
        cells = [_quoted(some[place]) if place < len(some) else "NULL" for some in values]
        rows.append(f"({start + place}, {', '.join(cells)})")
    return f"INSERT INTO {name} VALUES {', '.join(rows)};" if rows else ""


def _value_tables(*, raw_text: bool) -> Iterator[Made]:
    for group, all_kinds in GROUPS.items():
        for full, kinds in _by_identity(all_kinds, raw_text=raw_text):
            name = f"shop.{group}{'_full' if full else ''}"
            table = f"CREATE TABLE {name} (id int PRIMARY KEY, {_columns(kinds)}); {_identity(name, full=full)}"
            create = table + (_rows(name, [kind.values for kind in kinds], 1))
            names = [f"c{number}" for number in range(len(kinds))]
            shown, of_other = ", ".join(names), ", ".join(f"s.{one}" for one in names)
            nulls = ", ".join(f"{one} = NULL" for one in names)
            changes = (
                f"INSERT INTO {name} SELECT id + 1000, {shown} FROM {name} WHERE id < 1000",
                f"INSERT INTO {name} (id) SELECT id + 2000 FROM {name} WHERE id < 1000",
                f"UPDATE {name} t SET ({shown}) = ROW({of_other}) FROM {name} s WHERE t.id = s.id + 2000",
                f"UPDATE {name} SET {nulls} WHERE id = 1",
                f"UPDATE {name} SET id = 3001 WHERE id = 1001",
                f"UPDATE {name} SET id = 3002, {nulls} WHERE id = 2001",
                f"DELETE FROM {name} WHERE id = 1002",
            )
            yield Made(name, kinds, create, changes)


def _large_tables(*, raw_text: bool) -> Iterator[Made]:
    """Values that are stored out of line: an update of another column, or of the key, does not carry them."""
    for full, kinds in _by_identity((kind for kind in KINDS if kind.big), raw_text=raw_text):
        name = f"shop.large{'_full' if full else ''}"
        external = ", ".join(f"ALTER c{number} SET STORAGE EXTERNAL" for number in range(len(kinds)))
        shown, values = ", ".join(f"c{number}" for number in range(len(kinds))), ", ".join(k.big or "" for k in kinds)
        create = (
            f"CREATE TABLE {name} (id int PRIMARY KEY, n int, {_columns(kinds)}); ALTER TABLE {name} {external};"
            f"{_identity(name, full=full)} INSERT INTO {name} SELECT n, n, {values} FROM generate_series(1, 3) n;"
        )
        nulls = ", ".join(f"c{number} = NULL" for number in range(0, len(kinds), 2))
        changes = (
            f"UPDATE {name} SET n = 10 + n",
            f"UPDATE {name} SET id = 4 WHERE id = 2",
            f"UPDATE {name} SET {nulls} WHERE id = 3",
            f"UPDATE {name} SET n = 7, id = 5 WHERE id = 3",
            f"DELETE FROM {name} WHERE id = 1",
            f"INSERT INTO {name} SELECT 1, 1, {shown} FROM {name} WHERE id = 4",
            f"UPDATE {name} SET n = 8 WHERE id = 1",
        )
        yield Made(name, kinds, create, changes)


def _key_tables(*, raw_text: bool) -> Iterator[Made]:
    for number, kind in enumerate(kind for kind in KINDS if kind.keys and _may(kind, raw_text=raw_text)):
        name = f"shop.key_{number}"
        values = ", ".join(f"({_quoted(old)}, {place})" for place, (old, _) in enumerate(kind.keys))
        create = f"CREATE TABLE {name} (k {kind.type} PRIMARY KEY, v int); INSERT INTO {name} VALUES {values};"
        changes = [f"UPDATE {name} SET v = v + 10"]
        for pair in kind.keys:
            old, new = (f"{_quoted(value)}::{kind.type}" for value in pair)
            changes.append(f"UPDATE {name} SET k = {new} WHERE k = {old}")
            changes.append(f"UPDATE {name} SET v = v + 100 WHERE k = {new}")
        changes.append(f"DELETE FROM {name} WHERE k = {_quoted(kind.keys[-1][1])}::{kind.type}")
        changes.append(f"INSERT INTO {name} VALUES {values} ON CONFLICT DO NOTHING")
        yield Made(name, (kind,), create, tuple(changes))


_ONE = "exact, of one dimension that starts at 1 (¹)"
_FULL = "under `REPLICA IDENTITY FULL`: {}; else refused"
_WHY = {
    "full": "Debezium stops at large values that did not change; with FULL they travel",
    "bit varying": "Debezium drops leading zeros and the length",
    "time with time zone": "Debezium moves it to UTC: the offset is lost",
    "polygon": "Debezium closes rings: whether one was closed is lost",
    "int2vector": "Debezium sends it empty, or NULL",
    "public.sparsevec": "Debezium stops at more than 32767 dimensions",
    "date[]": "Debezium shifts days before 1582-10-15",
    "timestamp[]": "Debezium shifts moments before 1582-10-15",
    "time[]": "Debezium cuts microseconds off, and 24:00 becomes 00:00",
    "left out": "Debezium leaves the column out of every record",
    "fails": "Debezium stops at all that are not empty",
    "nulls": "Debezium stops at elements that are NULL",
    "unproved": "not every value was seen to arrive",
}
_ALIKE = {
    "bit varying": ("bit varying(5)", "shop.bits"),
    "time with time zone": ("time(3) with time zone", "shop.opening", "time with time zone[]"),
    "int2vector": ("oidvector",),
    "timestamp[]": ("timestamp without time zone[]", "timestamp with time zone[]"),
    "time[]": ("time without time zone[]",),
    "left out": ("money[]", "name[]", "bit varying[]", "interval[]", "point[]"),
    "fails": ("bit(3)[]", "box[]", "circle[]"),
    "unproved": ('"char"[]', "path[]", "public.hstore[]"),
}
# Of values that no setting mends.
_EXCEPT = {
    "timestamp without time zone": (
        "but not beyond 294247-01-10 04:00:54.775806",
        "Debezium counts microseconds in 64 bits",
    ),
    "interval": (
        "but ±infinity (PostgreSQL 17 and later) arrives as zero, and 2147483648 hours stop the connector",
        "the driver knows no infinite intervals, and counts hours in 32 bits",
    ),
}
_INTRODUCTION = """# Which types travel, and how

Generated by `make types` from the matrix that `tests/acceptance/test_types.py` sends through PostgreSQL, Debezium,
Kafka and deltasync, without the raw-text jar and with it (`DELTASYNC_CONNECT_RAW_TEXT`): as an initial snapshot and as
changes, large values that did not travel and changed keys included. Exact means: the text of every value is the same on
both sides. What is refused is named by `deltasync source setup`, with the reason.

Not in the run, as its servers lack them: `xml` (exact; the declaration is dropped by PostgreSQL itself). Never
carried: `refcursor`, `bit` without a length, row types of tables, base types of no extension, domains over
pgvector's types, and types of extensions that are not listed. Dates before the year 1 and of 5 to 14 October 1582 are
exact in the snapshot by what `deltasync connectors plan` generates, if the table's name has no dot, comma, quote,
bracket or backslash. Types beginning with `shop.` stand for those that users make.

¹ Without the jar an array of nothing but nulls stops its partition, and so does one of two dimensions. Other
lower bounds are lost in Debezium without a trace.

| type | without the jar | with the jar | why |
|---|---|---|---|
"""


def document(needs: Mapping[str, str]) -> str:
    """docs/TYPES.md: what each type needs, by its name."""
    return _INTRODUCTION + "".join(_line(type_, what) for type_, what in needs.items())


def _line(type_: str, needs: str) -> str:
    limit, why = _EXCEPT.get(type_, ("", ""))
    limit = limit and f", {limit}"
    of_array = type_.endswith("[]") or type_ == "shop.numbers"
    exact = (_ONE if of_array else "exact") + limit
    without = {"": exact, "full": _FULL.format(exact), "raw": "refused"}[needs]
    return f"| `{type_}` | {without} | exact{limit} | {_why(type_, needs) or why} |\n"


def _why(type_: str, needs: str) -> str:
    if needs != "raw":
        return _WHY.get(needs, "")
    alike = (general for general, types in _ALIKE.items() if type_ in types)
    return _WHY[next(alike, type_ if type_ in _WHY else "nulls")]
