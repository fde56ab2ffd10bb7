"""What is applied whole: a transaction of the source with all of its changes, in memory or on disk. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, takewhile
from typing import NamedTuple

from deltasync.change import Change, Op, Partition, Position, Record
from deltasync.debezium.transaction import End
from deltasync.errors import RecordError
from deltasync.intake import half_lost, is_behind
from deltasync.progress import Progress
from deltasync.readable import Cut
from deltasync.spool import Place, Spool, Spooled

# The end of a transaction stands behind all of its changes.
LAST = Place(2**63 - 1, stays=True, number=0)

_FIRST = Place(0, stays=True, number=0)


class Read(NamedTuple):
    """A record that was read, and its partition's progress behind it.

    `transaction` is None for one that belongs to none, and `place` where it stands in its transaction.
    """

    partition: Partition
    offset: int
    progress: Progress
    change: Change | None = None
    transaction: str | None = None
    place: Place | None = None
    bytes: int = 0


class Queue:
    """The records of a partition that were read and not yet applied; `base` is where the ledger is."""

    def __init__(self, progress: Progress) -> None:
        self.base = progress.next_offset
        self.progress = progress
        self.reads: deque[Read] = deque()
        self.last: str | None = None  # the transaction that its last record belongs to
        self.cut: Cut | None = None


class Large(NamedTuple):
    """A transaction that did not fit into memory: its changes, and the last record of each partition."""

    spool: Spool
    last: dict[Partition, Read]

    @property
    def to(self) -> dict[Partition, Progress]:
        """How far the partitions are behind it."""
        return {partition: read.progress for partition, read in self.last.items()}


class Unit(NamedTuple):
    """What is applied whole: the records of a transaction by their order, its end last; or one record of none.

    Where a transaction is `large`, only its end is among the records. It can be read until the next unit is taken.
    """

    end: End | None
    reads: list[Read]
    large: Large | None = None


def changes_of(reads: Sequence[Read]) -> list[Change | None]:
    """What records change, one by one, in their order: a key change is told once, with its new key."""
    if all(read.place is None or read.place.stays for read in reads):
        return [read.change for read in reads]
    spooled = [Spooled(read.place or LAST, read.change) for read in reads if read.change is not None]
    found = {(change.partition, change.offset): change for change in joined(spooled)}
    return [found.get((read.partition, read.offset)) for read in reads]


def strays(reads: Iterable[Read], transaction: str) -> list[int]:
    """The places of TRUNCATEs of the next transaction in a partition, behind another transaction's record.

    One came again there, having no key, and was in another partition at first: that one is still to come.
    """
    found, behind = [], False
    for index, read in enumerate(reads):
        behind |= read.transaction not in {None, transaction}
        if behind and read.transaction == transaction and read.change and read.change.op is Op.TRUNCATE:
            found.append(index)
    return found


def behind(read: Read, place: Place | None) -> Read:
    """A record of a transaction in its place, or one of none behind this one, or before all."""
    if read.place is not None:
        return read
    return read._replace(place=_FIRST if place is None else place._replace(stays=True))


def place_of(read: Read) -> Place:
    """Where a record stands among those of its transaction."""
    return read.place or _FIRST


def put_on_disk(spool: Spool, reads: Iterable[Read]) -> None:
    """Append what records change, partition by partition."""
    for partition, some in groupby(reads, key=lambda read: read.partition):
        spool.append(partition, [Spooled(place_of(read), read.change) for read in some if read.change is not None])


def level(reads: Iterable[Read]) -> list[Read]:
    """Records of a transaction in their order, each of which tells how far its partition is with all before it.

    A TRUNCATE that came again stands before records that it came behind.
    """
    found: list[Read] = []
    so_far: dict[Partition, Progress] = {}
    for read in reads:
        known = so_far.setdefault(read.partition, read.progress)
        if read.progress.next_offset > known.next_offset:
            so_far[read.partition] = read.progress
        found.append(read._replace(progress=so_far[read.partition]))
    return found


def run(reads: Iterable[Read], transaction: str) -> int:
    """How many records are a transaction's, with those of none between them and, where they change nothing, behind.

    A read behind them goes alone: a later transaction may have to describe its table first.
    """
    count = 0
    for place, read in enumerate(takewhile(lambda read: read.transaction in {None, transaction}, reads), 1):
        if read.transaction == transaction or (count == place - 1 and read.change is None):
            count = place
    return count


def joined(changes: Iterable[Spooled]) -> Iterator[Change]:
    """Changes in their order, the two halves of a key change as one. Raises RecordError where a half is missing."""
    half: Change | None = None
    for place, change in changes:
        if half is not None and _is_one(half, change):
            yield change._replace(old_key=half.key, before=half.before)
            half = None
            continue
        if half is not None and is_behind(change, half):
            raise half_lost(half)
        if half is not None:
            yield half
        half = None if place.stays else change
        if place.stays:
            yield change
    if half is not None:
        raise half_lost(half)


def _is_one(half: Change, change: Change) -> bool:
    """True for the two records of one key change, of which one may have come before the connector began anew."""
    return change.op is Op.CREATE and change.table == half.table and change.position.seq1 == half.position.seq1


def late(number: int, end: End) -> RecordError:
    """What to say of a transaction of which the change of this number has not come."""
    tables = ", ".join(f"{changes} of {table}" for table, changes in sorted(end.tables.items()))
    return RecordError(
        f"The transaction {end.transaction} has ended, and change {number} of its {end.changes} has not come "
        f"({tables}). Nothing is applied before it is whole.",
        remedy="See which of these topics has stopped or is not read: deltasync lag, and /readyz of the worker.",
    )


def is_partly_applied(topic: Progress, others: Iterable[Progress]) -> bool:
    """True where changes were applied behind the last transaction that was applied whole: `topic` is the ends'."""
    mark = topic.watermark[1] if topic.watermark else 0
    return any(
        one.committed_us is not None and one.watermark is not None and (one.watermark[0] or 0) >= mark for one in others
    )


