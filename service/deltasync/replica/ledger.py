"""The ledger: how far each partition has been applied, locked, checked and moved with the rows.

A lock alone fences nothing: a worker that was frozen, lost its partitions and woke up again would
wait for the lock and then write. Therefore `fence` compares what it finds with what the worker
expects, and a batch that is not expected writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from deltasync.canary import refusal
from deltasync.change import Partition
from deltasync.errors import FencedError, GapError, SourceError
from deltasync.progress import Claim, Progress
from deltasync.replica.tables import ledger, source_canary

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def open_partitions(
    connection: sa.Connection, pipeline: str, ids: Mapping[Partition, str]
) -> dict[Partition, Progress | GapError | SourceError]:
    """How far each partition has been applied; those of a topic that is new start at 0. Idempotent.

    A GapError stands for one whose topic the ledger knows under another id only: it was deleted and
    made again, and what was in the old one may not be in the new one; or without this partition, which was added since.
    A SourceError stands for all of them where the source is another one; once that is accepted, all are heard of.
    """
    if not ids:
        return {}
    topics = {partition.topic for partition in ids}
    known = {partition.topic for partition in _read(connection, pipeline, topics)}
    new = [p for p in ids if p.topic not in known]
    if new:
        rows = [{**_key(pipeline, p, ids[p]), "next_offset": 0} for p in new]
        connection.execute(insert(ledger).on_conflict_do_nothing(), rows)
    refused = connection.execute(_refused(pipeline)).scalar_one_or_none()
    if refused is not None:
        return dict.fromkeys(ids, refusal(refused))
    opened = _read(connection, pipeline, topics)
    here = {(partition.topic, claim.topic_id) for partition, claims in opened.items() for claim in claims}
    return {
        p: added(p) if p not in opened and (p.topic, topic_id) in here else _of_topic(p, opened.get(p, []), topic_id)
        for p, topic_id in ids.items()
    }


def _of_topic(partition: Partition, claims: list[Claim], topic_id: str) -> Progress | GapError:
    return next((claim.progress for claim in claims if claim.topic_id == topic_id), None) or recreated(partition)


def _key(pipeline: str, partition: Partition, topic_id: str) -> dict[str, Any]:
    return {"pipeline": pipeline, "topic": partition.topic, "topic_id": topic_id, "partition": partition.number}


_PIPELINE: sa.BindParameter[str] = sa.bindparam("b_pipeline")
# Every batch is between these two: they are made once.
_FENCE = (
    sa.select(
        ledger.c.topic,
        ledger.c.partition,
        ledger.c.next_offset,
        ledger.c.seq0,
        ledger.c.seq1,
        sa.select(source_canary.c.refused).where(source_canary.c.pipeline == _PIPELINE).scalar_subquery(),
    )
    .where(
        ledger.c.pipeline == _PIPELINE,
        sa.tuple_(ledger.c.topic, ledger.c.topic_id, ledger.c.partition).in_(sa.bindparam("b_places", expanding=True)),
    )
    .order_by(ledger.c.topic, ledger.c.topic_id, ledger.c.partition)
    .with_for_update()
)
_IDENTITY = sa.select(source_canary.c.system_identifier).where(source_canary.c.pipeline == _PIPELINE)
_MOVE = (
    sa.update(ledger)
    .where(
        ledger.c.pipeline == _PIPELINE,
        ledger.c.topic == sa.bindparam("b_topic"),
        ledger.c.topic_id == sa.bindparam("b_topic_id"),
        ledger.c.partition == sa.bindparam("b_partition"),
    )
    .values(
        next_offset=sa.bindparam("b_next_offset"),
        seq0=sa.bindparam("b_seq0"),
        seq1=sa.bindparam("b_seq1"),
        source_committed_at=sa.bindparam("b_committed_at"),
        skipped=sa.bindparam("b_skipped"),
        tied=sa.bindparam("b_tied"),
        floor_seq0=sa.bindparam("b_floor_seq0"),
        floor_committed_at=sa.bindparam("b_floor_committed_at"),
        system_identifier=_IDENTITY.scalar_subquery(),
        timeline=_IDENTITY.with_only_columns(source_canary.c.timeline).scalar_subquery(),
        updated_at=sa.func.clock_timestamp(),
    )
)


def fence(connection: sa.Connection, pipeline: str, claims: Mapping[Partition, Claim]) -> None:
    """Lock the rows of these partitions until the transaction ends, in one order for all workers.

    The watermark is compared, too: where places in the source's log begin anew, the offset may stay.
    Raises FencedError if one is not where this worker left it, or the source is refused: then nothing may be written.
    """
    wanted = [(p.topic, claim.topic_id, p.number) for p, claim in sorted(claims.items())]
    rows = connection.execute(_FENCE, {"b_pipeline": pipeline, "b_places": wanted}).all()
    why = next((row[5] for row in rows), None)
    if why is not None:
        raise FencedError(why, remedy="The ledger says why, and what to do.")
    found = {Partition(row[0], row[1]): (row[2], _watermark(row)) for row in rows}
    for partition, claim in claims.items():
        if found.get(partition) != claim.progress[:2]:
            raise fenced(partition, found.get(partition), claim)


def lock(connection: sa.Connection, pipeline: str, topic: str) -> dict[Partition, list[Claim]]:
    """Lock all rows of a topic until the transaction ends, in the order of `fence`, whatever its id was; and read them.

    What was read before may have moved since; what is returned has not.
    """
    query = sa.select(ledger).where(ledger.c.pipeline == pipeline, ledger.c.topic == topic)
    return _claims(connection, query.order_by(ledger.c.topic_id, ledger.c.partition).with_for_update())


def _refused(pipeline: str) -> sa.Select[Any]:
    """Why nothing of the pipeline's source is applied."""
    return sa.select(source_canary.c.refused).where(source_canary.c.pipeline == pipeline)


