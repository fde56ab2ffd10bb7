"""The ledger moved by hand: written down with a reason, and heard of by the worker that owns the partition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from deltasync.change import Partition
from deltasync.errors import RefusedError
from deltasync.progress import Claim, anew, forgets, vouched
from deltasync.replica.ledger import lock, move, read
from deltasync.replica.tables import ledger, ledger_audit


def place(connection: sa.Connection, pipeline: str, partition: Partition, to: Claim, reason: str) -> int | None:
    """Make `to.progress.next_offset` what is read next; returns where it was, if known.

    What becomes of the watermark, `progress.placed` says. The latest source commit stays: without it, records that
    come again from before a step back of the source's clock would look like those of a replaced log.
    Belongs into a transaction of its own. A worker that is applying the partition is fenced, and reads on from
    here. Raises RefusedError without a reason.
    """
    if not reason.strip():
        raise RefusedError("The ledger is not moved without a reason.", remedy="Say why: --reason TEXT.")
    key = {"pipeline": pipeline, "topic": partition.topic, "topic_id": to.topic_id, "partition": partition.number}
    is_it = sa.and_(*(ledger.c[name] == value for name, value in key.items()))
    query = sa.select(ledger.c.next_offset, ledger.c.tied).where(is_it).with_for_update()
    before, tied = connection.execute(query).one_or_none() or (None, ())
    next_offset = to.progress.next_offset
    placed: dict[str, Any] = {"next_offset": next_offset, "updated_at": sa.func.clock_timestamp()}
    if before is not None and not forgets(before, next_offset, tied):
        placed |= {"tied": [*tied, vouched(next_offset)]}
    else:
        placed |= {"seq0": None, "seq1": None, "tied": [], "floor_seq0": None, "floor_committed_at": None}
    changed = placed
    if "seq0" in placed:
        streamed = ledger.c.source_committed_at.is_not(None)
        seq0 = sa.func.greatest(sa.func.coalesce(ledger.c.seq0, 0), sa.func.coalesce(ledger.c.floor_seq0, 0))
        floor = {"floor_seq0": sa.case((streamed, seq0)), "floor_committed_at": ledger.c.source_committed_at}
        changed = placed | floor  # see `progress.anew`
    statement = insert(ledger).values({**key, **placed})
    connection.execute(statement.on_conflict_do_update(index_elements=list(ledger.primary_key), set_=changed))
    audit(connection, pipeline, partition, (before, next_offset), reason)
    return before


def advance(connection: sa.Connection, pipeline: str, partition: Partition, to: Claim, reason: str) -> None:
    """Write exactly this progress where the ledger is elsewhere, and have the partition's owner open it anew.

    A topic that the ledger does not know yet by this id is added. Belongs behind the lock of the partition's row.
    """
    key = {"pipeline": pipeline, "topic": partition.topic, "topic_id": to.topic_id, "partition": partition.number}
    next_offset = to.progress.next_offset
    connection.execute(insert(ledger).values({**key, "next_offset": 0}).on_conflict_do_nothing())
    query = sa.select(ledger.c.next_offset).where(*(ledger.c[name] == value for name, value in key.items()))
    before = connection.execute(query).scalar_one()
    if before != next_offset:
        move(connection, pipeline, {partition: to}, {partition: to.progress})
    audit(connection, pipeline, partition, (before, next_offset), reason)


def begin_anew(connection: sa.Connection, pipeline: str, ends: Mapping[Partition, Claim], reason: str) -> None:
    """Go on at these ends of the logs; from there on, places in the source's log may be smaller than those applied.

    What is before an end and was not applied never is. A topic that the ledger knows by another id is left alone.
    """
    for topic in sorted({partition.topic for partition in ends}):
        for partition, claims in sorted(lock(connection, pipeline, topic).items()):
            end = ends.get(partition)
            for claim in claims:
                if end is not None and claim.topic_id == end.topic_id:
                    here, to = claim.progress.next_offset, end.progress.next_offset
                    progress = anew(claim.progress)._replace(next_offset=to)
                    move(connection, pipeline, {partition: claim}, {partition: progress})
                    audit(connection, pipeline, partition, (here, to), reason)


def begin(connection: sa.Connection, pipeline: str, ends: Mapping[Partition, Claim], reason: str) -> None:
    """Have the pipeline begin at these ends of the logs, as if nothing had been applied before."""
    before = {partition: claim.progress.next_offset for partition, claim in read(connection, pipeline).items()}
    connection.execute(sa.delete(ledger).where(ledger.c.pipeline == pipeline))
    for partition, end in sorted(ends.items()):
        key = {"topic": partition.topic, "topic_id": end.topic_id, "partition": partition.number}
        next_offset = end.progress.next_offset
        connection.execute(insert(ledger).values({"pipeline": pipeline, **key, "next_offset": next_offset}))
        audit(connection, pipeline, partition, (before.get(partition), next_offset), reason)


def tell(connection: sa.Connection, pipeline: str, partition: Partition, reason: str) -> None:
    """Have the partition's owner open it anew where it is: what is set aside of it was changed by hand."""
    is_it = (ledger.c.pipeline == pipeline) & (ledger.c.topic == partition.topic)
    newest = sa.select(ledger.c.next_offset).where(is_it & (ledger.c.partition == partition.number))
    at = connection.execute(newest.order_by(ledger.c.updated_at.desc()).limit(1)).scalar_one()
    audit(connection, pipeline, partition, (at, at), reason)


def audit(
    connection: sa.Connection, pipeline: str, partition: Partition, moved: tuple[int | None, int], reason: str
) -> None:
    """Write down from where to where a partition was moved; the worker that owns it reads it anew."""
    before, next_offset = moved
    entry = {
        "pipeline": pipeline,
        "topic": partition.topic,
        "partition": partition.number,
        "old_next_offset": before,
        "new_next_offset": next_offset,
        "reason": reason.strip(),
    }
    connection.execute(sa.insert(ledger_audit).values(entry))


def moved_since(connection: sa.Connection, pipeline: str, audited: int) -> tuple[int, set[Partition]]:
    """The partitions that were moved by hand after the audit's entry `audited`, and its newest entry now."""
    query = sa.select(ledger_audit.c.id, ledger_audit.c.topic, ledger_audit.c.partition).where(
        ledger_audit.c.pipeline == pipeline, ledger_audit.c.id > audited
    )
    rows = connection.execute(query).all()
    return max((row.id for row in rows), default=audited), {Partition(row.topic, row.partition) for row in rows}
