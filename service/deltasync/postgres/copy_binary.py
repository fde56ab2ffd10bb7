"""Which tables COPY's binary format carries exactly from one server to another of the same major version. Pure."""

from __future__ import annotations

from deltasync.table import Column, Table

# Their binary form is the value and nothing else. Others hold numbers that each database gives anew (reg…, composite
# types, arrays of a type of one's own), depend on settings (money), or have none that is promised: text is for those.
_BUILT_IN = """
    bool int2 int4 int8 float4 float8 numeric oid text varchar bpchar char name bytea bit varbit uuid json jsonb
    date time timetz timestamp timestamptz interval inet cidr macaddr macaddr8 point line lseg box path polygon circle
    int4range int8range numrange daterange tsrange tstzrange
    int4multirange int8multirange nummultirange datemultirange tsmultirange tstzmultirange tsvector pg_lsn
"""
_EXACT = frozenset(_BUILT_IN.split())


def travels_in_binary(table: Table) -> bool:
    """True where all columns whose values travel do."""
    return all(map(_is_exact, table.stored_columns))


def _is_exact(column: Column) -> bool:
    carrier = column.carrier
    type_ = carrier.element or carrier.type
    if type_.schema == "pg_catalog":
        return type_.name in _EXACT
    return column.kind == "e" and carrier.element is None  # the label
