"""Folds the source's schema log into the replica: makes tables fit what is described, as far as the policy says.

What differs, and the DDL for it, is for `changes` to say; what of it is done and when, for the versions that are
pending. A change that is applied at once is one behind which rows from before it fit, too. Any other waits for the
first row from behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import psycopg
import structlog
from msgspec.structs import replace
from psycopg import sql

from deltasync.debezium.schema_log import SchemaEvent
from deltasync.policy import Action
from deltasync.postgres.catalog import describe_table
from deltasync.replica import ddl, types
from deltasync.replica.changes import (
    CREATED,
    Kind,
    SchemaChange,
    action,
    changes,
    guessed,
    is_additive,
    told,
)
from deltasync.table import ARRIVES, Column, SourceTable, Table, TableId, Version

log = structlog.get_logger(__name__)

REMADE = "it was dropped and made again on the source: empty it on the replica"
HOLE = "a change of it could not be logged on the source; deltasync source setup announces it anew"
NEW = CREATED
_UNDEFINED = (
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedObject,
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
)


def fold(
    events: Iterable[SchemaEvent], known: Mapping[TableId, SourceTable], policy: Mapping[str, Action]
) -> dict[TableId, SourceTable]:
    """The new state of the tables that the events are about; entries that are older than it change nothing.

    Pure: what became of a table that fits is pending behind it, to be carried out by `pending.advance`.
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
            changed[event.table] = _dropped(event, before, policy)
        elif event.description is not None and event.former is not None:
            changed |= _renamed(event, event.description, {**known, **changed}, policy)
        elif event.description is not None:
            changed[event.table] = _described(event, event.description, before, policy)
        elif before is not None:
            log.warning("schema log has a hole", table=str(event.table), reason=event.reason, id=event.id)
            here = before.complete and not before.is_arriving
            changed[event.table] = before._replace(log_id=event.id, held=HOLE, complete=here, pending=_to_drop(before))
    return changed


def _dropped(event: SchemaEvent, before: SourceTable, policy: Mapping[str, Action]) -> SourceTable:
    """The state of a table that is gone: its drop is pending, if its place is known and there is something to drop.

    A drop that is to be carried out is all that there is to do, unless an earlier one waits for the operator.
    """
    gone = before._replace(log_id=event.id, dropped=True, complete=True, reason="dropped on the source")
    if event.lsn is None or before.newest is None or not (before.captured or before.is_to_go):
        return gone
    do = policy[Kind.DROP_TABLE]
    waits = before.is_arriving or any(v.leaves and (v.renamed or v.action != "apply") for v in before.pending)
    kept = before.pending if waits or do != "apply" else ()
    version = Version(event.id, None, do, event.lsn, anytime=True, at_us=event.at_us, xid=event.xid)
    return gone._replace(pending=(*kept, version))


def from_drop(table: SourceTable) -> SourceTable:
    """The state without what became of a table that goes as a whole: from its last drop on, if there is one."""
    drops = [place for place, version in enumerate(table.pending) if version.is_drop]
    if any(version.renamed for version in table.pending):
        return table
    return table._replace(pending=table.pending[max(drops, default=0) :])


def _to_drop(table: SourceTable) -> tuple[Version, ...]:
    """What is pending up to where the table lost its name at last: what is behind it is another table's."""
    leaving = [place for place, version in enumerate(table.pending) if version.leaves]
    return table.pending[: max(leaving, default=-1) + 1]


def _unignored(version: Version) -> Version:
    """A drop cannot be ignored any more where another table has the name: its rows wait for the operator."""
    return replace(version, action="hold") if version.is_drop and version.action == "ignore" else version


