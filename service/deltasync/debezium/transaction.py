"""Reads the records of Debezium's transaction topic, which tell where each transaction of the source ends."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from deltasync.change import Record
from deltasync.errors import RecordError


class End(NamedTuple):
    """The end of a transaction: how many changes it has, and how many of them in each table, as Debezium names those.

    `lsn` is where its commit ends in the source's log: transactions end in its order, and the next one has it as the
    first half of its positions. `committed_ms` is when it committed there, in milliseconds since 1970.
    """

    transaction: str
    lsn: int
    committed_ms: int
    changes: int
    tables: dict[str, int]


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


def decode_end(record: Record) -> End | None:
    """The end that a record of the transaction topic tells; None for a begin, or a record without a value.

    Raises RecordError for what is not Debezium's.
    """
    if record.value is None:
        return None
    try:
        found = _boundary.decode(record.value)
        found = found.payload or found
        if found.status == "BEGIN":
            return None
        transaction, _, lsn = found.id.partition(":")
        tables = {one.data_collection: one.event_count for one in found.data_collections or ()}
        if found.status == "END":
            return End(transaction, int(lsn), found.ts_ms, found.event_count or 0, tables)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    raise RecordError(
        f"The record at {record.partition} offset {record.offset} tells no begin and no end of a transaction.",
        remedy=(
            "See what wrote it: only Debezium may produce here. To go on behind it: deltasync ledger set "
            f"{record.partition.topic} {record.partition.number} {record.offset + 1} --reason …"
        ),
    )
