"""Puts the source's transactions together again from the partitions over which Debezium spreads them: pure.

Debezium numbers the changes of a transaction across all tables, and tells on a topic of its own where each one ends
and how many changes it has. So the ends, in the order of that topic, are the commits of the source; a transaction is
complete when all of its changes have come, and what may be applied is the longest row of complete ones. What belongs
to no transaction (reads of a snapshot, what changes nothing) is applied as soon as all before it in its partition was.

What a connector repeats after a crash is told by order: a change whose number its transaction has had, an end that
is not later than the last one, and whatever stands before the end of the last transaction that was applied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from deltasync import progress as rule
from deltasync.change import Change, Op, Partition, Position, Record
from deltasync.debezium import envelope, keys
from deltasync.debezium.transaction import End, decode_end
from deltasync.errors import RecordError
from deltasync.intake import Cut, half_lost, is_behind
from deltasync.progress import Progress
from deltasync.table import Table, TableId

# The end of a transaction stands behind all of its changes.
_LAST = 2**63


class Read(NamedTuple):
    """A record that was read, and its partition's progress behind it.

    `transaction` is None for one that belongs to none. `moves` is that of its record. `by_rows` tells that its table
    was known to have no primary key.
    """

    partition: Partition
    offset: int
    progress: Progress
    change: Change | None = None
    transaction: str | None = None
    order: int = 0
    moves: bool = False
    bytes: int = 0
    by_rows: bool = False


class Unit(NamedTuple):
    """What is applied whole: the records of a transaction by their order, its end last; or one record of none."""

    end: End | None
    reads: list[Read]


class _Part:
    """What has come of a transaction in one partition."""

    __slots__ = ("count", "last")

    def __init__(self) -> None:
        self.count = 0
        self.last = 0


class _Queue:
    """The records of a partition that were read and not yet applied; `base` is where the ledger is."""

    def __init__(self, progress: Progress) -> None:
        self.base = progress.next_offset
        self.progress = progress
        self.reads: deque[Read] = deque()
        self.last: str | None = None
        self.cut: Cut | None = None


class Transactions:
    """What was read of a group of partitions and waits to become whole.

    `topic` is the partition of Debezium's ends. `rows_max` and `bytes_max` bound what is kept, but for the
    transaction that is next. `description` tells what is known of a table when its record is read.
    """

    def __init__(
        self,
        topic: Partition,
        rows_max: int,
        bytes_max: int,
        description: Callable[[TableId], Table | None] = lambda _table: None,
    ) -> None:
        self._description = description
        self.topic = topic
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self.clear()

    def clear(self) -> None:
        """Forget all: every partition is read again from the ledger."""
        self._queues: dict[Partition, _Queue] = {}
        self._open: dict[str, dict[Partition, _Part]] = {}
        self._ends: deque[End] = deque()
        self._rows = 0
        self._bytes = 0

    def take(self, records: Iterable[Record], at: Mapping[Partition, Progress]) -> bool:
        """Take records in, `at` being the partitions that are read and how far each was applied.

        Returns False, having taken nothing, where what it knew is not true any more: then all partitions have to
        be read again from the ledger. That is so while the topic of the ends is not read, although changes were
        applied: nobody knows then which ones come again.
        """
        if self._is_lost(at):
            self.clear()
            return False
        for partition in [p for p, queue in self._queues.items() if p not in at or at[p].next_offset != queue.base]:
            self._drop(partition)
        for partition, progress in at.items():
            if partition not in self._queues:
                self._queues[partition] = _Queue(progress)
        mark = at.get(self.topic)
        for record in records:
            queue = self._queues.get(record.partition)
            if queue is not None and queue.cut is None and record.offset >= queue.progress.next_offset:
                self._take(record, queue, mark)
        return True

    def ready(self) -> Iterator[Unit]:
        """Take out, one by one and in order, what can be applied now.

        If not all of it is applied, everything has to be forgotten (`clear`) and read again. Raises RecordError
        where a transaction stands before another one that began after it and has ended.
        """
        for partition in self._queues:
            yield from self._free(partition)
        while self._ends and self._count(self._ends[0]) == self._ends[0].changes:
            end = self._ends.popleft()
            parts = [*self._open.pop(end.transaction, {}), self.topic]
            reads = [read for partition in parts for read in self._pop(partition, end.transaction)]
            reads.sort(key=_order)
            yield Unit(end, reads)
            for partition in parts:
                yield from self._free(partition)

    def cuts(self) -> list[Cut]:
        """Where partitions cannot be read on, and all before that was applied."""
        return [queue.cut for queue in self._queues.values() if queue.cut is not None and not queue.reads]

    def obstacles(self) -> list[Cut]:
        """Where partitions cannot be read on, whatever is before that."""
        return [queue.cut for queue in self._queues.values() if queue.cut is not None]

    def ahead(self) -> set[Partition]:
        """The partitions that are to be read no further now: enough is kept, and the next transaction is not theirs."""
        if self._rows < self._rows_max and self._bytes < self._bytes_max:
            return set()
        head = self._ends[0].transaction if self._ends else None
        return {
            partition
            for partition, queue in self._queues.items()
            if partition != self.topic and queue.reads and (head is None or queue.last != head)
        }

    def next_offset(self, partition: Partition) -> int:
        """Where a partition is read on."""
        return self._queues[partition].progress.next_offset

    def missing(self) -> tuple[End, int] | None:
        """The transaction that is next, and how many of its changes have come; None where none has ended."""
        return (self._ends[0], self._count(self._ends[0])) if self._ends else None

    # Taking in

    def _is_lost(self, at: Mapping[Partition, Progress]) -> bool:
        topic = at.get(self.topic)
        if topic is None:
            return any(progress.committed_us is not None for progress in at.values())
        known = self._queues.get(self.topic)
        anew = known is None or known.base != topic.next_offset
        return anew and topic.watermark is not None and any(queue.reads for queue in self._queues.values())

    def _take(self, record: Record, queue: _Queue, mark: Progress | None) -> None:
        try:
            read = self._read(record, queue.progress, mark)
        except RecordError as error:
            queue.cut = Cut(record.partition, record.offset, error, waits=False)
            return
        queue.progress = read.progress
        queue.reads.append(read)
        self._rows += 1
        self._bytes += read.bytes
        if read.transaction is not None and record.partition != self.topic:
            queue.last = read.transaction
            part = self._open.setdefault(read.transaction, {}).setdefault(record.partition, _Part())
            part.count += 1
            part.last = read.order

    def _read(self, record: Record, progress: Progress, mark: Progress | None) -> Read:
        partition, offset = record.partition, record.offset
        if partition == self.topic:
            return self._read_boundary(record, progress)
        change = envelope.decode(record)
        table = self._description(change.table) if change is not None else None
        by_rows = table is not None and table.is_keyed_by_rows
        if change is not None and table is not None and by_rows:
            change = keys.keyed_by_rows(change, record, table)
        found = change or envelope.decode_message(record)
        size = len(record.value or b"")
        if found is None:
            return Read(partition, offset, rule.passed(progress, offset), bytes=size)
        if change is not None and change.op is Op.READ:
            if not change.incremental and _is_repeated(change.position, progress, mark):
                return Read(partition, offset, rule.skipped(progress, change), bytes=size)
            return Read(partition, offset, rule.applied(progress, change), change, bytes=size, by_rows=by_rows)
        transaction, order = found.transaction, found.order
        if transaction is None or order is None:
            raise _no_transaction(record)
        after = rule.applied(progress, change) if change is not None else rule.passed(progress, offset)
        if _is_applied(record, found.position, mark) or order <= self._last(transaction, partition):
            passed = rule.skipped(progress, change) if change is not None else after
            return Read(partition, offset, passed, bytes=size)
        return Read(partition, offset, after, change, transaction, order, record.moves, size, by_rows)

    def _read_boundary(self, record: Record, progress: Progress) -> Read:
        end = decode_end(record)
        passed = rule.passed(progress, record.offset)
        last = progress.watermark[1] if progress.watermark else 0
        if end is None:
            return Read(record.partition, record.offset, passed)
        if end.lsn <= last:
            if end.committed_ms * 1000 > (progress.committed_us or 0):
                raise _replaced(record.partition, record.offset)
            return Read(record.partition, record.offset, passed)
        committed_us = max(progress.committed_us or 0, end.committed_ms * 1000 + 999)
        after = passed._replace(watermark=(end.lsn, end.lsn), committed_us=committed_us)
        self._ends.append(end)
        return Read(record.partition, record.offset, after, transaction=end.transaction, order=_LAST)

    def _last(self, transaction: str, partition: Partition) -> int:
        part = self._open.get(transaction, {}).get(partition)
        return part.last if part is not None else 0

    # Taking out

    def _count(self, end: End) -> int:
        return sum(part.count for part in self._open.get(end.transaction, {}).values())

    def _free(self, partition: Partition) -> Iterator[Unit]:
        """The records that belong to no transaction, and before which nothing waits."""
        reads = self._queues[partition].reads
        while reads and reads[0].transaction is None:
            yield Unit(None, [self._popped(partition)])

    def _pop(self, partition: Partition, transaction: str) -> Iterator[Read]:
        """Take a transaction's records out, and those of none between them, which get the order of the one before."""
        reads = self._queues[partition].reads
        order = 0
        while reads and (reads[0].transaction == transaction or (reads[0].transaction is None and order)):
            read = self._popped(partition)
            order = read.order or order
            yield read if read.order else read._replace(order=order)
        if not order:
            raise _unended(reads[0], transaction)

    def _popped(self, partition: Partition) -> Read:
        queue = self._queues[partition]
        read = queue.reads.popleft()
        queue.base = read.progress.next_offset
        self._rows -= 1
        self._bytes -= read.bytes
        return read

    def _drop(self, partition: Partition) -> None:
        queue = self._queues.pop(partition)
        self._rows -= len(queue.reads)
        self._bytes -= sum(read.bytes for read in queue.reads)
        if partition == self.topic:
            self._ends.clear()
        for parts in self._open.values():
            parts.pop(partition, None)


