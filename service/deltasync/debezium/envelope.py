"""Reads the envelope of a record, in both forms of Debezium's JSON: schemaless and with schemas.

Rows stay raw bytes here: compaction throws most of them away before they would be decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import methodcaller
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from deltasync.change import Change, Op, Position, Record
from deltasync.debezium import schemas
from deltasync.errors import RecordError
from deltasync.table import TableId

_CONNECTOR = "postgresql"
# Debezium's marks of streamed changes, and of an initial snapshot's reads.
_SNAPSHOTS = ("false", "true", "first", "first_in_data_collection", "last_in_data_collection", "last")
_PASSED_OVER = frozenset({"m"})
_NULL_JSON = b"null"
# What the decoder raises for bytes that are not JSON, not UTF-8, or nested to exhaust the stack.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_INT64_MAX = 2**63 - 1
_COMMITTED_US_END = 253_402_300_800_000_000  # the year 10000: no clock is there, and datetime ends


class _Source(msgspec.Struct, gc=False):
    connector: str
    schema: str
    table: str
    ts_us: int = 0
    sequence: str | None = None
    snapshot: str | None = None


class _Transaction(msgspec.Struct, gc=False):
    """Where a change stands in its transaction. Behind the id's colon is the change's own place in the log."""

    id: str
    total_order: int


class _Envelope(msgspec.Struct, gc=False):
    """The envelope; `payload` holds it where the record carries schemas."""

    op: str | None = None
    before: msgspec.Raw = msgspec.Raw(_NULL_JSON)
    after: msgspec.Raw = msgspec.Raw(_NULL_JSON)
    source: _Source | None = None
    transaction: _Transaction | None = None
    payload: _Envelope | None = None
    status: str | None = None
    ts_ms: int | None = None


class _Numbered(msgspec.Struct, gc=False):
    txId: int | None = None  # noqa: N815 - Debezium's name


class _Origin(msgspec.Struct, gc=False):
    """Of the envelope what tells where a change comes from."""

    op: str | None = None
    source: _Numbered | None = None
    payload: _Origin | None = None


class _WithSchema(msgspec.Struct, gc=False):
    schema: msgspec.Raw
    payload: msgspec.Raw


class _Plain(msgspec.Struct, gc=False):
    """The envelope of a change of a row, as far as those need it of whom there are many."""

    op: str
    source: Any
    after: msgspec.Raw = msgspec.Raw(_NULL_JSON)


@lru_cache(maxsize=1000)
def _plain(table: TableId) -> msgspec.json.Decoder[_Plain]:
    """The decoder of envelopes of one table: any other's do not fit it. Half of decoding would be making names."""
    source = msgspec.defstruct(
        "Source",
        [
            ("connector", Literal[_CONNECTOR]),
            ("schema", Literal[table.schema]),
            ("table", Literal[table.name]),
            ("ts_us", Annotated[int, msgspec.Meta(ge=0, lt=_COMMITTED_US_END)]),
            ("sequence", str),
            ("snapshot", Literal[_SNAPSHOTS] | None, None),
        ],
        gc=False,
    )
    plain = msgspec.defstruct("Plain", [("source", source)], bases=(_Plain,), gc=False)
    return msgspec.json.Decoder(plain)


_envelope = msgspec.json.Decoder(_Envelope)
_origin = msgspec.json.Decoder(_Origin)
_with_schema = msgspec.json.Decoder(_WithSchema)
_sequence = msgspec.json.Decoder(tuple[str | None, str | None])
_Number = Annotated[int, msgspec.Meta(ge=-_INT64_MAX, le=_INT64_MAX)]
# The numbers come as strings.
_positions: msgspec.json.Decoder[Sequence[tuple[int | None, int]]]
_positions = msgspec.json.Decoder(list[tuple[_Number, _Number]], strict=False)
_read_positions = msgspec.json.Decoder(list[tuple[_Number | None, _Number]], strict=False)
_STREAMED = frozenset({Op.CREATE, Op.UPDATE, Op.DELETE})
_ops = {op.value: op for op in Op}
_TELLING_BEFORE = (Op.UPDATE, Op.DELETE)


def decode(record: Record) -> Change | None:
    """The change that a record carries, or None for one that is passed over.

    Passed over are tombstones, heartbeats, transaction records and logical messages (op m).
    Raises RecordError for anything else that is not Debezium's: nothing is skipped on a guess.
    """
    if record.value is None:
        return None
    try:
        envelope = _envelope.decode(record.value)
    except _UNREADABLE as error:
        raise _unreadable(record, f"its value is not Debezium's JSON ({_harmless(error)})") from None
    envelope = envelope.payload or envelope
    if envelope.op is None:
        if envelope.source is None and (envelope.status or envelope.ts_ms is not None):
            return None
        raise _unreadable(record, "it has no op: it is not Debezium's envelope")
    if envelope.op in _PASSED_OVER:
        return None
    return _change(record, envelope)


class Envelopes(NamedTuple):
    """Envelopes of one table, column by column: `reads` of an initial snapshot, then all of streamed changes.

    `keys` and `rows` are raw JSON; of a delete the row is null. `positions` and `committed_us` are as in `Position`.
    """

    table: TableId
    reads: int
    ops: list[str]
    keys: Sequence[bytes]
    rows: list[msgspec.Raw]
    positions: Sequence[tuple[int | None, int]]
    committed_us: list[int]


