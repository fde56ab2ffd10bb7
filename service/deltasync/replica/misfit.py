"""Whether the replica's table can take the rows of the source's. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from deltasync.errors import RecordError
from deltasync.table import Column, Table

_WIDER = {"int2": ("int4", "int8", "numeric"), "int4": ("int8", "numeric"), "int8": ("numeric",), "float4": ("float8",)}
_ANY_TEXT = frozenset({"text", "varchar"})
# Without a length these hold one character, or bit.
_BOUNDED = frozenset({"bpchar", "bit"})


def misfit(table: Table, known: Table) -> RecordError | None:
    """Why the replica's table (`known`) cannot take the rows of the source's; None where it can. Pure."""
    lacking = [c.name for c in table.stored_columns if known.column(c.name) is None]
    if lacking:
        return _columns_missing(table, lacking)
    narrower = [c for c in table.stored_columns if not holds(known.column(c.name), c)]
    if narrower:
        return _narrower(table, narrower)
    return None if set(known.primary_key) == set(table.primary_key) else _other_key(table, known)


def holds(found: Column | None, column: Column) -> bool:
    """True if the replica's column holds every value of the source's: a narrower one would round or cut in silence."""
    if found is None or found.sql_type == column.sql_type:
        return found is not None
    unbounded = "(" not in found.sql_type and found.type.name not in _BOUNDED
    if unbounded and found.type.name in _ANY_TEXT:
        return True
    return found.type.name in _WIDER.get(column.type.name, ()) or (found.type == column.type and unbounded)


def _narrower(table: Table, columns: Sequence[Column]) -> RecordError:
    named = ", ".join(f"{column.name} {column.sql_type}" for column in columns)
    return RecordError(
        f"The replica's table {table.id} cannot hold every value of the source's columns: {named}.",
        remedy="Give its columns the source's types on the replica.",
    )


def table_missing(table: Table) -> RecordError:
    """What to say where the replica has no such table."""
    return RecordError(
        f"The table {table.id} does not exist on the replica.",
        remedy="Run deltasync replica setup: it creates what is missing.",
    )


def _columns_missing(table: Table, names: Sequence[str]) -> RecordError:
    return RecordError(
        f"The replica's table {table.id} lacks the column {', '.join(names)}.",
        remedy="Add it on the replica with the source's type, or run deltasync replica setup.",
    )


def _other_key(table: Table, known: Table) -> RecordError:
    return RecordError(
        f"The primary key of {table.id} is ({', '.join(table.primary_key)}) on the source "
        f"and ({', '.join(known.primary_key)}) on the replica.",
        remedy="Give the replica's table the source's primary key.",
    )
