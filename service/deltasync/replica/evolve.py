"""Folds the source's schema log into the replica: creates tables and adds columns, holds what it may not guess.

Applied by itself: a new table, the types that it needs, new columns, new labels of an enum. Anything else
(a rename, another type, a dropped column, another key) holds the table until the replica's was made to fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import psycopg
import structlog
from msgspec.structs import replace
from psycopg import sql

from deltasync.debezium.schema_log import SchemaEvent
from deltasync.postgres.catalog import describe_table
from deltasync.replica import ddl, types
from deltasync.table import Column, SourceTable, Table, TableId

log = structlog.get_logger(__name__)

REMADE = "it was dropped and made again on the source: empty it on the replica"
# A literal, perhaps with a cast, as pg_get_expr prints it.
_CONSTANT = re.compile(
    r"('(?:[^']|'')*'|-?\d+(\.\d+)?|true|false|NULL)(::[a-z][a-z0-9_ .\"]*(\(\d+(,-?\d+)?\))?(\[\])*)?"
)
HOLE = "a change of it could not be logged on the source; deltasync source setup announces it anew"
_UNDEFINED = (
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedObject,
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
)


def fold(events: Iterable[SchemaEvent], known: Mapping[TableId, SourceTable]) -> dict[TableId, SourceTable]:
    """The new state of the tables that the events are about; entries that are older than it change nothing.

    Pure: what the replica has to do about it is `fit`.
    """
    changed: dict[TableId, SourceTable] = {}
    for event in events:
        if event.table is None:
            log.warning("schema log has a hole", reason=event.reason, id=event.id)
            continue
        before = changed.get(event.table) or known.get(event.table)
        if before is not None and event.id <= before.log_id:
            continue
        if event.event == "drop" and before is not None:
            changed[event.table] = before._replace(log_id=event.id, dropped=True, reason="dropped on the source")
        elif event.description is not None:
            changed[event.table] = _described(event, before)
        elif before is not None:
            log.warning("schema log has a hole", table=str(event.table), reason=event.reason, id=event.id)
            changed[event.table] = before._replace(log_id=event.id, held=HOLE)
    return changed


def _described(event: SchemaEvent, before: SourceTable | None) -> SourceTable:
    complete = event.complete and (before is None or before.complete)
    remade = before is not None and (before.dropped or before.held == REMADE)
    held = REMADE if remade else None
    return SourceTable(event.id, event.captured, complete, False, event.reason, held, event.description)  # noqa: FBT003


def marked(table: SourceTable, before: SourceTable | None) -> SourceTable:
    """The state with its columns marked that are new since the replica's table fitted. Pure.

    A column is known by its number: one that was dropped and added again is new, whatever its name.
    """
    old = before.description if before is not None else None
    if table.description is None or old is None or any(column.number is None for column in old.columns):
        return table
    known = {column.number: column for column in old.columns}
    columns = tuple(_marked(column, known.get(column.number)) for column in table.description.columns)
    return table._replace(description=replace(table.description, columns=columns))


def _marked(column: Column, before: Column | None) -> Column:
    if before is None:
        return replace(column, added=True)
    # A table that was rewritten since does not tell any more what its rows held when the column came.
    return replace(column, added=True, missing=column.missing or before.missing) if before.added else column


def released(table: SourceTable) -> SourceTable:
    """The state of a table that is held no more: the replica's has all of its columns as they are on the source."""
    if table.description is None:
        return table._replace(held=None)
    columns = tuple(replace(column, added=False) for column in table.description.columns)
    return table._replace(held=None, description=replace(table.description, columns=columns))


def fit(connection: psycopg.Connection, table: Table, before: Table | None) -> str | None:
    """Make the replica's table fit its description, in the caller's transaction.

    `before` is the description that it fitted until now. Returns why it may not be made to fit, in
    which case no column that was there is changed; None where it fits.
    """
    existing = describe_table(connection, table.id)
    why = types.fit(connection, table)
    if why is not None:
        return why
    if existing is None:
        _create(connection, table)
        existing = describe_table(connection, table.id) or table
    missing = _missing(existing, table)
    why = difference(existing, table, before) or guessed(missing) or _unfilled(connection, existing, table)
    if why is None and missing:
        _add(connection, table, missing)
        # Their types may have been there already, and be others: a domain that rounds, say.
        why = types.difference(describe_table(connection, table.id) or existing, table)
    if why is None and before is not None:
        _follow(connection, existing, table, before)
    return why