def is_applied(record: Record, position: Position, mark: Progress | None) -> bool:
    """True for a change of a transaction that was applied, `mark` being the progress of the ends.

    Raises RecordError for one that is older although it was committed later: the source's log was replaced.
    """
    if mark is None or mark.watermark is None or position.seq1 is None:
        return False
    place = position.seq1 if position.seq0 is None else position.seq0
    if place >= mark.watermark[1]:
        return False
    if position.committed_us <= (mark.committed_us or 0):
        return True
    if position.seq0 is None:
        return False  # the connector began anew in a transaction that was under way when the last one ended
    raise replaced(record.partition, record.offset)


def is_repeated(position: Position, progress: Progress, mark: Progress | None) -> bool:
    """True for a snapshot's read in a partition whose later changes were applied."""
    if mark is None or mark.watermark is None or position.seq1 is None or progress.committed_us is None:
        return False
    return position.seq1 < mark.watermark[1]


def unended(read: Read, transaction: str) -> RecordError:
    """A transaction never ended, and a later one has."""
    return RecordError(
        f"The transaction {read.transaction} at {read.partition} offset {read.offset} has no end, and the transaction "
        f"{transaction} behind it has one: the connector has left something out.",
        remedy="See whether its slot or its offsets were lost. The pipeline has to begin anew.",
    )


def untold(record: Record) -> RecordError:
    """A record without what `provide.transaction.metadata` adds, or the header that tells the task's run."""
    return RecordError(
        f"The record at {record.partition} offset {record.offset} does not tell its transaction, or which run of the "
        'connector sent it, which consistency = "transaction" needs to know.',
        remedy=(
            "Set provide.transaction.metadata = true on the connector (deltasync connectors apply does) and leave "
            "extended.headers.enabled as it is, before the pipeline begins. Where Connect has an older jar of "
            "connectors/raw-text, make it anew."
        ),
    )


def replaced(partition: Partition, offset: int) -> RecordError:
    """The source's log is another one than that of what was applied."""
    return RecordError(
        f"The record at {partition} offset {offset} is older in the source's log than what was applied, although its "
        "transaction committed later: the source's log was replaced.",
        remedy="See whether the source was restored or failed over. The pipeline has to begin anew.",
    )
