"""Dead letters on the replica: written in the transaction of their batch, read again by whoever opens the partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from deltasync.change import Headers, Partition, Record, Told
from deltasync.errors import FencedError
from deltasync.parking import Letter, Parked, Void
from deltasync.ports import Batch
from deltasync.replica.ledger import from_us, to_us
from deltasync.replica.tables import dead_letter, dead_letter_audit
from deltasync.table import TableId

_Headers = list[tuple[str, bytes | None]]
_columns = dead_letter.c
# What the audit keeps of a letter: of one that was given up, the record too.
_AUDITED = ("pipeline", "topic", "partition", "offset", "schema_name", "table_name", "error")
_GIVEN_UP = (*_AUDITED, "record_key", "record_value")


class Outcome(StrEnum):
    """What became of a letter."""

    REPLAYED = "replayed"
    READ_ANEW = "read anew"
    DISCARDED = "discarded"
    VOID = "void"


class Stored(NamedTuple):
    """A letter as it lies on the replica; `parked_at_us` is microseconds since 1970."""

    id: int
    letter: Letter
    parked_at_us: int


def parked(connection: sa.Connection, pipeline: str, ids: Mapping[Partition, str]) -> dict[Partition, Parked]:
    """What was set aside of these partitions of topics, by their ids."""
    found: dict[Partition, Parked] = {}
    for topic_id, stored in _read(connection, _columns.pipeline == pipeline):
        partition = stored.letter.record.partition
        if ids.get(partition) == topic_id:
            found[partition] = found.get(partition, Parked()).with_letter(stored.letter)
    return found


def store(connection: sa.Connection, pipeline: str, batch: Batch) -> None:
    """Set a batch's letters aside; belongs behind the ledger's fence.

    One that is there stays as it was: the ledger was moved back by hand, and the record was read again.
    Raises FencedError where others are gone or there than the worker knows of: some were replayed or discarded.
    """
    for partition in {letter.record.partition for letter in batch.letters}:
        there = _count(connection, pipeline, partition, batch.claims[partition].topic_id)
        if there != batch.parked.get(partition, 0):
            raise FencedError(
                f"Of {partition}, {there} records are set aside, not {batch.parked.get(partition, 0)}.",
                remedy="They are read again.",
            )
    rows = [_row(pipeline, batch.claims[letter.record.partition].topic_id, letter) for letter in batch.letters]
    if rows:
        connection.execute(insert(dead_letter).on_conflict_do_nothing(), rows)


def _count(connection: sa.Connection, pipeline: str, partition: Partition, topic_id: str) -> int:
    same = (_columns.pipeline == pipeline) & (_columns.topic == partition.topic)
    same &= (_columns.topic_id == topic_id) & (_columns.partition == partition.number)
    return connection.execute(sa.select(sa.func.count()).where(same)).scalar_one()


def void(connection: sa.Connection, pipeline: str, voids: Iterable[Void]) -> None:
    """Make letters void whose table was emptied since."""
    for one in voids:
        here = (_columns.topic == one.partition.topic) & (_columns.partition == one.partition.number)
        before = of_table(pipeline, one.table) & here & (_columns.offset < one.offset)
        end(connection, before, Outcome.VOID, f"its table was emptied by the record at offset {one.offset}")


def of_table(pipeline: str, table: TableId) -> sa.ColumnElement[bool]:
    """The letters of a table."""
    is_it = (_columns.schema_name == table.schema) & (_columns.table_name == table.name)
    return (_columns.pipeline == pipeline) & is_it


def end(connection: sa.Connection, condition: sa.ColumnElement[bool], outcome: Outcome, reason: str | None) -> int:
    """Remove letters, and write down what became of them; returns how many they were."""
    kept = _GIVEN_UP if outcome is Outcome.DISCARDED else _AUDITED
    gone = sa.delete(dead_letter).where(condition).returning(*(_columns[name] for name in kept))
    rows = [dict(row._mapping) for row in connection.execute(gone)]  # noqa: SLF001 - its public name
    if rows:
        told = {"outcome": outcome.value, "reason": reason}
        connection.execute(sa.insert(dead_letter_audit), [{**row, **told} for row in rows])
    return len(rows)


def load(connection: sa.Connection, pipeline: str, partition: Partition | None = None) -> list[Stored]:
    """The letters of a pipeline, or of one partition, in their order."""
    condition = _columns.pipeline == pipeline
    if partition is not None:
        condition &= (_columns.topic == partition.topic) & (_columns.partition == partition.number)
    return [stored for _, stored in _read(connection, condition)]


def counts(connection: sa.Connection, pipeline: str) -> dict[TableId, tuple[int, int]]:
    """How many records failed of each table, and how many are set aside in all."""
    query = (
        sa.select(_columns.schema_name, _columns.table_name, sa.func.count(_columns.error), sa.func.count())
        .where(_columns.pipeline == pipeline)
        .group_by(_columns.schema_name, _columns.table_name)
    )
    return {TableId(schema, name): (failed, all_) for schema, name, failed, all_ in connection.execute(query)}


def are_there(connection: sa.Connection, pipeline: str) -> bool:
    """True where anything of a pipeline is set aside."""
    return connection.execute(sa.select(sa.exists().where(_columns.pipeline == pipeline))).scalar_one()


def _read(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[tuple[str, Stored]]:
    query = sa.select(dead_letter).where(condition).order_by(_columns.topic, _columns.partition, _columns.offset)
    return [(row.topic_id, _stored(row)) for row in connection.execute(query)]


def _stored(row: sa.Row[Any]) -> Stored:
    headers: Headers = msgspec.convert(row.record_headers, _Headers)
    record = Record(
        Partition(row.topic, row.partition),
        row.offset,
        row.record_key,
        row.record_value,
        Told(headers),
        converter=row.raw_text,
    )
    table = TableId(row.schema_name, row.table_name)
    letter = Letter(record, table, row.key, row.old_key, to_us(row.committed_at), row.error)
    return Stored(row.id, letter, to_us(row.parked_at))


def _row(pipeline: str, topic_id: str, letter: Letter) -> dict[str, Any]:
    record = letter.record
    return {
        "pipeline": pipeline,
        "topic": record.partition.topic,
        "topic_id": topic_id,
        "partition": record.partition.number,
        "offset": record.offset,
        "schema_name": letter.table.schema,
        "table_name": letter.table.name,
        "key": letter.key,
        "old_key": letter.old_key,
        "committed_at": from_us(letter.committed_us),
        "error": letter.error,
        "record_key": record.key,
        "record_value": record.whole,
        "record_headers": msgspec.to_builtins(list(record.headers())),
        "moves": record.moves,
        "raw_text": record.raw_text,
    }
