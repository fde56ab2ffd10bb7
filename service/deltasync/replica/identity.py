"""Which source the replica was filled from, as the canary tells: compared, written down, accepted by an operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
import structlog

from deltasync.canary import Beat, Hole, judge
from deltasync.debezium.schema_log import CANARY
from deltasync.errors import RefusedError
from deltasync.progress import Claim, Progress
from deltasync.replica import by_hand, ledger
from deltasync.replica.tables import source_canary, source_table

log = structlog.get_logger(__name__)

# What is missing is told hole by hole, as long as somebody may read it.
_TOLD_MAX = 1000


class Unaccepted(NamedTuple):
    """What waits for an operator's word: why the source is refused, what else is to be known of it, what is missing."""

    refused: str | None
    doubt: str | None
    missing: tuple[str, ...]


def note(connection: sa.Connection, pipeline: str, beats: Sequence[Beat]) -> str | None:
    """Compare beats with the newest one applied, and write down what they tell; returns why the source is refused.

    Belongs behind the fence, in the transaction of the rows. What is written where the source is refused has to be
    committed without them.
    """
    refused, hole, doubt = judge(_newest(connection, pipeline), beats)
    if refused is not None:
        _write(connection, pipeline, refused=refused)
    if hole is not None:
        _owe(connection, pipeline, hole)
        log.error("rows may be missing", reason=str(hole), do="Read the tables again from the source.")
    if doubt is not None:
        _write(connection, pipeline, doubt=doubt)
        log.warning("the source failed over", reason=doubt)
    return refused


def accept(connection: sa.Connection, pipeline: str, reason: str) -> Unaccepted:
    """Go on with the source as it is: an operator says that it is the right one, and that no row is missing.

    Where it was refused, what is known of the old one is forgotten, watermarks included, and the partitions go on
    where they stopped. Belongs into a transaction of its own. Raises RefusedError without a reason, and where there is
    nothing to accept.
    """
    if not reason.strip():
        raise RefusedError("A source is not accepted without a reason.", remedy="Say why: --reason TEXT.")
    accepted = told(connection, pipeline)
    if not any(accepted):
        raise RefusedError(
            "There is nothing to accept: the source is the one it was, and no beat of it is missing.",
            remedy="`deltasync ledger set` moves a partition that stopped for another reason.",
        )
    is_ours = source_table.c.pipeline == pipeline
    paid = {"complete": True, "missing": None}
    connection.execute(sa.update(source_table).where(is_ours, source_table.c.missing.is_not(None)).values(paid))
    _write(connection, pipeline, doubt=None)
    for partition, (topic_id, progress) in sorted(ledger.read(connection, pipeline).items()):
        here = progress.next_offset
        if accepted.refused is not None:
            by_hand.place(connection, pipeline, partition, Claim(topic_id, Progress(here)), reason)
        elif partition.topic.endswith(f".{CANARY}"):
            by_hand.audit(connection, pipeline, partition, (here, here), reason)
    if accepted.refused is not None:
        connection.execute(sa.delete(source_canary).where(source_canary.c.pipeline == pipeline))
        connection.execute(sa.update(source_table).where(is_ours).values(gone_lsn=None))
    return accepted


def told(connection: sa.Connection, pipeline: str) -> Unaccepted:
    """What is to be accepted by now."""
    query = sa.select(source_canary.c.refused, source_canary.c.doubt).where(source_canary.c.pipeline == pipeline)
    refused, doubt = connection.execute(query).one_or_none() or (None, None)
    missing = sa.select(source_table.c.missing).distinct().order_by(source_table.c.missing)
    found = connection.execute(missing.where(source_table.c.pipeline == pipeline, source_table.c.missing.is_not(None)))
    return Unaccepted(refused, doubt, tuple(found.scalars()))


def settled(connection: sa.Connection, pipeline: str) -> int:
    """The transactions of the source below this number are in Kafka; 0 where nothing tells."""
    columns = source_canary.c
    found = connection.execute(sa.select(columns.settled_xid).where(columns.pipeline == pipeline)).scalar_one_or_none()
    return found or 0


def _newest(connection: sa.Connection, pipeline: str) -> Beat | None:
    columns = source_canary.c
    query = sa.select(
        columns.pipeline, columns.beat, columns.beat_at, columns.system_identifier, columns.timeline
    ).where(columns.pipeline == pipeline)
    row = connection.execute(query).one_or_none()
    return None if row is None else Beat(*row)


def _owe(connection: sa.Connection, pipeline: str, hole: Hole) -> None:
    """Any captured table may lack rows; one that was incomplete before stays so for its own reason, too."""
    columns = source_table.c
    told_before = sa.func.coalesce(sa.func.length(columns.missing), 0)
    missing = sa.case(
        (told_before > _TOLD_MAX, columns.missing), else_=sa.func.concat_ws(" ", columns.missing, str(hole))
    )
    concerned = sa.and_(
        columns.pipeline == pipeline,
        columns.captured,
        ~columns.dropped,
        sa.or_(columns.complete, columns.missing.is_not(None)),
    )
    connection.execute(sa.update(source_table).where(concerned).values(complete=False, missing=missing))


def _write(connection: sa.Connection, pipeline: str, **values: str | None) -> None:
    connection.execute(sa.update(source_canary).where(source_canary.c.pipeline == pipeline).values(**values))
