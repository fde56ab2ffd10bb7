"""How far an incremental snapshot is, and how it went, as the connector's notifications tell: pure.

Measured on Debezium 3.7.0: a chunk that fails has its table left out, and the snapshot ends as any other one; only the
table's status tells. One that is stopped is COMPLETED, too, without a status of what was not read, and ABORTED after
that, under another id. One that goes on behind a restart keeps its id, counts its chunks anew, and reads one twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

_AGGREGATE = "Incremental Snapshot"
# What became of tables that were read whole; one may have no row that was asked for.
_READ = frozenset({"SUCCEEDED", "EMPTY"})
_WHY = {
    "SQL_EXCEPTION": "the source refused to read a chunk of it, and the rest was left out: Connect's log says why",
    "NO_PRIMARY_KEY": "Debezium finds no primary key",
    "UNKNOWN_SCHEMA": "Debezium finds no such table",
    "STOPPED": "it was stopped before all of it was read",
}


class State(StrEnum):
    """Of a snapshot as a whole."""

    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


class Notice(msgspec.Struct, frozen=True):
    """A record of the connector's notifications; `timestamp` is in milliseconds since 1970, by Connect's clock."""

    id: str
    type: str
    aggregate_type: str = ""
    additional_data: dict[str, str] = {}
    timestamp: int = 0


class TableRead(msgspec.Struct):
    """One table. `status` is Debezium's once it is over, STOPPED where there is none, "" before.

    `rows` is estimated by whole chunks, of those that there were when it began: `rows_total`, None until it is known.
    """

    table: str
    status: str = ""
    chunks: int = 0
    chunks_total: int | None = None
    rows: int = 0
    rows_total: int | None = None

    @property
    def is_read(self) -> bool:
        """True where all that was asked for was read."""
        return self.status in _READ

    @property
    def why(self) -> str:
        """Why it was not read, "" where it was or may still be."""
        return "" if self.is_read or not self.status else _WHY.get(self.status, f"Debezium says {self.status}")


class Reading(msgspec.Struct):
    """One snapshot, the newest one. `told_ms` is when it was last told of, by Connect's clock, since 1970."""

    id: str
    state: State = State.RUNNING
    tables: dict[str, TableRead] = {}
    last_key: str = ""
    told_ms: int = 0

    @property
    def is_complete(self) -> bool:
        """True where every table was read."""
        return self.state is State.ENDED and all(table.is_read for table in self.tables.values())

    def __str__(self) -> str:
        told = [_progress(table) for table in self.tables.values()]
        return "; ".join([*told, self.state.value] if self.state is State.PAUSED else told)


def _progress(table: TableRead) -> str:
    if table.status:
        return f"{table.table} {'is read' if table.is_read else 'is not read'}"
    if table.rows_total is None:
        return f"{table.table} waits"
    return (
        f"{table.table} about {table.rows:,} of {table.rows_total:,} rows, chunk {table.chunks} of {table.chunks_total}"
    )


_notice = msgspec.json.Decoder(Notice)


def read(values: Iterable[bytes], reading: Reading | None = None) -> Reading | None:
    """The newest snapshot by these notifications, which follow those by which it was read until now.

    Whatever is no notification of an incremental snapshot is passed over.
    """
    for value in values:
        try:
            notice = _notice.decode(value)
        except msgspec.MsgspecError:
            continue
        if notice.aggregate_type == _AGGREGATE:
            reading = _noticed(reading, notice)
            if reading is not None:
                reading.told_ms = notice.timestamp
    return reading


def _noticed(reading: Reading | None, notice: Notice) -> Reading | None:
    data = notice.additional_data
    if notice.type == "STARTED":
        return Reading(notice.id, tables=_tables(data))
    if notice.type == "ABORTED":  # it may have another id
        return _stopped(reading, _tables(data))
    if reading is None or reading.id != notice.id:
        reading = Reading(notice.id)
    reading.tables = {**_tables(data), **reading.tables}
    match notice.type:
        case "IN_PROGRESS":
            reading.state = (
                State.RUNNING
            )  # a connector that is restarted reads on, and does not say that it was resumed
            _chunk(reading, data)
        case "PAUSED":
            reading.state = State.PAUSED
        case "RESUMED":
            reading.state = State.RUNNING
        case "TABLE_SCAN_COMPLETED":
            _table_over(reading, data)
        case "COMPLETED":
            return _stopped(reading, reading.tables)
    return reading


def _tables(data: dict[str, str]) -> dict[str, TableRead]:
    return {name: TableRead(name) for name in data.get("data_collections", "").split(",") if name}


def _chunk(reading: Reading, data: dict[str, str]) -> None:
    table = reading.tables.setdefault(name := data.get("current_collection_in_progress", ""), TableRead(name))
    key = data.get("last_processed_key", "")
    if key != reading.last_key:
        table.chunks, reading.last_key = table.chunks + 1, key
    if "total_rows" in data and "total_chunks" in data:
        table.rows_total, table.chunks_total = int(data["total_rows"]), max(1, int(data["total_chunks"]))
        table.chunks = min(table.chunks, table.chunks_total)
        table.rows = table.rows_total * table.chunks // table.chunks_total


def _table_over(reading: Reading, data: dict[str, str]) -> None:
    table = reading.tables.setdefault(name := data.get("scanned_collection", ""), TableRead(name))
    table.status = data.get("status", "UNKNOWN")
    if table.status == "SUCCEEDED" and table.rows_total is not None:
        table.rows, table.chunks = table.rows_total, table.chunks_total or 0


def _stopped(reading: Reading | None, tables: Iterable[str]) -> Reading | None:
    """A snapshot of which these tables, unless they are over, are read no further; over where all of them are."""
    for name in tables:
        found = reading.tables.get(name) if reading else None
        if found is not None:
            found.status = found.status or "STOPPED"
    if reading is not None and all(table.status for table in reading.tables.values()):
        reading.state = State.ENDED
    return reading
