"""The rule of "never twice" for tables without a key, whose REPLICA IDENTITY is FULL: pure.

What is applied twice to such a table doubles a row, or takes two where one was deleted. So a change is known by its
transaction, its place in the log and its number, which Debezium's transaction metadata tells: rows of one COPY share a
place, and equal rows have nothing else that differs. But a connector that is restarted between the rows of a
transaction's first place may send the last of them again under the next number. So the ledger remembers, of the place
that was applied last, what each number changed, and which run of the connector sent it: what another run sends there is
new only if nothing of what was applied there is like it. Where nothing tells, the partition stops.

The first read of a snapshot empties the table, and the others follow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

from deltasync import progress as rule
from deltasync.change import Change, Op
from deltasync.errors import RecordError
from deltasync.progress import KEYLESS, TIED_MAX, Progress

# What `Progress.tied` begins with: that reads go on, that the snapshot has read all rows, or what was applied last.
_READING = KEYLESS + b"is read"
_READ_TO_ITS_END = KEYLESS + b"was read"
_FIRST = frozenset({"first", "first_in_data_collection"})
_LAST = frozenset({"last", "last_in_data_collection"})
# What is remembered of a change at the place that was applied last: its number, and a hash of what it did.
_NUMBER_BYTES, _HASH_BYTES = 8, 16
_TIE_BYTES = _NUMBER_BYTES + _HASH_BYTES


class _Latest(NamedTuple):
    """What was applied last: its transaction, and what its place in the log holds, a hash of each change by its number.

    `run` of the connector is known to number as those changes are numbered; `doubted` are runs that may not. `first` is
    the transaction's first place, where the partition has it.
    """

    transaction: bytes
    run: bytes
    first: int | None
    doubted: tuple[bytes, ...]
    contents: Mapping[int, bytes]

    @property
    def mark(self) -> bytes:
        first = b"-" if self.first is None else b"%d" % self.first
        return KEYLESS + b" ".join((self.transaction, self.run, first, *self.doubted))


def told(change: Change, run: str) -> Change:
    """The change of a record, and which run of the connector's task sent it; empty where the record does not say.

    Raises RecordError where the row before the change is missing.
    """
    if change.before is None and change.op in {Op.UPDATE, Op.DELETE}:
        raise _before_missing(change)
    return change._replace(run=run)


def is_again(progress: Progress, change: Change) -> bool:
    """True if the change was applied before and must be skipped.

    Raises RecordError where nothing tells that, and where the source's log was replaced; but not for the record to
    which the ledger was moved by hand: that one is new, unless it is known.
    """
    if change.op is Op.READ:
        return False
    if not change.run or change.position.seq1 is None or change.transaction is None or change.order is None:
        raise _unnumbered(change)
    try:
        latest = _latest(progress)
        if latest is not None and latest.transaction == _transaction(change):
            return _is_again_within(progress, latest, change)
        return _is_of_older_transaction(progress, change)
    except RecordError:
        if rule.vouched(change.offset) not in progress.tied:
            raise
        return False


def begins(progress: Progress, change: Change) -> bool:
    """True for the first read of such a table in a snapshot: what the replica has of it is gone by then.

    A snapshot that died is followed by another one: at another position, or beginning with its first row again, or
    behind the last one. Raises RecordError for reads that have no order against the changes that were applied, or
    do not begin with the first one; an operator's word is the order.
    """
    if change.run is None or change.op is not Op.READ:
        return False
    if change.incremental:
        raise _incremental(change)
    goes_on = progress.watermark == change.position[:2] and progress.tied[:1] == (_READING,)
    if goes_on and change.snapshot not in _FIRST:
        return False
    is_vouched_for = rule.vouched(change.offset) in progress.tied
    if progress.watermark is not None and progress.committed_us is not None and not is_vouched_for:
        raise _read_again(change)
    if change.snapshot not in _FIRST | _LAST:
        raise _read_in_part(change)
    return True


def applied(progress: Progress, change: Change) -> Progress:
    """Progress after a change that is applied, of any table. With the first read of a snapshot all is new."""
    if change.run is None:
        return rule.applied(progress, change)
    if change.op is Op.READ:
        before = Progress(progress.next_offset, skipped=progress.skipped) if change.begins else progress
        return rule.applied(before, change)._replace(tied=(_READ_TO_ITS_END if change.snapshot in _LAST else _READING,))
    transaction, number = _transaction(change), change.order or 0
    # A TRUNCATE may have its place in several partitions.
    first = change.position.seq1 if number == 1 and change.op is not Op.TRUNCATE else None
    latest = _Latest(transaction, _run(change), first, (), {})
    last = _latest(progress)
    known: tuple[bytes, ...] = ()
    if last is not None and last.transaction == transaction:
        known = progress.tied[1:] if _is_at(progress, change) else ()
        latest = latest._replace(first=last.first, doubted=tuple(one for one in last.doubted if one != latest.run))
    if known and (len(known[-1]) != _TIE_BYTES or _number(known[-1]) >= number):
        known = tuple(one for one in known if len(one) == _TIE_BYTES and _number(one) < number)
    tie = number.to_bytes(_NUMBER_BYTES) + _content(change)
    return rule.applied(progress, change)._replace(tied=(latest.mark, *known[1 - TIED_MAX :], tie))


def skipped(progress: Progress, change: Change) -> Progress:
    """Progress after a change that comes again, of any table: it may tell how its run of the connector numbers."""
    after = rule.skipped(progress, change)
    latest = _latest(progress) if change.run is not None else None
    if latest is None or latest.transaction != _transaction(change) or _run(change) in {latest.run, *latest.doubted}:
        return after
    if change.order == 1 or _goes_on(latest, change):
        latest = latest._replace(run=_run(change))
    else:
        latest = latest._replace(doubted=(*latest.doubted, _run(change)))
    return after._replace(tied=(latest.mark, *progress.tied[1:]))


def _is_again_within(progress: Progress, latest: _Latest, change: Change) -> bool:
    """The rule for another change of the transaction that was applied last: its log goes in order."""
    here, there = change.position.seq1 or 0, progress.watermark[1] if progress.watermark else 0
    if here != there:
        return here < there
    number, content = change.order or 0, _content(change)
    if number > max(latest.contents, default=0):
        if not _goes_on(latest, change) and content in latest.contents.values():
            raise _perhaps_again(change)
        return False
    if latest.contents.get(number) != content:
        raise _renumbered(change)
    return True


def _is_of_older_transaction(progress: Progress, change: Change) -> bool:
    """The rule for a change of another transaction than the one that was applied last."""
    position, watermark = change.position, progress.watermark
    if watermark is not None and position.seq0 is not None and watermark[0] is not None:
        if position[:2] < watermark:
            return rule.is_older(progress, change._replace(op=Op.UPDATE))
        if position[:2] == watermark:
            raise _perhaps_again(change)
    if rule.may_be_again(progress, change):
        raise _perhaps_again(change)
    return False


def _is_at(progress: Progress, change: Change) -> bool:
    return progress.watermark is not None and progress.watermark[1] == change.position.seq1


def _number(tie: bytes) -> int:
    return int.from_bytes(tie[:_NUMBER_BYTES])


def _transaction(change: Change) -> bytes:
    """The id may be another transaction's in a log that was replaced; not with the same time of commit."""
    return f"{change.transaction}:{change.position.committed_us}".encode()


