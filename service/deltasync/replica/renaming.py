"""A table that was renamed on the source, or moved to another schema, is renamed here, once all of its rows are in it.

Its records travel in another topic from then on, and wait for that; those of the former one end where it was renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import psycopg
import sqlalchemy as sa
import structlog

from deltasync.policy import Ddl
from deltasync.postgres.catalog import describe_table
from deltasync.progress import Claim
from deltasync.replica import ddl, dead_letters, dropping, evolve, pending
from deltasync.replica.changes import Kind, changes
from deltasync.replica.engine import driver
from deltasync.settings import Settings
from deltasync.table import SourceTable, Table, TableId

log = structlog.get_logger(__name__)

ASTRAY = "what has its new name by now does not wait for it: drop it on the replica, or give it another name there"
LETTERS = "records of it are set aside: replay or discard them before it has another name (deltasync dead-letters list)"


def rename(
    connection: sa.Connection,
    settings: Settings,
    known: Mapping[TableId, SourceTable],
    id_: TableId,
    cut: Iterable[Claim],
) -> dict[TableId, SourceTable]:
    """Carry out a rename that is next; returns the states of both names, or that of a table that is held, and why.

    All records of its topic from before the rename were applied at the `cut`. Where rows of another table under its
    name were applied before the rename was known, both are to be read again.
    """
    table = known[id_]
    version, before = table.pending[0], table.description
    new = version.description
    target = known.get(new.id) if new is not None else None
    if before is None or describe_table(driver(connection), id_) is None:
        return {id_: dropping.gone(table, version)}
    if new is None or target is None or not target.is_arriving:
        return {id_: pending.refused(table, ASTRAY)}
    if id_ in dead_letters.counts(connection, settings.pipeline):
        return {id_: pending.refused(table, LETTERS)}
    why = pending.tried(
        driver(connection), settings.ddl, lambda: _renamed(driver(connection), before, new, settings.ddl)
    )
    if why is not None:
        return {id_: pending.refused(table, why)}
    is_mixed = pending.had_early_rows(before, table.pending, cut)
    arrived = evolve.released(target._replace(description=new, complete=target.complete and not is_mixed))
    left = dropping.gone(table, version)
    log.info("table renamed", table=str(id_), to=str(new.id), mixed=is_mixed)
    states = {id_: left._replace(complete=left.complete and not is_mixed), new.id: arrived}
    return {name: pending.advance(driver(connection), state, settings.ddl) for name, state in states.items()}


def _renamed(connection: psycopg.Connection, before: Table, new: Table, settings: Ddl) -> str | None:
    found = changes(before, new, settings.policy)
    for statement in (one for change in found if change.kind is Kind.RENAME_TABLE for one in change.statements):
        ddl.execute(connection, statement)
    return evolve.fit(
        connection, evolve.marked(new, before), [one for one in found if one.kind is not Kind.RENAME_TABLE]
    )
