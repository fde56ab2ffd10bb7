"""Carries out what is pending of a table: version by version, each in one piece, waiting briefly for its lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import psycopg
import structlog
from msgspec.structs import replace
from psycopg import sql

from deltasync.errors import RefusedError, UnreachableError
from deltasync.failure import Verdict, describe, verdict
from deltasync.policy import Ddl
from deltasync.postgres.catalog import describe_table
from deltasync.progress import Claim
from deltasync.replica import evolve
from deltasync.replica.changes import Kind, changes, is_additive, renames, same, told
from deltasync.table import Former, SourceTable, Table, Version

log = structlog.get_logger(__name__)

LOCKED = "somebody else has its lock on the replica: the change is tried again by itself"
EARLY = (
    "rows from behind its change were applied before the change was known, and may have lost something: make the "
    "replica's table fit, and its rows equal (deltasync compare)"
)


def followed(
    connection: psycopg.Connection, table: SourceTable, before: SourceTable | None, settings: Ddl
) -> SourceTable:
    """A state that was folded from `before`, once the replica's table fits it as far as it may, or is held.

    Raises UnreachableError where the table is locked that is to fit for the first time.
    """
    if not table.captured or table.dropped or table.description is None or table.held == evolve.HOLE:
        return table
    if table.pending:
        return advance(connection, table, settings)
    if before is not None and before.captured and before.description == table.description and table.held is None:
        return table
    old = before.description if before is not None else None
    marked = table._replace(description=evolve.marked(table.description, old))
    held = _first_fit(connection, marked, before, settings)
    return evolve.released(marked) if held is None else marked._replace(held=held)


def _first_fit(
    connection: psycopg.Connection, table: SourceTable, before: SourceTable | None, settings: Ddl
) -> str | None:
    """Why a table is held that does not fit any description yet."""
    if evolve.NEW in (table.held, before.held if before is not None else None):
        return evolve.NEW
    if table.held is not None or (before is not None and before.held is not None):
        return evolve.still_held(connection, table)
    old = before.description if before is not None else None
    if table.description is None:
        return None
    found = [] if old is None else changes(old, table.description, settings.policy)
    if not is_additive(found) and describe_table(connection, table.description.id) is not None:
        return told(found)
    why = attempt(connection, table.description, settings, old)
    if why == LOCKED:
        raise UnreachableError(
            f"The table {table.description.id} is locked on the replica.", remedy="It is tried again."
        )
    return why


def advance(
    connection: psycopg.Connection, table: SourceTable, settings: Ddl, *, at_cut: Iterable[Claim] = ()
) -> SourceTable:
    """Carry out what may be now, and say why the rest is held; in the caller's transaction (see `advanced`)."""
    return advanced(table, settings, partial(_carried_out, connection, settings), at_cut=at_cut)


def advanced(
    table: SourceTable,
    settings: Ddl,
    carry_out: Callable[[Table, Version], str | None],
    *,
    at_cut: Iterable[Claim] = (),
) -> SourceTable:
    """The state when all was carried out that may be now, and why the rest is held.

    `carry_out` makes a table that is as it is told a version; where it returns why not, nothing was done. `at_cut` are
    the partitions of the table where all rows from before the next version were applied: that one may be carried out,
    too.
    """
    cut = list(at_cut)
    while table.pending and table.description is not None:
        version = table.pending[0]
        if version.action != "apply" or not (version.anytime or cut):
            break
        until = _applied_until(cut)
        if _had_early_rows(table.description, table.pending, until):
            return _held(table, EARLY)
        why = carry_out(table.description, version)
        if why is not None:
            return table._replace(held=why) if why == LOCKED else _held(table, why)
        description = _remembering(table.description, version, until)
        table = evolve.released(table._replace(description=description, pending=table.pending[1:]))
        cut = []
    return table._replace(held=evolve.reason(table, settings.policy))


def attempt(connection: psycopg.Connection, table: Table, settings: Ddl, found: Table | None = None) -> str | None:
    """Make the replica's table fit, as it fitted `found` until now. Where it returns why not, nothing was done."""
    todo = [] if found is None else changes(found, table, settings.policy)
    try:
        with connection.transaction() as savepoint:
            wait_ms = sql.Literal(int(settings.lock_timeout_s * 1000))
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(wait_ms))
            why = evolve.fit(connection, evolve.marked(table, found), todo)
            if why is not None:
                raise psycopg.Rollback(savepoint)
    except psycopg.errors.LockNotAvailable:
        return LOCKED
    except (psycopg.Error, RefusedError) as error:
        if verdict(error) is Verdict.RETRY:
            raise
        return f"the replica refuses to follow its change: {describe(error)}"
    return why


def _carried_out(connection: psycopg.Connection, settings: Ddl, before: Table, version: Version) -> str | None:
    why = attempt(connection, version.description, settings, before)
    if why is not None:
        log.warning("table not changed", table=str(before.id), reason=why)
    return why


def _applied_until(cut: Iterable[Claim]) -> int:
    """The place in the source's log up to which rows were applied."""
    marks = (claim.progress.watermark for claim in cut)
    return max((mark[1] for mark in marks if mark is not None), default=-1)


def _had_early_rows(before: Table, pending: Sequence[Version], until: int) -> bool:
    """True where rows from behind changes, written before those were known, may be wrong without a trace.

    They were rounded to the old type, or went into a column whose name is another one's behind this version, or a later
    one, which may have become known only when the name was free.
    """
    version = pending[0]
    if version.lsn is None:
        return False
    retyped = any(found.kind is Kind.CHANGE_TYPE for found in changes(before, version.description))
    if retyped and version.lsn <= until:
        return True
    if any(one.lsn is not None and one.lsn <= until and renames(before, one.description) for one in pending):
        return True
    known = ((one, version.description.column(one.name)) for one in before.former if version.lsn <= one.until)
    return any(column is not None and column.number != one.number for one, column in known)


def _remembering(before: Table, version: Version, until: int) -> Table:
    """The description of a version that was carried out, with the names that columns gave up while rows were ahead."""
    found = {one.name: one for one in before.former}
    if version.lsn is not None and version.lsn <= until:
        for column in before.columns:
            now = same(column, version.description)
            if now is None or now.name != column.name:
                found[column.name] = Former(column.name, column.number, until)
    return replace(version.description, former=tuple(found.values()))


def _held(table: SourceTable, why: str) -> SourceTable:
    first, *rest = table.pending
    return table._replace(held=why, pending=(replace(first, action="hold"), *rest))
