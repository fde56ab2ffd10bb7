"""Keys of tables without a primary key, which the index of their REPLICA IDENTITY tells apart.

The key of a record is none of theirs: Debezium takes the first unique index by its name, be it partial or of
nullable columns, and fills in what a delete does not carry. But each row has the index's columns, and so has what
PostgreSQL tells of a row before its change.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from deltasync.change import Change, Op, Record
from deltasync.debezium import envelope
from deltasync.errors import RecordError
from deltasync.table import Table

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NULL_JSON = b"null"


def keyed_by_rows(change: Change, record: Record, table: Table) -> Change:
    """The change of a record with the key of its row, and the one that it had before where that was another.

    Raises RecordError where the record does not hold the key's columns.
    """
    if change.op is Op.TRUNCATE:
        return change
    before = envelope.before(record)
    old = None if before is None else _key(before, table.primary_key)
    key = old if change.row is None else _key(change.row, table.primary_key)
    if key is None or (before is not None and old is None):
        raise _not_told(change, table)
    return change._replace(key=key, old_key=old if old != key else None)


def _key(row: bytes, columns: Sequence[str]) -> bytes | None:
    """The row's key as raw JSON; None where it lacks a column, or holds none of its values."""
    fields = _fields.decode(row)
    key = {name: fields[name] for name in columns if bytes(fields.get(name, _NULL_JSON)) != _NULL_JSON}
    return msgspec.json.encode(key) if len(key) == len(columns) else None


def _not_told(change: Change, table: Table) -> RecordError:
    return RecordError(
        f"The record at {change.partition} offset {change.offset} does not hold the key of {table.id} "
        f"({', '.join(table.primary_key)}).",
        remedy="See whether its REPLICA IDENTITY was changed on the source: run deltasync source setup again.",
    )
