"""Which column types travel exactly from source to replica, and which may be part of a key. Pure.

Setup copies `CARRIED` into the source (`deltasync.carried_type`), where `deltasync.unsupported`
decides alike for tables that are created later. What is said here of Debezium was measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from deltasync.table import Column, Table, TableId, TypeDefinition


class Needs(StrEnum):
    """What a type needs beyond the shipped connector to travel exactly.

    FULL: Debezium stops at its unchanged TOAST values, of which there are none under REPLICA IDENTITY FULL.
    RAW_TEXT: Debezium loses values of it; the raw-text converter does not. That mends FULL as well.
    """

    NOTHING = ""
    FULL = "full"
    RAW_TEXT = "raw"


class Carried(NamedTuple):
    """How a type is carried: what it needs, and whether it may be part of a key."""

    needs: Needs = Needs.NOTHING
    as_key: bool = True


ARRAY = "array"  # of any type that has no entry of its own
_KINDS = {"e": "enum", "c": "composite", "r": "range", "m": "multirange"}

_EXACT = """
    bool int2 int4 int8 float4 float8 numeric money oid
    text varchar bpchar char name bytea bit uuid json jsonb xml
    date time timestamp timestamptz interval
    inet cidr macaddr macaddr8 point line lseg box path circle
    int4range int8range numrange daterange tsrange tstzrange
    int4multirange int8multirange nummultirange datemultirange tsmultirange tstzmultirange
    tsvector tsquery jsonpath pg_lsn pg_snapshot xid xid8 tid aclitem
    regclass regtype regproc regprocedure regoper regoperator regrole regnamespace regconfig regdictionary regcollation
    enum composite range multirange
    hstore:hstore ltree:ltree ltree:lquery ltree:ltxtquery cube:cube seg:seg
    isn:ean13 isn:isbn isn:isbn13 isn:ismn isn:ismn13 isn:issn isn:issn13 isn:upc
    _text _varchar _json _jsonb _int4 _int8 _uuid
"""
_FULL = """
    _bool _int2 _float4 _float8 _numeric _oid _bpchar _bytea _inet _cidr _macaddr _macaddr8
    _int4range _int8range _numrange _daterange _tsrange _tstzrange
    vector:vector vector:halfvec
"""
_RAW_TEXT = f"varbit timetz polygon int2vector oidvector vector:sparsevec {ARRAY}"

# By `type_key`. Which texts of citext are equal depends on the locale, which may differ on the replica.
CARRIED: Mapping[str, Carried] = {
    **{name: Carried() for name in _EXACT.split()},
    **{name: Carried(Needs.FULL) for name in _FULL.split()},
    **{name: Carried(Needs.RAW_TEXT) for name in _RAW_TEXT.split()},
    "citext:citext": Carried(as_key=False),
    "citext:_citext": Carried(Needs.FULL, as_key=False),
}


def type_key(column: Column) -> str:
    """The name under which CARRIED holds the type of a column, or of what its domain stands for."""
    carrier = column.carrier
    if carrier.type.schema == "pg_catalog":
        # Without a length, nothing says how many of its leading zeros Debezium dropped.
        return "" if carrier.type.name == "bit" and "(" not in carrier.sql_type else carrier.type.name
    if column.extension is not None:
        return f"{column.extension}:{carrier.type.name}"
    return ARRAY if carrier.element else _KINDS.get(column.kind, "")


def carried(column: Column) -> Carried | None:
    """How the type of a column is carried; None where it is not, whatever the connector has."""
    is_array = column.carrier.element is not None
    found = CARRIED.get(type_key(column)) or (CARRIED[ARRAY] if is_array else None)
    if found is None or column.base is None or (found.needs is Needs.RAW_TEXT and is_array):
        return found
    if is_array:
        return found._replace(needs=Needs.FULL)
    # The converter knows types of extensions by their names, and a domain has one of its own.
    return found if found.needs is Needs.NOTHING or column.extension is None else None


def unsupported(table: Table, *, raw_text: bool) -> list[str]:
    """Why this table cannot be carried exactly: a sentence per column, naming it and its type; empty if it can."""
    return [
        *_same_but_for_case(table),
        *([] if table.stored_columns else ["it has no column whose value travels"]),
        *(problem for column in table.columns if (problem := _problem(table, column, raw_text=raw_text))),
        *_not_to_be_made(table.types),
    ]


def skipping(tables: Iterable[Table], skip: Collection[TableId], *, raw_text: bool) -> Iterator[Table]:
    """The tables; in those of `skip` the columns that cannot be carried exactly are marked as skipped, keys apart.

    `deltasync.skipping` marks alike in what the source announces.
    """
    for table in tables:
        if table.id in skip:
            columns = (
                msgspec.structs.replace(
                    c, skipped=c.name not in table.primary_key and _is_unsupported(table, c, raw_text)
                )
                for c in table.columns
            )
            yield msgspec.structs.replace(table, columns=tuple(columns))
        else:
            yield table


def _is_unsupported(table: Table, column: Column, raw_text: bool) -> bool:  # noqa: FBT001 - handed on
    return _problem(table, column, raw_text=raw_text) is not None


def left_alone(table: Table, *, raw_text: bool) -> list[str]:
    """Why each skipped column cannot be carried exactly: a sentence each, as `unsupported` has it."""
    found = (msgspec.structs.replace(column, skipped=False) for column in table.skipped_columns)
    return [problem for column in found if (problem := _problem(table, column, raw_text=raw_text))]


def _problem(table: Table, column: Column, *, raw_text: bool) -> str | None:
    key = column.name in table.primary_key
    if column.skipped:
        return None
    if column.generated:
        return f"column {column.name}: a generated column is not carried as a key" if key else None
    found = carried(column)
    if found is None:
        return f"column {column.name}: the type {column.sql_type} is not carried exactly"
    lacking = None if raw_text else _lacking(found.needs, table)
    if lacking is not None:
        return f"column {column.name}: the type {column.sql_type} needs {lacking}"
    if key and not (found.as_key and not _may_hold_citext(table, column)):
        return f"column {column.name}: which values of {column.sql_type} are equal depends on the locale: not as a key"
    if key and not column.collation_exact:
        return f"column {column.name}: its collation holds different texts for equal in the key"
    return None


def _lacking(needs: Needs, table: Table) -> str | None:
    if needs is Needs.RAW_TEXT:
        return "the raw-text converter: DELTASYNC_CONNECT_RAW_TEXT"
    if needs is Needs.FULL and table.replica_identity != "f":
        return "REPLICA IDENTITY FULL, or the raw-text converter: DELTASYNC_CONNECT_RAW_TEXT"
    return None


def _may_hold_citext(table: Table, column: Column) -> bool:
    """True for a type that is made of others, in a table that uses citext somewhere."""
    element = column.carrier.element
    made = column.kind in {"c", "r", "m"} or (element is not None and element.schema != "pg_catalog")
    return made and any(type_.extension == "citext" for type_ in table.types)


def _not_to_be_made(types: tuple[TypeDefinition, ...]) -> Iterator[str]:
    for type_ in types:
        if type_.kind == "t":
            yield f"the type {type_.schema}.{type_.name} is the row type of a table"
        elif type_.kind == "b":
            yield f"the type {type_.schema}.{type_.name} belongs to no extension and is made by functions"


def _same_but_for_case(table: Table) -> list[str]:
    """Debezium stops at two columns whose names differ only by case."""
    names = defaultdict(list)
    for column in table.columns:
        names[column.name.lower()].append(column.name)
    return [
        f"the column names {', '.join(sorted(same))} differ only by case" for same in names.values() if len(same) > 1
    ]