def _renamed(
    event: SchemaEvent, description: Table, known: Mapping[TableId, SourceTable], policy: Mapping[str, Action]
) -> dict[TableId, SourceTable]:
    """The states of a table under both of its names: it arrives under the new one, which is all that waits for it.

    Where it cannot, it is another table, whose rows are owed.
    """
    former, before = known.get(event.former or description.id), known.get(description.id)
    newest = former.newest if former is not None else None
    is_free = before is None or before.is_gone
    if former is None or newest is None or not (is_free and _may_be_renamed(former, event, policy)):
        return {description.id: _described(event._replace(complete=False), description, before, policy)}
    do = action(changes(newest, description, policy), policy)
    version = Version(event.id, description, do, event.lsn, at_us=event.at_us, xid=event.xid, renamed=True)
    held = f"{ARRIVES}{newest.id}"
    state = SourceTable(event.id, True, former.complete, False, event.reason, held, description)  # noqa: FBT003
    if before is not None:
        state = state._replace(gone_lsn=before.gone_lsn, gone_at_us=before.gone_at_us)
    return {newest.id: former._replace(dropped=True, pending=(*former.pending, version)), description.id: state}


def _may_be_renamed(former: SourceTable, event: SchemaEvent, policy: Mapping[str, Action]) -> bool:
    """True where the replica has the table, and is to have it under another name."""
    fits = former.held is None or former.is_arriving or bool(former.pending)
    is_told = event.lsn is not None and event.captured
    return fits and is_told and former.captured and former.held != HOLE and policy[Kind.RENAME_TABLE] != "ignore"


def _described(
    event: SchemaEvent, description: Table, before: SourceTable | None, policy: Mapping[str, Action]
) -> SourceTable:
    known = None if before is None or before.is_gone else before
    is_lost = known is not None and known.is_arriving and not event.captured  # nothing waits for its rows any more
    complete = event.complete and (known is None or known.complete) and not is_lost
    remade = known is not None and not known.is_to_go and (known.dropped or known.held == REMADE)
    is_new = known is None and event.lsn is not None  # what is announced by set-up is wanted
    held = REMADE if remade else NEW if is_new and policy[Kind.CREATE_TABLE] == "hold" else None
    state = SourceTable(event.id, event.captured, complete, False, event.reason, held, description)  # noqa: FBT003
    if before is not None:
        state = state._replace(gone_lsn=before.gone_lsn, gone_at_us=before.gone_at_us)
    if known is None or remade or not (known.is_to_go or (known.captured and event.captured)):
        return state
    if known.held not in (None, HOLE) and not known.pending and not known.is_arriving:
        return state
    pending = tuple(map(_unignored, known.pending))
    fitted = state._replace(description=known.description, pending=pending, held=known.held)
    if not event.captured:
        return fitted
    if known.held == HOLE:  # when it became what it is now, nothing tells
        return _versioned(fitted._replace(held=None), event._replace(lsn=None), description, policy)
    return _versioned(fitted, event, description, policy)


def _versioned(table: SourceTable, event: SchemaEvent, description: Table, policy: Mapping[str, Action]) -> SourceTable:
    """The state with one more version pending, if it is another one."""
    newest = table.newest
    if newest is not None and replace(newest, former=()) == description:
        return table
    found = changes(newest, description, policy)
    do, anytime = action(found, policy), newest is None or is_additive(found)
    if do == "ignore" or (do == "apply" and event.lsn is None and not anytime):
        do = "hold"
    version = Version(event.id, description, do, event.lsn, anytime, event.at_us, event.xid)
    return table._replace(pending=(*table.pending, version))


def reason(table: SourceTable, policy: Mapping[str, Action]) -> str | None:
    """Why a table is held, by its next version; None where that is on its way."""
    if table.is_arriving:
        return table.held
    if not table.pending or table.pending[0].action in {"apply", "ignore"}:
        return None
    return table.held or told(changes(table.description, table.pending[0].description, policy))