def _run(change: Change) -> bytes:
    return (change.run or "").replace(" ", "_").encode()


def _goes_on(latest: _Latest, change: Change) -> bool:
    """True where the numbers of the change's run go on from those that were applied.

    A run of which nothing has come yet does, if it begins behind the transaction's first place, and goes on from no
    run that is in doubt: the number is stored with the offset.
    """
    run = _run(change)
    if run == latest.run or latest.doubted or latest.first is None:
        return run == latest.run
    return (change.position.seq1 or 0) > latest.first


def _latest(progress: Progress) -> _Latest | None:
    """What was applied last; None where that was a read, or is not known."""
    mark, *ties = progress.tied or (b"",)
    if not mark.startswith(KEYLESS) or mark in {_READING, _READ_TO_ITS_END}:
        return None
    transaction, run, first, *doubted = mark.removeprefix(KEYLESS).split(b" ")
    contents = {_number(one): one[_NUMBER_BYTES:] for one in ties if len(one) == _TIE_BYTES}
    # Where the ledger was moved by hand, what a run began with may have been left out.
    is_first_known = first != b"-" and len(contents) == len(ties)
    return _Latest(transaction, run, int(first) if is_first_known else None, tuple(doubted), contents)


def _content(change: Change) -> bytes:
    """What a change does, as it was sent: the same row once more is the same bytes."""
    found = blake2b(change.op.value.encode(), digest_size=_HASH_BYTES)
    for row in (change.before, change.row):
        found.update(b"-" if row is None else b"%d:%b" % (len(row), row))
    return found.digest()


def _unnumbered(change: Change) -> RecordError:
    return RecordError(
        f"The record at {change.partition} offset {change.offset} does not tell its number in its transaction, or "
        f"which run of the connector sent it, and {change.table} has no key: where it comes again, nobody would know.",
        remedy=(
            "Run deltasync connectors apply, which sets provide.transaction.metadata = true, and leave "
            "extended.headers.enabled as it is; where Connect has an older jar of connectors/raw-text, make it anew. "
            "Then have the connector read the table again. Or give the table a primary key on the source."
        ),
    )


def _perhaps_again(change: Change) -> RecordError:
    return RecordError(
        f"The record at {change.partition} offset {change.offset} changes a row of {change.table}, which has no key, "
        "and the connector began anew or the ledger was moved back: it may have been applied before.",
        remedy=_compare(change),
    )


def _renumbered(change: Change) -> RecordError:
    """The number of a change is another one's."""
    return RecordError(
        f"The record at {change.partition} offset {change.offset} changes a row of {change.table}, which has no key, "
        "and has the number of another change of its transaction: the connector began anew, and counts otherwise.",
        remedy=_compare(change),
    )


def _compare(change: Change) -> str:
    return (
        f"Compare {change.table} with the source, and see which is the first record from there on that the replica "
        f"lacks; then: deltasync ledger set {change.partition.topic} {change.partition.number} OFFSET --reason …, with "
        "its offset. What follows in its transaction is applied."
    )


def _before_missing(change: Change) -> RecordError:
    return RecordError(
        f"The record at {change.partition} offset {change.offset} does not tell what a row of {change.table} was.",
        remedy="See whether its REPLICA IDENTITY was changed on the source: it is to be FULL.",
    )


def _read_in_part(change: Change) -> RecordError:
    return RecordError(
        f"The record at {change.partition} offset {change.offset} is a snapshot's read of {change.table}, which has no "
        "key, and not the first one: which rows came before it is not known.",
        remedy=(
            "Move the ledger to the table's first read, if the topic holds it: deltasync ledger set "
            f"{change.partition.topic} {change.partition.number} OFFSET --reason …"
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
