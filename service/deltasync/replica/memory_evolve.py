"""The tables of a replica in memory as the source's change. The reference for `replica/pending.py`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import msgspec

from deltasync.policy import Ddl
from deltasync.progress import Claim
from deltasync.replica import evolve, pending
from deltasync.replica.changes import changes, guessed, is_additive, obstacle, same, told
from deltasync.replica.memory_table import IntegrityError, MemoryTable
from deltasync.table import SourceTable, Table, TableId


def followed(
    tables: dict[TableId, MemoryTable], table: SourceTable, before: SourceTable | None, ddl: Ddl
) -> SourceTable:
    """See `pending.followed`."""
    return pending.fitted(
        table,
        before,
        advance=lambda one: advance(tables, one, ddl),
        first_fit=lambda one: _first_fit(tables, one, before, ddl),
    )


def _first_fit(
    tables: dict[TableId, MemoryTable], table: SourceTable, before: SourceTable | None, ddl: Ddl
) -> str | None:
    """See `pending._first_fit`."""
    if evolve.NEW in (table.held, before.held if before is not None else None):
        return evolve.NEW
    was_held = table.held is not None or (before is not None and before.held is not None)
    old = before.description if before is not None else None
    if table.description is None:
        return None
    found = [] if old is None or was_held else changes(old, table.description, ddl.policy)
    if not is_additive(found) and table.description.id in tables:
        return told(found)
    return _fit(tables, table.description, was_held=was_held)


def advance(
    tables: dict[TableId, MemoryTable], table: SourceTable, ddl: Ddl, at_cut: Iterable[Claim] = ()
) -> SourceTable:
    """See `pending.advance`."""
    return pending.advanced(table, ddl, partial(_carried_out, tables, ddl), at_cut=at_cut)


def _carried_out(tables: dict[TableId, MemoryTable], ddl: Ddl, before: Table | None, new: Table) -> str | None:
    """Make a table what a description says; why not, where that is not possible (see `pending.attempt`)."""
    if before is None:
        return _fit(tables, new, was_held=False)
    found = changes(before, new, ddl.policy)
    why = obstacle(found)
    if why is not None:
        return why
    try:
        tables[new.id] = tables[new.id].changed(_allowing(before, new, ddl), names(before, new))
    except IntegrityError as error:
        return f"the replica refuses to follow its change: {error.sqlstate}"
    return None


def _allowing(before: Table, new: Table, ddl: Ddl) -> Table:
    """The description with NULL allowed where it was, if the policy says to ignore that it is not any more."""
    if ddl.set_not_null != "ignore":
        return new
    nullable = {now.name for old in before.columns if not old.not_null and (now := same(old, new)) is not None}
    columns = (msgspec.structs.replace(c, not_null=False) if c.name in nullable else c for c in new.columns)
    return msgspec.structs.replace(new, columns=tuple(columns))


def names(old: Table, new: Table) -> dict[str, str | None]:
    """What each column of a table is called now; None for one that is gone."""
    pairs = ((column.name, same(column, new)) for column in old.columns)
    return {name: now.name if now is not None else None for name, now in pairs}


def _fit(tables: dict[TableId, MemoryTable], table: Table, *, was_held: bool) -> str | None:
    """Make the table fit its first description; why not, where it may not be (see `evolve.fit`, `still_held`)."""
    existing = tables.get(table.id)
    if existing is None:
        tables[table.id] = MemoryTable(table)
        return None
    missing = [column for column in table.columns if existing.table.column(column.name) is None]
    why = evolve.difference(existing.table, table) or guessed(missing)
    for column in table.stored_columns if was_held else ():
        found = existing.table.column(column.name)
        if (found is None and not column.added) or (found is not None and found.sql_type != column.sql_type):
            return f"its column {column.name} is not {column.sql_type} on the replica"
    if why is None:
        tables[table.id] = existing.widened(table)
    return why