def move(
    connection: sa.Connection, pipeline: str, claims: Mapping[Partition, Claim], to: Mapping[Partition, Progress]
) -> None:
    """Write how far the partitions are now; belongs behind `fence` in the transaction of the rows."""
    rows = [_row(partition, claims[partition].topic_id, to[partition]) for partition in sorted(to)]
    connection.execute(_MOVE, [{**row, "b_pipeline": pipeline} for row in rows])


def read(connection: sa.Connection, pipeline: str) -> dict[Partition, Claim]:
    """All partitions of a pipeline, under the newest id of their topic."""
    return {partition: found[-1] for partition, found in _read(connection, pipeline, None).items()}


def applied_to(connection: sa.Connection, pipeline: str) -> int | None:
    """The last place in the source's log by the watermarks of a pipeline; None where none is known."""
    query = sa.select(sa.func.max(ledger.c.seq1)).where(ledger.c.pipeline == pipeline)
    found: int | None = connection.execute(query).scalar_one()
    return found


def _read(connection: sa.Connection, pipeline: str, topics: Collection[str] | None) -> dict[Partition, list[Claim]]:
    query = sa.select(ledger).where(ledger.c.pipeline == pipeline).order_by(ledger.c.updated_at)
    if topics is not None:
        query = query.where(ledger.c.topic.in_(sorted(topics)))
    return _claims(connection, query)


def _claims(connection: sa.Connection, query: sa.Select[Any]) -> dict[Partition, list[Claim]]:
    found: dict[Partition, list[Claim]] = {}
    for row in connection.execute(query):
        claim = Claim(row.topic_id, _progress(row))
        found.setdefault(Partition(row.topic, row.partition), []).append(claim)
    return found


def _progress(row: Any) -> Progress:  # noqa: ANN401 - a row's columns are attributes
    return Progress(
        next_offset=row.next_offset,
        watermark=_watermark(row),
        committed_us=_us(row.source_committed_at),
        skipped=row.skipped,
        tied=tuple(row.tied),
        floor=None if row.floor_seq0 is None else (row.floor_seq0, to_us(row.floor_committed_at)),
    )


def _watermark(row: Any) -> tuple[int | None, int] | None:  # noqa: ANN401 - a row's columns are attributes
    return None if row.seq1 is None else (row.seq0, row.seq1)


def _row(partition: Partition, topic_id: str, progress: Progress) -> dict[str, Any]:
    seq0, seq1 = progress.watermark or (None, None)
    floor_seq0, floor_us = progress.floor or (None, None)
    return {
        "b_topic": partition.topic,
        "b_topic_id": topic_id,
        "b_partition": partition.number,
        "b_next_offset": progress.next_offset,
        "b_seq0": seq0,
        "b_seq1": seq1,
        "b_committed_at": _moment(progress.committed_us),
        "b_skipped": progress.skipped,
        "b_tied": list(progress.tied),
        "b_floor_seq0": floor_seq0,
        "b_floor_committed_at": _moment(floor_us),
    }


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else from_us(microseconds)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(microseconds: int) -> datetime:
    """The moment that many microseconds after 1970, exactly."""
    return _EPOCH + timedelta(microseconds=microseconds)


def fenced(partition: Partition, found: object, claim: Claim) -> FencedError:
    """The ledger of a partition is not where a worker left it, but at `found`: an offset and a watermark."""
    return FencedError(
        f"The ledger of {partition} is at {found}, not at {claim.progress[:2]}.",
        remedy="Another worker has taken it over, or it was moved; this one wrote nothing and reads the ledger again.",
    )


def recreated(partition: Partition) -> GapError:
    """The topic of a partition is another one than the ledger knows."""
    return GapError(
        f"The topic {partition.topic} was deleted and made again: the ledger knows it under another id.",
        remedy=(
            "What was not applied before is in neither. Read its table again: deltasync resync. Only if it is known "
            f"that nothing is missing: deltasync ledger set {partition.topic} {partition.number} 0 --reason …"
        ),
    )


def added(partition: Partition) -> GapError:
    """A partition was added to a topic whose records were applied already: keys have moved into it from others."""
    return GapError(
        f"The partition {partition} was added to a topic in use: newer records of some rows are in it, older ones in "
        "another partition, and no order holds between the two.",
        remedy=(
            "When all that the topic's other partitions held then is applied (deltasync lag), no older record is left: "
            f"deltasync ledger set {partition.topic} {partition.number} 0 --reason …, and restart deltasync run. Where "
            "their number was not multiplied (2 became 3), keys moved among the old ones, too: read the table again."
        ),
    )