def decode_all(records: Sequence[Record]) -> Envelopes | None:
    """The envelopes of many records at once; None where one of them is not like the others, or cannot be read."""
    try:
        _, _, key_bytes, value_bytes, *_ = zip(*records, strict=True)
        values = _payloads(value_bytes)
        first = _envelope.decode(values[0]).source
        if first is None:
            return None
        table = TableId(first.schema, first.table)
        found = list(map(_plain(table).decode, values))
        keys = _payloads(key_bytes)
        ops = [one.op for one in found]
        reads = ops.count(Op.READ.value)
        sources = [one.source for one in found]
        sequences = ",".join([source.sequence for source in sources])
        positions = (_read_positions if reads else _positions).decode(f"[{sequences}]")
    except (TypeError, *_UNREADABLE):
        return None
    if not _STREAMED.issuperset(ops[reads:]):
        return None
    committed_us = [source.ts_us for source in sources]
    return Envelopes(table, reads, ops, keys, [one.after for one in found], positions, committed_us)


def _payloads(values: Sequence[bytes | None]) -> Sequence[bytes]:
    """Without the schemas in front of them. Raises TypeError where one is null, ValueError where schemas differ."""
    if None in values:
        raise TypeError
    told: Sequence[bytes] = values  # type: ignore[assignment]  # None was excluded just above
    if not told[0].startswith(schemas.BEGINS):
        return told
    front = schemas.front_of(told[0])
    alike = all(map(methodcaller("startswith", front), told)) and all(map(methodcaller("endswith", b"}"), told))
    if not front or not alike:
        raise ValueError
    return [value[len(front) : -1] for value in told]


class Origin(NamedTuple):
    """What a change came from: its op, and the lower 32 bits of its transaction's number."""

    op: str
    transaction: int | None


def decode_origin(record: Record) -> Origin | None:
    """Where the change of a record comes from; None where it has none, or cannot be read.

    Apart from `decode`, which every record of a worker passes: few ask for it.
    """
    try:
        envelope = _origin.decode(record.value or b"")
    except _UNREADABLE:
        return None
    envelope = envelope.payload or envelope
    if envelope.op is None or envelope.source is None:
        return None
    return Origin(envelope.op, envelope.source.txId)


def _change(record: Record, envelope: _Envelope) -> Change:
    source, op = envelope.source, _ops.get(envelope.op or "")
    if source is None or source.connector != _CONNECTOR:
        raise _unreadable(record, "its source is not Debezium's PostgreSQL connector")
    if op is None:
        raise _unreadable(record, "its op is not known")
    row = None if op in (Op.DELETE, Op.TRUNCATE) else bytes(envelope.after)
    if row == _NULL_JSON:
        raise _unreadable(record, f"op {op.value} without a row after the change")
    before = bytes(envelope.before) if op in _TELLING_BEFORE else _NULL_JSON
    return Change(
        table=TableId(source.schema, source.table),
        op=op,
        key=None if op is Op.TRUNCATE else _key(record),
        row=row,
        position=_position(record, source),
        partition=record.partition,
        offset=record.offset,
        snapshot=source.snapshot,
        order=envelope.transaction.total_order if envelope.transaction else None,
        transaction=_id(envelope.transaction) if envelope.transaction else None,
        raw_text=record.raw_text,
        before=None if before == _NULL_JSON else before,
    )


def _id(transaction: _Transaction) -> str:
    return transaction.id.partition(":")[0]


def _position(record: Record, source: _Source) -> Position:
    try:
        seq0, seq1 = _sequence.decode(source.sequence) if source.sequence else (None, None)
        position = Position(int(seq0) if seq0 else None, int(seq1) if seq1 else None, source.ts_us)
    except _UNREADABLE:
        raise _unreadable(record, "its source.sequence is not a pair of numbers") from None
    if any(abs(part or 0) > _INT64_MAX for part in position[:2]) or not 0 <= position.committed_us < _COMMITTED_US_END:
        raise _unreadable(record, "its source.sequence or source.ts_us is out of range")
    return position


def _key(record: Record) -> bytes | None:
    """The key's JSON without its schema, so that both forms of one key are the same bytes."""
    if record.key is None or not record.key.startswith(schemas.BEGINS):
        return record.key
    try:
        return bytes(_with_schema.decode(record.key).payload)
    except _UNREADABLE as error:
        raise _unreadable(record, f"its key is not Debezium's JSON ({_harmless(error)})") from None


def _harmless(error: BaseException) -> str:
    """The decoder's reason; it names bytes and paths of the envelope, never a row's value."""
    if isinstance(error, msgspec.MsgspecError):
        return str(error).partition(" - at ")[0].lower()
    return "nested too deeply" if isinstance(error, RecursionError) else "not UTF-8"


def _unreadable(record: Record, why: str) -> RecordError:
    return RecordError(
        f"The record at {record.partition} offset {record.offset} cannot be read: {why}.",
        remedy=(
            "Its partition stops there and nothing is lost. See what wrote it: only Debezium may produce here. "
            f"To go on behind it: deltasync ledger set {record.partition.topic} {record.partition.number} "
            f"{record.offset + 1} --reason …"
        ),
    )