def _order(read: Read) -> int:
    return read.order


def changes_of(reads: Sequence[Read]) -> list[Change | None]:
    """What the records of a unit change, one by one, in their order: a key change is told once, with its new key.

    Raises RecordError where a half of one is missing.
    """
    found = [read.change for read in reads]
    half: int | None = None
    for index, read in enumerate(reads):
        change = read.change
        if change is None:
            continue
        before = found[half] if half is not None else None
        if half is not None and before is not None and _is_one(before, change):
            found[half], found[index] = None, change._replace(old_key=before.key)
        elif before is not None and is_behind(change, before):
            raise half_lost(before)
        half = index if read.moves else None
    last = found[half] if half is not None else None
    if last is not None:
        raise half_lost(last)
    return found


def is_partly_applied(topic: Progress, others: Iterable[Progress]) -> bool:
    """True where changes were applied behind the last transaction that was applied whole: `topic` is the ends'."""
    mark = topic.watermark[1] if topic.watermark else 0
    return any(
        one.committed_us is not None and one.watermark is not None and (one.watermark[0] or 0) >= mark for one in others
    )


def _is_one(half: Change, change: Change) -> bool:
    """True for the two records of one key change."""
    return change.op is Op.CREATE and change.table == half.table and change.position == half.position


def _is_applied(record: Record, position: Position, mark: Progress | None) -> bool:
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
    raise _replaced(record.partition, record.offset)