def marked(table: Table, before: Table | None) -> Table:
    """The description with its columns marked that are new since the replica's table fitted. Pure.

    A column is known by its number: one that was dropped and added again is new, whatever its name.
    """
    if before is None or any(column.number is None for column in before.columns):
        return table
    known = {column.number: column for column in before.columns}
    return replace(table, columns=tuple(_marked(column, known.get(column.number)) for column in table.columns))


def _marked(column: Column, before: Column | None) -> Column:
    if before is None:
        return replace(column, added=True)
    # A table that was rewritten since does not tell any more what its rows held when the column came.
    return replace(column, added=True, missing=column.missing or before.missing) if before.added else column


def target(table: SourceTable) -> SourceTable:
    """The state as the operator makes it by hand: the newest version, its columns marked that came meanwhile."""
    description = table.description
    for version in table.pending:
        if version.description is not None:
            description = marked(version.description, description)
    return table._replace(description=description, pending=())


def released(table: SourceTable) -> SourceTable:
    """The state of a table that is held no more: the replica's has all of its columns as they are on the source."""
    if table.description is None:
        return table._replace(held=None)
    columns = tuple(replace(column, added=False) for column in table.description.columns)
    return table._replace(held=None, description=replace(table.description, columns=columns))


def fit(connection: psycopg.Connection, table: Table, found: Sequence[SchemaChange] = ()) -> str | None:
    """Make the replica's table fit its description, in the caller's transaction, by these changes.

    The description has its columns `marked` that are new. Returns why it may not be made to fit, and the caller
    rolls back what was done until then; None where it fits.
    """
    why = types.fit(connection, table)
    if why is not None:
        return why
    if describe_table(connection, table.id) is None:
        _create(connection, table)
    else:
        _carry_out(connection, table, found)
    existing = describe_table(connection, table.id) or table
    missing = _missing(existing, table)
    why = difference(existing, table) or guessed(missing) or _unfilled(connection, existing, table)
    return why or _add(connection, table, missing)


def _carry_out(connection: psycopg.Connection, table: Table, found: Sequence[SchemaChange]) -> None:
    """All but what is added, defaults last: they may call functions that are not here."""
    todo = [change for change in found if change.kind not in (Kind.ADD_COLUMN, Kind.ADD_ENUM_LABEL)]
    for statement in (statement for change in todo for statement in change.statements):
        ddl.execute(connection, statement)
    existing = describe_table(connection, table.id) or table
    for change in todo:
        here = existing.column(change.column)
        if change.default is not None and here is not None and not here.identity:
            _try(connection, change.default)
    if todo:
        log.info("table changed", table=str(table.id), changes=[change.kind.value for change in todo])


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
    why = difference(existing, description) or _unfilled(connection, existing, description)
    return why or _add(connection, description, missing)


def _add(connection: psycopg.Connection, table: Table, missing: Sequence[Column]) -> str | None:
    """Add columns; why they are not the source's, if they are not."""
    if not missing:
        return None
    ddl.execute(connection, ddl.add_columns(table, missing))
    for column in missing:
        if column.missing is not None and not column.generated:
            _try(connection, ddl.set_default(table, column))
    log.info("columns added", table=str(table.id), columns=[column.name for column in missing])
    # Their types may have been there already, and be others: a domain that rounds, say.
    return types.difference(describe_table(connection, table.id) or table, table)


def _try(connection: psycopg.Connection, statement: sql.Composed) -> None:
    """Set a default, which may call a function that only the source has: all values travel, so none is lost."""
    with suppress(*_UNDEFINED), connection.transaction():
        ddl.execute(connection, statement)


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


def difference(existing: Table, table: Table) -> str | None:
    """What of the replica's table keeps it from taking the described rows, in words; None where nothing does. Pure."""
    if set(existing.primary_key) != set(table.primary_key):
        keys = [f"({', '.join(key)})" for key in (table.primary_key, existing.primary_key)]
        return f"its primary key is {keys[0]} on the source and {keys[1]} on the replica"
    return types.difference(existing, table)


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
