"""Changes of tables that wait for an operator: what they are, what they would do, and the word that they may."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from msgspec.structs import replace

from deltasync.errors import RefusedError, UnreachableError
from deltasync.policy import Ddl
from deltasync.replica import catalog, evolve, ledger, pending
from deltasync.replica.changes import SchemaChange, changes, obstacle
from deltasync.replica.engine import driver, open_replica
from deltasync.replica.tables import schema_audit
from deltasync.settings import Settings
from deltasync.table import SourceTable, TableId, Version


class Waiting(NamedTuple):
    """One change of a table that the replica's has not seen. `state` is `held`, or what it waits for."""

    table: str
    log_id: int
    kind: str
    what: str
    sql: list[str]
    lock: str | None
    rewrites: bool
    state: str
    reason: str
    at_us: int


def waiting(settings: Settings) -> list[Waiting]:
    """All that waits, in the order of tables and changes; a table held for another reason has an entry without DDL."""
    with open_replica(settings, name="schema") as connection, connection.begin():
        known = catalog.load(connection, settings.pipeline)
    found: list[Waiting] = []
    for id_, table in sorted(known.items()):
        if (table.captured or table.is_to_go) and not table.is_arriving and (table.held is not None or table.pending):
            found += _told(id_, table, settings.ddl)
    return found


def _told(id_: TableId, table: SourceTable, ddl: Ddl) -> Iterable[Waiting]:
    if not table.pending:
        kind = "create_table" if table.held == evolve.NEW else ""
        yield Waiting(str(id_), table.log_id, kind, table.held or "", [], None, False, "held", table.held or "", 0)  # noqa: FBT003
    for number, (version, found) in enumerate(_steps(table, ddl)):
        reason = (table.held or "") if number == 0 else ""
        for one in found if version.action != "ignore" else ():
            told = (one.kind.value, one.what, one.sql, one.lock, one.rewrites)
            yield Waiting(
                str(id_), version.log_id, *told, _state(version, reason), one.obstacle or reason, version.at_us
            )


def _state(version: Version, reason: str) -> str:
    if version.action != "apply":
        return "held"
    if reason == pending.LOCKED:
        return "waits for its lock"
    return "waits for `run`" if version.anytime else "waits for the first row from behind it"


def _steps(table: SourceTable, ddl: Ddl) -> list[tuple[Version, list[SchemaChange]]]:
    """Each pending version with what leads to it."""
    before = table.description
    found: list[tuple[Version, list[SchemaChange]]] = []
    for version in table.pending:
        found.append((version, changes(before, version.description, ddl.policy)))
        before = None if version.leaves else version.description
    return found


def approve(settings: Settings, names: Sequence[str], reason: str) -> dict[str, list[str]]:
    """Have all that is pending of these tables applied; returns the DDL of each. One transaction.

    What rows from before it fit as well is carried out here. The rest the worker does: a drop at once, anything else in
    front of the first row from behind it, so that rows from before are applied as what they are, however many wait.
    Raises RefusedError where that place is not known, or no DDL would do, and UnreachableError where a table is locked:
    then nothing was approved.
    """
    if not reason.strip():
        raise RefusedError("A change is not approved without a reason.", remedy="Say why: --reason TEXT.")
    with open_replica(settings, name="schema") as connection, connection.begin():
        known = catalog.load(connection, settings.pipeline, to_change=True)
        several = _of_several_partitions(connection, settings)
        done = {}
        for name in dict.fromkeys(names):
            id_ = TableId(*name.partition(".")[::2])
            id_ = _here(known, id_)
            table = known.get(id_)
            if table is None or not (table.held or table.pending):
                raise RefusedError(f"Nothing of {name} waits.", remedy="deltasync schema list shows what does.")
            wanted = evolve.from_drop(table)
            refuse(id_, wanted, settings.ddl, is_spread=id_ in several)
            after, done[str(id_)] = _approved(connection, id_, wanted, settings.ddl)
            catalog.store(connection, settings.pipeline, {id_: after})
            _audit(connection, settings.pipeline, id_, table, done[str(id_)], reason)
    return done


def _here(known: Mapping[TableId, SourceTable], id_: TableId) -> TableId:
    """The name that a table has here yet, which arrives under this one."""
    return next(
        (
            old
            for old, table in known.items()
            for version in table.pending
            if version.renamed and version.description is not None and version.description.id == id_
        ),
        id_,
    )


def is_carried_out(settings: Settings, names: Iterable[str]) -> bool:
    """True where nothing of these tables waits any more."""
    return not {one.table for one in waiting(settings)}.intersection(names)


def refuse(id_: TableId, table: SourceTable, ddl: Ddl, *, is_spread: bool) -> None:
    """Raises RefusedError where no word of an operator's would do: a change is to be made by hand."""
    by_hand = "Make the replica's table what it is on the source, then deltasync replica setup (deltasync schema list)."
    if table.held == evolve.NEW:
        return
    if not table.pending or table.held == pending.EARLY:
        raise RefusedError(f"{id_} cannot be approved: {table.held}.", remedy=by_hand)
    for version, found in _steps(table, ddl):
        why = obstacle(found)
        if why is not None:
            raise RefusedError(f"{id_} cannot be approved: {why}.", remedy=by_hand)
        if not version.anytime and (version.lsn is None or is_spread):
            why = "its topic has several partitions" if is_spread else "it was not announced when it was made"
            raise RefusedError(
                f"{id_} cannot be approved: {why}, so that nothing tells which rows are from before the change.",
                remedy=f"Let all rows from before it be applied (deltasync lag). {by_hand}",
            )


def _approved(connection: sa.Connection, id_: TableId, table: SourceTable, ddl: Ddl) -> tuple[SourceTable, list[str]]:
    statements = [text for _, found in _steps(table, ddl) for one in found for text in one.sql]
    if table.held == evolve.NEW and table.description is not None:
        why = pending.attempt(driver(connection), table.description, ddl)
        return table._replace(held=why), []
    after = pending.advance(driver(connection), approved(table), ddl)
    if after.held == pending.LOCKED:
        raise UnreachableError(f"{id_} is locked on the replica by somebody else.", remedy="Try again.")
    return after, statements


def approved(table: SourceTable) -> SourceTable:
    """The state in which all that is pending may be carried out."""
    return table._replace(pending=tuple(replace(version, action="apply") for version in table.pending))


def _of_several_partitions(connection: sa.Connection, settings: Settings) -> set[TableId]:
    prefix = f"{settings.topic_prefix}."
    found = [one.topic.removeprefix(prefix) for one in ledger.read(connection, settings.pipeline) if one.number > 0]
    return {TableId(*topic.partition(".")[::2]) for topic in found}


def _audit(  # noqa: PLR0913, PLR0917 - the columns of a row
    connection: sa.Connection, pipeline: str, id_: TableId, table: SourceTable, sql: list[str], reason: str
) -> None:
    row = {"pipeline": pipeline, "schema_name": id_.schema, "table_name": id_.name, "log_id": table.log_id}
    connection.execute(sa.insert(schema_audit).values(row | {"sql": ";\n".join(sql), "reason": reason.strip()}))
