"""A table that was dropped on the source is dropped here, with what is set aside of it; nothing else ever is.

Records from before the drop are void from then on. Rows of another table that was made under its name may have come
before the drop was known, and are in the one that goes: where they may be, the log is read again from its beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import psycopg
import sqlalchemy as sa
import structlog

from deltasync.change import Log, Partition
from deltasync.ports import Logs
from deltasync.progress import Claim, Progress
from deltasync.replica import by_hand, catalog, ddl, dead_letters, pending
from deltasync.replica.dead_letters import Outcome
from deltasync.replica.engine import driver
from deltasync.settings import Settings
from deltasync.table import SourceTable, Table, Version

log = structlog.get_logger(__name__)


def drop(
    connection: sa.Connection,
    settings: Settings,
    table: SourceTable,
    claims: Mapping[Partition, Sequence[Claim]],
    logs: Logs,
) -> SourceTable:
    """Carry out a drop that is next; returns the state behind it, or that of a table that is held, and why.

    `claims` are the ledger's rows of its topic, which are locked; `logs` is asked where rows may have come too early.
    """
    version, description, pipeline = table.pending[0], table.description, settings.pipeline
    if description is None:
        return gone(table, version)
    if catalog.shared(driver(connection), pipeline, [description.id]) is None:
        why = pending.tried(driver(connection), settings.ddl, lambda: _dropped(driver(connection), description))
        if why is not None:
            log.warning("table not dropped", table=str(description.id), reason=why)
            return pending.refused(table, why)
    told = f"the table {description.id} was dropped on the source"
    letters = dead_letters.of_table(pipeline, description.id)
    dead_letters.end(connection, letters, Outcome.VOID, told)
    early = early_logs(claims, version, logs) if settings.consistency == "key" else {}
    for partition in sorted(claims):
        if partition in early:
            start = Claim(early[partition].topic_id, Progress(early[partition].start_offset))
            by_hand.advance(connection, pipeline, partition, start, f"{told}, and another one has its rows here")
        else:
            by_hand.tell(connection, pipeline, partition, told)
    log.info("table dropped", table=str(description.id), read_again=len(early))
    return gone(table, version, early.values())


def early_logs(claims: Mapping[Partition, Sequence[Claim]], version: Version, logs: Logs) -> dict[Partition, Log]:
    """The partitions where rows from behind the drop may have gone into the table that is dropped."""
    found = {partition: {c.topic_id for c in every if _is_early(c, version)} for partition, every in claims.items()}
    asked = [partition for partition, ids in found.items() if ids]
    return (
        {partition: one for partition, one in logs(asked).items() if one.topic_id in found[partition]} if asked else {}
    )


def gone(table: SourceTable, version: Version, early: Iterable[Log] = ()) -> SourceTable:
    """The state behind a drop. Where a log that is read again does not begin at 0, some of its rows may be missing."""
    return table._replace(
        description=None,
        pending=table.pending[1:] if table.captured else (),
        held=None,
        complete=table.complete and all(one.start_offset == 0 for one in early),
        gone_lsn=version.lsn,
        gone_at_us=version.at_us,
    )


def _is_early(claim: Claim, version: Version) -> bool:
    """True where the partition may be behind the drop; those that are not lose nothing by being read again."""
    mark, committed_us = claim.progress.watermark, claim.progress.committed_us
    is_behind = mark is not None and version.lsn is not None and mark[1] >= version.lsn
    return is_behind or (committed_us is not None and committed_us >= version.at_us)


def _dropped(connection: psycopg.Connection, table: Table) -> None:
    ddl.execute(connection, ddl.drop_table(table))
