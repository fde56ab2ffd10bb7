"""Reads the source's `deltasync.schema_log` as Debezium delivers it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from deltasync.change import Change, Op
from deltasync.errors import RecordError
from deltasync.table import Table, TableId

SCHEMA_LOG = TableId("deltasync", "schema_log")
CANARY = TableId("deltasync", "canary")
SIGNAL = TableId("deltasync", "signal")
# The tag of an entry by which a heartbeat fills a hole.
_TOLD_LATER = "HEARTBEAT"
CONTROL_TABLES = frozenset({SCHEMA_LOG, CANARY, SIGNAL})


class SchemaEvent(NamedTuple):
    """One row of the log: what became of a table (see DESIGN.md, "On the source").

    `lsn` is its place in the source's log where it was written by the DDL itself, which locked the table: rows of the
    table from before the DDL stand before it, those from behind it do not, whatever the order of transactions. None
    where it was told later. `at_us` is the source's clock then, in microseconds since 1970, `xid` its transaction.
    `former` is the name that the table had before this entry, under which its rows travelled; not where a snapshot
    reads the entry, which reads the table by its new name, too.
    """

    id: int
    event: str
    table: TableId | None
    captured: bool
    complete: bool
    reason: str | None
    description: Table | None
    lsn: int | None = None
    at_us: int = 0
    xid: int | None = None
    former: TableId | None = None


class _Row(msgspec.Struct):
    id: int
    event: str
    tag: str = ""
    schema_name: str | None = None
    table_name: str | None = None
    captured: bool | None = None
    complete: bool | None = None
    reason: str | None = None
    description: str | None = None
    xid: int | None = None
    former_schema: str | None = None
    former_table: str | None = None


_row = msgspec.json.Decoder(_Row)


def _is_told_at_once(row: _Row) -> bool:
    """True for what the DDL itself wrote. A name may also be gone for a rename, or a move: that is no drop."""
    return row.tag.startswith("DROP ") if row.event == "drop" else row.event == "ddl" and row.tag != _TOLD_LATER


def _former(row: _Row) -> TableId | None:
    return TableId(row.former_schema, row.former_table) if row.former_schema and row.former_table else None


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
        lsn=change.position.seq1 if _is_told_at_once(row) and change.op is Op.CREATE else None,
        at_us=change.position.committed_us,
        xid=row.xid,
        former=_former(row) if change.op is Op.CREATE else None,
    )
