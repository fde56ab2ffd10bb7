"""Reads the source's `deltasync.schema_log` as Debezium delivers it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from deltasync.change import Change
from deltasync.errors import RecordError
from deltasync.table import Table, TableId

SCHEMA_LOG = TableId("deltasync", "schema_log")
CANARY = TableId("deltasync", "canary")
CONTROL_TABLES = frozenset({SCHEMA_LOG, CANARY})


class SchemaEvent(NamedTuple):
    """One row of the log: what became of a table (see DESIGN.md, "On the source")."""

    id: int
    event: str
    table: TableId | None
    captured: bool
    complete: bool
    reason: str | None
    description: Table | None


class _Row(msgspec.Struct):
    id: int
    event: str
    schema_name: str | None = None
    table_name: str | None = None
    captured: bool | None = None
    complete: bool | None = None
    reason: str | None = None
    description: str | None = None


_row = msgspec.json.Decoder(_Row)


def schema_event(change: Change) -> SchemaEvent | None:
    """The event that a change of the log carries; None for a delete: the log was pruned.

    Raises RecordError for a row that is not the log's.
    """
    if change.row is None:
        return None
    try:
        row = _row.decode(change.row)
        description = Table.from_json(row.description) if row.description else None
    except msgspec.MsgspecError as error:
        raise RecordError(
            f"The entry of the schema log at {change.partition} offset {change.offset} cannot be read: {error}.",
            remedy="The source was set up by another version of deltasync: run deltasync source setup of this one.",
        ) from None
    named = row.schema_name is not None and row.table_name is not None
    return SchemaEvent(
        id=row.id,
        event=row.event,
        table=TableId(row.schema_name or "", row.table_name or "") if named else None,
        captured=bool(row.captured),
        complete=row.complete is not False,
        reason=row.reason,
        description=description,
    )
