"""The rule of "never twice" for tables without a key, whose REPLICA IDENTITY is FULL: pure.

What is applied twice to such a table doubles a row, or takes two where one was deleted. So a change is known by its
position and by its number in its transaction, which Debezium's transaction metadata tells: rows of one COPY share a
position, and equal rows have nothing else that differs. Where these do not tell whether a change was applied before,
its partition stops. The first read of a snapshot empties the table, and the others follow it.
"""

from __future__ import annotations

from deltasync import progress as rule
from deltasync.change import Change, Op
from deltasync.errors import RecordError
from deltasync.progress import Progress

# In `Progress.tied`, beside the number of the latest change: the snapshot has read all rows of the table.
_READ_TO_ITS_END = b"read to its end"
_FIRST = frozenset({"first", "first_in_data_collection"})
_LAST = frozenset({"last", "last_in_data_collection"})


def is_again(progress: Progress, change: Change) -> bool:
    """True if the change was applied before and must be skipped.

    Raises RecordError where nothing tells that, and where the source's log was replaced.
    """
    if change.op is Op.READ:
        return False
    position, watermark = change.position, progress.watermark
    if position.seq1 is None or change.transaction is None or change.order is None:
        raise _unnumbered(change)
    latest = _latest(progress, change.transaction)
    if watermark is not None and position.seq0 is not None and watermark[0] is not None:
        if position[:2] < watermark:
            return rule.is_older(progress, change._replace(op=Op.UPDATE))
        if position[:2] == watermark and latest is None:
            raise _perhaps_again(change)
    if latest is not None and (position[:2] == watermark or _is_first(progress, change)):
        return change.order <= latest
    if rule.may_be_again(progress, change):
        raise _perhaps_again(change)
    return False


def begins(progress: Progress, change: Change) -> bool:
    """True for the first read of the table in a snapshot: what the replica has of it is gone by then.

    A snapshot that died is followed by another one: at another position, or beginning with its first row again, or
    behind the last one. Raises RecordError for reads that have no order against the changes that were applied.
    """
    if change.incremental:
        raise _incremental(change)
    goes_on = progress.watermark == change.position[:2] and not progress.tied
    if goes_on and change.snapshot not in _FIRST:
        return False
    if progress.watermark is not None and progress.committed_us is not None:
        raise _read_again(change)
    return True


def applied(progress: Progress, change: Change) -> Progress:
    """Progress after a change that is applied. With the first read of a snapshot all is new."""
    if change.op is Op.READ:
        before = Progress(progress.next_offset, skipped=progress.skipped) if change.begins else progress
        tied = (_READ_TO_ITS_END,) if change.snapshot in _LAST else ()
        return rule.applied(before, change)._replace(tied=tied)
    return rule.applied(progress, change)._replace(tied=(f"{change.transaction}:{change.order}".encode(),))


def _is_first(progress: Progress, change: Change) -> bool:
    """True where the change and what was applied last have no first halves: one transaction, if it is the same."""
    return progress.watermark is not None and progress.watermark[0] is None and change.position.seq0 is None


def _latest(progress: Progress, transaction: str) -> int | None:
    """The number of the latest change applied, if it was one of this transaction."""
    found, _, order = b"".join(progress.tied[:1]).rpartition(b":")
    return int(order) if found == transaction.encode() else None


def _unnumbered(change: Change) -> RecordError:
    return RecordError(
        f"The record at {change.partition} offset {change.offset} does not tell its number in its transaction, and "
        f"{change.table} has no key: where it comes again, nobody would know.",
        remedy=(
            "Run deltasync connectors apply, which sets provide.transaction.metadata = true; then have the connector "
            "read the table again. Or give the table a primary key on the source."
        ),
    )


def _perhaps_again(change: Change) -> RecordError:
    return RecordError(
        f"The record at {change.partition} offset {change.offset} changes a row of {change.table}, which has no key, "
        "and the connector began anew or the ledger was moved back: it may have been applied before.",
        remedy=(
            f"See whether {change.table} has this change on the replica, and make it right by hand; then: deltasync "
            f"ledger set {change.partition.topic} {change.partition.number} {change.offset + 1} --reason …"
        ),
    )


def _incremental(change: Change) -> RecordError:
    return RecordError(
        f"The record at {change.partition} offset {change.offset} is an incremental snapshot's of {change.table}, "
        "which has no key: it cannot be told from the rows that are there.",
        remedy=(
            "Send no such signal for this table. To go on behind its reads: deltasync ledger set "
            f"{change.partition.topic} {change.partition.number} OFFSET --reason …"
        ),
    )


def _read_again(change: Change) -> RecordError:
    return RecordError(
        f"A snapshot reads {change.table} again ({change.partition} offset {change.offset}), which has no key, after "
        "changes of it were applied: which changes its rows hold already is known of a new slot only.",
        remedy=(
            "If the connector began with a new slot, what the replica has of the table may be replaced: deltasync "
            f"ledger set {change.partition.topic} {change.partition.number} {change.offset} --reason …"
        ),
    )
