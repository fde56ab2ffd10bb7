"""What is applied whole: a transaction of the source with all of its changes, in memory or on disk. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from deltasync.change import Change, Op, Partition, Position, Record
from deltasync.debezium.transaction import End
from deltasync.errors import RecordError
from deltasync.intake import half_lost, is_behind
from deltasync.progress import Progress
from deltasync.readable import Cut
from deltasync.spool import Spool, Spooled


class Read(NamedTuple):
    """A record that was read, and its partition's progress behind it.

    `transaction` is None for one that belongs to none. `moves` is that of its record.
    """

    partition: Partition
    offset: int
    progress: Progress
    change: Change | None = None
    transaction: str | None = None
    order: int = 0
    moves: bool = False
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


class Coming:
    """What has come of a transaction that is not whole yet: the numbers of its changes, and from which partitions.

    `rows` and `bytes` of it are in memory. A TRUNCATE that comes again may come in another partition, since its record
    has no key: all of them are kept until the transaction is the next one, and taken together they do what one does.
    """

    __slots__ = ("_blocks", "_truncates", "bytes", "count", "partitions", "rows")

    def __init__(self) -> None:
        self.count = 0
        self.rows = self.bytes = 0
        self.partitions: dict[Partition, None] = {}
        self._truncates: dict[int, int] = {}  # how often each one has come
        self._blocks: dict[int, int] = {}  # a bit for each number, 1024 to a block

    def has(self, order: int) -> bool:
        return bool(self._blocks.get(order >> 10, 0) >> (order & 1023) & 1)

    def add(self, partition: Partition, read: Read) -> None:
        times = self._truncates.get(read.order, 0)
        if read.change is not None and read.change.op is Op.TRUNCATE:
            self._truncates[read.order] = times + 1
        self.count += not times
        self.rows += 1
        self.bytes += read.bytes
        self.partitions[partition] = None
        self._blocks[read.order >> 10] = self._blocks.get(read.order >> 10, 0) | 1 << (read.order & 1023)

    def left(self, read: Read) -> None:
        """A record is not in memory any more."""
        self.rows -= 1
        self.bytes -= read.bytes

    def forget(self, partition: Partition, reads: Iterable[Read]) -> None:
        """What has come from a partition will come again."""
        self.partitions.pop(partition, None)
        self.uncount(reads)

    def uncount(self, reads: Iterable[Read]) -> None:
        """Records do not count as come, nor as in memory."""
        for read in reads:
            self.left(read)
            if self._truncates.get(read.order, 0) > 1:
                self._truncates[read.order] -= 1
                continue
            self._truncates.pop(read.order, None)
            self.count -= 1
            self._blocks[read.order >> 10] &= ~(1 << (read.order & 1023))

    @property
    def truncates(self) -> bool:
        return bool(self._truncates)


def changes_of(reads: Sequence[Read]) -> list[Change | None]:
    """What records change, one by one, in their order: a key change is told once, with its new key."""
    if not any(read.moves for read in reads):
        return [read.change for read in reads]
    spooled = [Spooled(read.order, read.moves, read.change) for read in reads if read.change is not None]
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


def once(reads: Iterable[Read]) -> list[Read]:
    """Records of a transaction by their order, in which each TRUNCATE is a change once, however often it came.

    One that came again stands before records that it came behind: each tells how far its partition is with all of them.
    """
    found: list[Read] = []
    seen: set[int] = set()
    behind: dict[Partition, Progress] = {}
    for read in reads:
        known = behind.setdefault(read.partition, read.progress)
        if read.progress.next_offset > known.next_offset:
            behind[read.partition] = read.progress
        is_truncate = read.change is not None and read.change.op is Op.TRUNCATE
        found.append(read._replace(change=None) if is_truncate and read.order in seen else read)
        if is_truncate:
            seen.add(read.order)
    return [read._replace(progress=behind[read.partition]) for read in found]


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
    for _, moves, change in changes:
        if half is not None and _is_one(half, change):
            yield change._replace(old_key=half.key, before=half.before)
            half = None
            continue
        if half is not None and is_behind(change, half):
            raise half_lost(half)
        if half is not None:
            yield half
        half = change if moves else None
        if not moves:
            yield change
    if half is not None:
        raise half_lost(half)


def _is_one(half: Change, change: Change) -> bool:
    """True for the two records of one key change, of which one may have come before the connector began anew."""
    return change.op is Op.CREATE and change.table == half.table and change.position.seq1 == half.position.seq1


def late(end: End, count: int) -> RecordError:
    """What to say of a transaction of which only so many changes have come."""
    tables = ", ".join(f"{changes} of {table}" for table, changes in sorted(end.tables.items()))
    return RecordError(
        f"The transaction {end.transaction} has ended, and {count} of its {end.changes} changes have come ({tables}). "
        "Nothing is applied before it is whole.",
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
    """A record without what `provide.transaction.metadata` adds."""
    return RecordError(
        f"The record at {record.partition} offset {record.offset} tells no transaction, which "
        'consistency = "transaction" needs to know.',
        remedy=(
            "Set provide.transaction.metadata = true on the connector (deltasync connectors apply does), before the "
            "pipeline begins."
        ),
    )


def replaced(partition: Partition, offset: int) -> RecordError:
    """The source's log is another one than that of what was applied."""
    return RecordError(
        f"The record at {partition} offset {offset} is older in the source's log than what was applied, although its "
        "transaction committed later: the source's log was replaced.",
        remedy="See whether the source was restored or failed over. The pipeline has to begin anew.",
    )
