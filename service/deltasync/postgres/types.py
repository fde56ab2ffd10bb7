"""Which column types travel exactly from source to replica, and which may be part of a key. Pure.

Setup copies `CARRIED` and `CARRIED_AS_KEY` into the source (`deltasync.carried_type`), where
`deltasync.unsupported` decides alike for tables that are created later.
"""

from __future__ import annotations

from collections import defaultdict

from deltasync.table import Column, Table

# pg_type.typname of types in pg_catalog; enums are carried too, alone and as keys.
CARRIED_AS_KEY = frozenset(
    {
        "bool",
        "bytea",
        "date",
        "int2",
        "int4",
        "int8",
        "numeric",
        "text",
        "time",
        "timestamp",
        "timestamptz",
        "uuid",
        "varchar",
    }
)
# Floats have no exact equality to find a row by, and equal char(n) values differ in text.
CARRIED = CARRIED_AS_KEY | {
    "_int4",
    "_int8",
    "_text",
    "_uuid",
    "_varchar",
    "bpchar",
    "float4",
    "float8",
    "json",
    "jsonb",
}


def unsupported(table: Table) -> list[str]:
    """Why this table cannot be carried exactly: a sentence per column, naming it and its type; empty if it can."""
    return [
        *_same_but_for_case(table),
        *([] if table.stored_columns else ["it has no column whose value travels"]),
        *(problem for column in table.columns if (problem := _problem(column, key=column.name in table.primary_key))),
    ]


def _problem(column: Column, *, key: bool) -> str | None:
    if column.generated:
        return f"column {column.name}: a generated column is not carried as a key" if key else None
    if not _carried(column, CARRIED):
        return f"column {column.name}: the type {column.sql_type} is not carried exactly"
    if key and not _carried(column, CARRIED_AS_KEY):
        return f"column {column.name}: the type {column.sql_type} is not carried as a key"
    if key and not column.collation_exact:
        return f"column {column.name}: its collation holds different texts for equal in the key"
    return None


def _carried(column: Column, types: frozenset[str]) -> bool:
    if column.domain:
        return False
    if column.labels is not None and column.element is None:
        return True
    return column.type.schema == "pg_catalog" and column.type.name in types


def _same_but_for_case(table: Table) -> list[str]:
    """Debezium stops at two columns whose names differ only by case."""
    names = defaultdict(list)
    for column in table.columns:
        names[column.name.lower()].append(column.name)
    return [
        f"the column names {', '.join(sorted(same))} differ only by case" for same in names.values() if len(same) > 1
    ]
