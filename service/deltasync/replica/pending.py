"""Carries out what is pending of a table: version by version, each in one piece, waiting briefly for its lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import takewhile

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

    Raises UnreachableError where the table is locked that is to fit for the first time (see `fitted`).
    """
    return fitted(
        table,
        before,
        advance=lambda one: advance(connection, one, settings),
        first_fit=lambda one: _first_fit(connection, one, before, settings),
    )


def fitted(
    table: SourceTable,
    before: SourceTable | None,
    *,
    advance: Callable[[SourceTable], SourceTable],
    first_fit: Callable[[SourceTable], str | None],
) -> SourceTable:
    """The state of a table that was folded from `before`, whoever the replica is.

    `advance` carries out what is pending of it. `first_fit` makes the replica's table fit its description; where it
    returns why not, nothing was done.
    """
    if table.held == evolve.HOLE or table.is_arriving:
        return table
    if table.pending:
        return advance(table)
    if not table.captured or table.dropped or table.description is None:
        return table
    if before is not None and before.captured and before.description == table.description and table.held is None:
        return table
    old = before.description if before is not None else None
    marked = table._replace(description=evolve.marked(table.description, old))
    held = first_fit(marked)
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
    carry_out: Callable[[Table | None, Table], str | None],
    *,
    at_cut: Iterable[Claim] = (),
) -> SourceTable:
    """The state when all was carried out that may be now, and why the rest is held.

    `carry_out` makes a table that is as the first description says (None: it is not there) what the second one does;
    where it returns why not, nothing was done. `at_cut` are the partitions of the table where all rows from before the
    next version were applied: that one may be carried out, too. A drop is for `dropping` alone, and another name
    for `renaming`.
    """
    cut = list(at_cut)
    while table.pending:
        version, before = table.pending[0], table.description
        if version.description is None or version.renamed or version.action != "apply" or not (version.anytime or cut):
            break
        if had_early_rows(before, table.pending, cut):
            return refused(table, EARLY)
        why = carry_out(before, version.description)
        if why is not None:
            return refused(table, why)
        description = _remembering(before, version, _applied_until(cut))
        table = evolve.released(table._replace(description=description, pending=table.pending[1:]))
        cut = []
    return table._replace(held=evolve.reason(table, settings.policy))


def attempt(connection: psycopg.Connection, table: Table, settings: Ddl, found: Table | None = None) -> str | None:
    """Make the replica's table fit, as it fitted `found` until now. Where it returns why not, nothing was done."""
    todo = [] if found is None else changes(found, table, settings.policy)
    why = tried(connection, settings, lambda: evolve.fit(connection, evolve.marked(table, found), todo))
    if why is not None:
        log.warning("table not changed", table=str(table.id), reason=why)
    return why


def tried(connection: psycopg.Connection, settings: Ddl, act: Callable[[], str | None]) -> str | None:
    """Do something to a table, waiting briefly for its lock. Where it returns why not, nothing was done."""
    try:
        with connection.transaction() as savepoint:
            wait_ms = sql.Literal(int(settings.lock_timeout_s * 1000))
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(wait_ms))
            why = act()
            if why is not None:
                raise psycopg.Rollback(savepoint)
    except psycopg.errors.LockNotAvailable:
        return LOCKED
    except (psycopg.Error, RefusedError) as error:
        if verdict(error) is Verdict.RETRY:
            raise
        return f"the replica refuses to follow its change: {describe(error)}"
    return why


def refused(table: SourceTable, why: str) -> SourceTable:
    """The state of a table whose next version was not carried out; it is tried again where only a lock was missed."""
    if why == LOCKED:
        return table._replace(held=why)
    first, *rest = table.pending
    return table._replace(held=why, pending=(replace(first, action="hold"), *rest))


def _carried_out(connection: psycopg.Connection, settings: Ddl, before: Table | None, new: Table) -> str | None:
    return attempt(connection, new, settings, before)


def _applied_until(cut: Iterable[Claim]) -> int:
    """The place in the source's log up to which rows were applied."""
    marks = (claim.progress.watermark for claim in cut)
    return max((mark[1] for mark in marks if mark is not None), default=-1)


def had_early_rows(before: Table | None, pending: Sequence[Version], cut: Iterable[Claim]) -> bool:
    """True where rows from behind changes, written before those were known, may be wrong without a trace.

    They were rounded to the old type, or are another table's, or went into a column whose name is another one's behind
    this version, or a later one, which may have become known only when the name was free. What is behind a drop is
    another table's.
    """
    if before is None or not pending:
        return False
    lsn, new, until = pending[0].lsn, pending[0].description, _applied_until(cut)
    if lsn is None or new is None:
        return False
    is_lossy = any(found.kind in {Kind.CHANGE_TYPE, Kind.RENAME_TABLE} for found in changes(before, new))
    if is_lossy and lsn <= until:
        return True
    for one in takewhile(lambda one: not one.is_drop, pending):
        if one.lsn is not None and one.lsn <= until and one.description and renames(before, one.description):
            return True
    known = ((one, new.column(one.name)) for one in before.former if lsn <= one.until)
    return any(column is not None and column.number != one.number for one, column in known)


def _remembering(before: Table | None, version: Version, until: int) -> Table | None:
    """The description of a version that was carried out, with the names that columns gave up while rows were ahead."""
    new = version.description
    if before is None or new is None:
        return new
    found = {one.name: one for one in before.former}
    if version.lsn is not None and version.lsn <= until:
        for column in before.columns:
            now = same(column, new)
            if now is None or now.name != column.name:
                found[column.name] = Former(column.name, column.number, until)
    return replace(new, former=tuple(found.values()))
