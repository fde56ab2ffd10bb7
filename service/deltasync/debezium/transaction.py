"""Reads the records of Debezium's transaction topic, where each transaction of the source begins and ends."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from deltasync.change import Record
from deltasync.errors import RecordError


class Begin(NamedTuple):
    """A transaction begins: its changes are counted from 1 on. It is told again where they are once more.

    `sent_ms` is when the connector told it, by the clock of Connect, in milliseconds since 1970.
    """

    transaction: str
    sent_ms: int


class End(NamedTuple):
    """The end of a transaction: how many changes it has, and how many of them in each table, as Debezium names those.

    `lsn` is where its commit ends in the source's log: transactions end in its order, and the next one has it as the
    first half of its positions. `committed_ms` is when it committed there, in milliseconds since 1970; `sent_ms` when
    the connector told it, and `begun_ms` when it told the begin that this end counts from, by the clock of Connect.
    """

    transaction: str
    lsn: int
    committed_ms: int
    changes: int
    tables: dict[str, int]
    sent_ms: int = 0
    begun_ms: int = 0


class _Collection(msgspec.Struct):
    data_collection: str
    event_count: int


class _Boundary(msgspec.Struct):
    status: str | None = None
    id: str = ""
    ts_ms: int = 0
    event_count: int | None = None
    data_collections: list[_Collection] | None = None
    payload: _Boundary | None = None


_boundary = msgspec.json.Decoder(_Boundary)


def decode(record: Record) -> Begin | End | None:
    """What a record of the transaction topic tells; None for one without a value.

    Raises RecordError for what is not Debezium's.
    """
    if record.value is None:
        return None
    try:
        found = _boundary.decode(record.value)
        found = found.payload or found
        transaction, _, lsn = found.id.partition(":")
        if found.status == "BEGIN":
            return Begin(transaction, record.sent_ms)
        tables = {one.data_collection: one.event_count for one in found.data_collections or ()}
        if found.status == "END":
            return End(transaction, int(lsn), found.ts_ms, found.event_count or 0, tables, record.sent_ms)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    raise RecordError(
        f"The record at {record.partition} offset {record.offset} tells no begin and no end of a transaction.",
        remedy=(
            "See what wrote it: only Debezium may produce here. To go on behind it: deltasync ledger set "
            f"{record.partition.topic} {record.partition.number} {record.offset + 1} --reason …"
        ),
    )
