"""Takes the schema from in front of a value, where Connect writes both: it is four times as large, and the same.

So that a batch holds as many records as without.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from deltasync.change import Partition, Record

# What such a value, or key, begins with. No key column encodes as an object, and no envelope has a field of that name:
# a column that is called "schema" cannot be taken for it.
BEGINS = b'{"schema":{'


class _WithSchema(msgspec.Struct, gc=False):
    schema: msgspec.Raw


_with_schema = msgspec.json.Decoder(_WithSchema)


class Schemas:
    """Remembers the schema of each partition's values; while their table stays as it is, they have one."""

    def __init__(self) -> None:
        self._fronts: dict[Partition, bytes] = {}

    def apart(self, records: Sequence[Record]) -> Sequence[Record]:
        """The same records, their `value` without a schema. Where the first one has none, nor has any looked at."""
        if not records or not (records[0].value or b"").startswith(BEGINS):
            return records
        return [record if record.value is None else self._apart(record, record.value) for record in records]

    def _apart(self, record: Record, value: bytes) -> Record:
        front = self._fronts.get(record.partition)
        if not front or not value.startswith(front):
            front = self._fronts[record.partition] = front_of(value)
        if not front or not value.endswith(b"}"):
            return record
        payload = value[len(front) : -1]
        record.message.set_value(payload)  # it would keep the whole one
        return record._replace(value=payload, front=front)


def front_of(value: bytes) -> bytes:
    """All that is in front of a value's payload; nothing where it has no schema, or is written in another way."""
    try:
        schema = bytes(_with_schema.decode(value).schema)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return b""
    front = b'{"schema":' + schema + b',"payload":{'
    return front[:-1] if value.startswith(front) else b""