def _is_repeated(position: Position, progress: Progress, mark: Progress | None) -> bool:
    """True for a snapshot's read in a partition whose later changes were applied."""
    if mark is None or mark.watermark is None or position.seq1 is None or progress.committed_us is None:
        return False
    return position.seq1 < mark.watermark[1]


def _no_transaction(record: Record) -> RecordError:
    return RecordError(
        f"The record at {record.partition} offset {record.offset} tells no transaction, which "
        'consistency = "transaction" needs to know.',
        remedy=(
            "Set provide.transaction.metadata = true on the connector (deltasync connectors apply does), before the "
            "pipeline begins."
        ),
    )


def _replaced(partition: Partition, offset: int) -> RecordError:
    return RecordError(
        f"The record at {partition} offset {offset} is older in the source's log than what was applied, although its "
        "transaction committed later: the source's log was replaced.",
        remedy="See whether the source was restored or failed over. The pipeline has to begin anew.",
    )


def _unended(read: Read, transaction: str) -> RecordError:
    return RecordError(
        f"The transaction {read.transaction} at {read.partition} offset {read.offset} has no end, and the transaction "
        f"{transaction} behind it has one: the connector has left something out.",
        remedy="See whether its slot or its offsets were lost. The pipeline has to begin anew.",
    )