def still_held(connection: psycopg.Connection, table: SourceTable) -> str | None:
    """Why a table that was held stays so: the replica's does not have its columns, types and key; None if it has.

    Columns that came meanwhile are added if all others fit. A table that was dropped and made again must have been
    emptied, too.
    """
    description = table.description
    if description is None:
        return table.held
    existing = describe_table(connection, description.id)
    if existing is None:
        return "it does not exist on the replica"
    if table.held == REMADE and not _is_empty(connection, description.id):
        return REMADE
    missing = [column for column in _missing(existing, description) if column.added and guessed([column]) is None]
    for column in description.stored_columns:
        found = existing.column(column.name)
        if column not in missing and (found is None or found.sql_type != column.sql_type):
            return f"its column {column.name} is not {column.sql_type} on the replica"
    why = difference(existing, description, None) or _unfilled(connection, existing, description)
    if why is None and missing:
        _add(connection, description, missing)
    return why


def _add(connection: psycopg.Connection, table: Table, missing: Sequence[Column]) -> None:
    ddl.execute(connection, ddl.add_columns(table, missing))
    for column in missing:
        if column.missing is not None and not column.generated:
            _set_default(connection, table, column)
    log.info("columns added", table=str(table.id), columns=[column.name for column in missing])


def _follow(connection: psycopg.Connection, existing: Table, table: Table, before: Table) -> None:
    """Do to columns what was done on the source and asks nothing of the rows: other defaults, and null allowed.

    A serial is an identity column here, which has no default.
    """
    for old in before.stored_columns:
        column = _same(old, table)
        here = None if column is None else existing.column(column.name)
        if column is None or here is None or column.generated or column.skipped:
            continue
        if old.not_null and not column.not_null:
            ddl.execute(connection, ddl.drop_not_null(table, column))
            log.info("null allowed", table=str(table.id), column=column.name)
        if old.default != column.default and not (column.identity or here.identity):
            _set_default(connection, table, column)


def _set_default(connection: psycopg.Connection, table: Table, column: Column) -> None:
    with suppress(*_UNDEFINED), connection.transaction():  # it may call a function that only the source has
        ddl.execute(connection, ddl.set_default(table, column))


def _unfilled(connection: psycopg.Connection, existing: Table, table: Table) -> str | None:
    """A column that is new on the source, and here already: its rows must hold what the source's do."""
    for column in table.stored_columns:
        if not column.added or existing.column(column.name) is None or guessed([column]) is not None:
            continue
        if ddl.execute(connection, ddl.other_than_filled(table, column)).fetchone() is not None:
            return f"the column {column.name} is new on the source, and the replica's has other values: drop it here"
    return None


def _is_empty(connection: psycopg.Connection, id_: TableId) -> bool:
    row = connection.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(*id_))).fetchone()
    return row is None


def guessed(missing: Iterable[Column]) -> str | None:
    """A default that is evaluated per row gave the source's rows values that no record carries."""
    for column in missing:
        if column.generated or column.skipped or column.missing is not None:
            continue
        if column.identity:
            return f"the column {column.name} was added with an identity of its own for each row"
        if column.default is not None and not _CONSTANT.fullmatch(column.default):
            return (
                f"the column {column.name} was added with the default {column.default}, which differs from row to row"
            )
    return None


def difference(existing: Table, table: Table, before: Table | None) -> str | None:
    """What keeps the replica's table from taking the described rows, in words; None where nothing does. Pure."""
    if set(existing.primary_key) != set(table.primary_key):
        keys = [f"({', '.join(key)})" for key in (table.primary_key, existing.primary_key)]
        return f"its primary key is {keys[0]} on the source and {keys[1]} on the replica"
    for old in (before or table).columns:
        new = _same(old, table)
        if new is None:
            return f"the column {old.name} was dropped or renamed on the source"
        if new.name != old.name:
            return f"the column {old.name} was renamed to {new.name} on the source"
        if new.sql_type != old.sql_type and not new.skipped:
            return f"the type of {old.name} changed from {old.sql_type} to {new.sql_type} on the source"
    return types.difference(existing, table)


def _same(old: Column, table: Table) -> Column | None:
    """The column that this one has become; by its name where a description is from before columns had numbers."""
    if old.number is None or any(column.number is None for column in table.columns):
        return table.column(old.name)
    return next((column for column in table.columns if column.number == old.number), None)


def _missing(existing: Table, table: Table) -> list[Column]:
    return [column for column in table.columns if existing.column(column.name) is None]


def _create(connection: psycopg.Connection, table: Table) -> None:
    try:
        with connection.transaction():
            ddl.execute(connection, ddl.create_table(table))
    except _UNDEFINED:
        # A default calls a function that only the source has. All values travel, so none is lost.
        ddl.execute(connection, ddl.create_table(table, with_defaults=False))
        log.warning("table created without its defaults", table=str(table.id))
        return
    log.info("table created", table=str(table.id))
