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
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from deltasync import keyless
from deltasync import progress as rule
from deltasync.change import Change, Op, Partition, Record
from deltasync.debezium import envelope
from deltasync.debezium.transaction import End, decode_end
from deltasync.errors import RecordError
from deltasync.progress import Progress
from deltasync.readable import Cut
from deltasync.spool import Spool, Spooled
from deltasync.table import TableId
from deltasync.whole import (
    Coming,
    Large,
    Queue,
    Read,
    Unit,
    is_applied,
    is_repeated,
    once,
    replaced,
    run,
    strays,
    unended,
    untold,
)

# The end of a transaction stands behind all of its changes.
_LAST = 2**63


class Transactions:
    """What was read of a group of partitions and waits to become whole.

    `topic` is the partition of Debezium's ends. `rows_max` and `bytes_max` bound what is kept in memory, and of the
    transaction that is next as much again; what is more of that goes to disk. So many ends are kept beside.
    `is_keyless` tells whether a table is known to have no key when its record is read.
    """

    def __init__(
        self,
        topic: Partition,
        rows_max: int,
        bytes_max: int,
        make_spool: Callable[[], Spool],
        is_keyless: Callable[[TableId], bool] = lambda _table: False,
    ) -> None:
        self._is_keyless = is_keyless
        self.topic = topic
        self._make_spool = make_spool
        self._large: Large | None = None
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._lost = False
        self.clear()

    def clear(self) -> None:
        """Forget all: every partition is read again from the ledger."""
        if self._large is not None:
            self._large.spool.close()
        self._large = None
        self._queues: dict[Partition, Queue] = {}
        self._open: dict[str, Coming] = {}
        self._ends: deque[End] = deque()
        self._young: AbstractSet[Partition] = frozenset()
        self._several: AbstractSet[Partition] = frozenset()
        self._asked_for: str | None = None
        self._asked: dict[Partition, int] = {}
        self._rows = 0
        self._bytes = 0

    def take(
        self,
        records: Iterable[Record],
        at: Mapping[Partition, Progress],
        young: AbstractSet[Partition] = frozenset(),
        several: AbstractSet[Partition] = frozenset(),
    ) -> bool:
        """Take records in, `at` being the partitions that are read and how far each was applied.

        `several` are those, read or not, of topics of several partitions; of the `young` no change was applied yet.

        Returns False, having taken nothing, where what it knew is not true any more: then all partitions have to
        be read again from the ledger. That is so while the topic of the ends is not read, although changes were
        applied: nobody knows then which ones come again.
        """
        if self._is_lost(at):
            self.clear()
            return False
        for partition in [p for p, queue in self._queues.items() if p not in at or at[p].next_offset != queue.base]:
            self._drop(partition)
        self._young, self._several = young, several
        for partition, progress in at.items():
            if partition not in self._queues:
                self._queues[partition] = Queue(progress)
        mark = at.get(self.topic)
        for record in records:
            queue = self._queues.get(record.partition)
            if queue is not None and queue.cut is None and record.offset >= queue.progress.next_offset:
                self._take(record, queue, mark)
        head = self._open.get(self._ends[0].transaction) if self._ends else None
        if head is not None and (head.rows >= self._rows_max or head.bytes >= self._bytes_max):
            self._large = self._spilled(self._ends[0], self._large or Large(self._make_spool(), {}))
        return True

    def ready(self) -> Iterator[Unit]:
        """Take out, one by one and in order, what can be applied now.

        If not all of it is applied, everything has to be forgotten (`clear`) and read again. Raises RecordError
        where a transaction stands before another one that began after it and has ended.
        """
        for partition in self._queues:
            yield from self._free(partition)
        while self._ends and self._is_whole(self._ends[0]) and not self.unread():
            end = self._ends.popleft()
            large, self._large = self._large and self._spilled(end, self._large), None
            found = self._open.pop(end.transaction, Coming())
            parts = [*found.partitions, self.topic]
            popped = [self.topic] if large else parts
            reads = [read for partition in popped for read in self._pop(partition, end.transaction)]
            reads.sort(key=_order)
            yield from self._whole(end, once(reads) if found.truncates else reads, large)
            for partition in parts:
                yield from self._free(partition)

    def unread(self) -> list[Partition]:
        """The partitions that keep the next transaction from being applied, since a snapshot's reads may be in them.

        Of those that share a topic with its changes; TRUNCATE comes behind reads of all partitions. A partition is
        read far enough with its first change, or where its log ended (`settle`) after the transaction had.
        """
        head = self._ends[0].transaction if self._ends else ""
        found = self._open.get(head)
        if found is None:
            return []
        if found.truncates and self._asked_for != head:
            self._asked, self._asked_for = {}, head
        topics = {partition.topic for partition in found.partitions}
        among = self._young | self._several if found.truncates else self._young
        return [p for p in among if p.topic in topics and not self._is_read_far_enough(p, truncates=found.truncates)]

    def _is_read_far_enough(self, partition: Partition, *, truncates: bool) -> bool:
        queue = self._queues.get(partition)
        if queue is None:
            return False
        is_behind = queue.reads or (self._large and partition in self._large.last)
        if is_behind if truncates else queue.progress.committed_us is not None:
            return True
        return partition in self._asked and queue.progress.next_offset >= self._asked[partition]

    def unasked(self) -> list[Partition]:
        """Those of `unread` of which it is not known where their logs end."""
        return [partition for partition in self.unread() if partition not in self._asked]

    def settle(self, ends: Mapping[Partition, int]) -> None:
        """Partitions need to be read no further than to these offsets, which were asked for once they kept one up."""
        self._asked.update(ends)

    def cuts(self) -> list[Cut]:
        """Where partitions cannot be read on, and all before that was applied."""
        waiting = {p for p, queue in self._queues.items() if queue.reads or (self._large and p in self._large.last)}
        return [cut for cut in self.obstacles() if cut.partition not in waiting]

    def obstacles(self) -> list[Cut]:
        """Where partitions cannot be read on, whatever is before that."""
        return [queue.cut for queue in self._queues.values() if queue.cut is not None]

    def ahead(self, held: AbstractSet[Partition]) -> set[Partition]:
        """The partitions that are to be read no further now, `held` being those that are not read already.

        Those that lag are read on, and so are all of the next transaction. What is held is so until half is gone.
        """
        found = set()
        if self._holds(0.5):
            head = self._ends[0].transaction if self._ends else None
            found = {p for p, queue in self._queues.items() if queue.reads and (head is None or queue.last != head)}
            found = found - {self.topic} if self._holds(1) else found & held - {self.topic}
        ends = self._queues.get(self.topic)
        if ends is not None and len(ends.reads) >= self._rows_max * (0.5 if self.topic in held else 1):
            found.add(self.topic)
        return found

    def next_offset(self, partition: Partition) -> int:
        """Where a partition is read on."""
        return self._queues[partition].progress.next_offset

    def missing(self) -> tuple[End, int] | None:
        """The transaction that is next, and how many of its changes have come; None where none has ended."""
        return (self._ends[0], self._count(self._ends[0])) if self._ends else None

    def _holds(self, times: float) -> bool:
        """True where so many times as much is kept as is meant to be."""
        return self._rows >= times * self._rows_max or self._bytes >= times * self._bytes_max

    # Taking in

    def _is_lost(self, at: Mapping[Partition, Progress]) -> bool:
        topic = at.get(self.topic)
        was_lost, self._lost = self._lost, False
        if topic is None:
            self._lost = any(progress.committed_us is not None for progress in at.values())
            return self._lost
        if was_lost:
            return True
        known = self._queues.get(self.topic)
        if self._large and any(p not in at or at[p].next_offset != self._queues[p].base for p in self._large.last):
            return True
        anew = known is None or known.base != topic.next_offset
        return anew and topic.watermark is not None and any(queue.reads for queue in self._queues.values())

    def _take(self, record: Record, queue: Queue, mark: Progress | None) -> None:
        try:
            read = self._read(record, queue.progress, mark)
        except RecordError as error:
            queue.cut = Cut(record.partition, record.offset, error, waits=False)
            return
        queue.progress = read.progress
        queue.reads.append(read)
        if record.partition == self.topic:
            return
        self._rows += 1
        self._bytes += read.bytes
        if read.transaction is None and read.change is not None:
            queue.last = None  # a snapshot's read comes behind the transaction before it
        if read.transaction is not None:
            queue.last = read.transaction
            if read.transaction not in self._open:
                self._open[read.transaction] = Coming()
            self._open[read.transaction].add(record.partition, read)

    def _read(self, record: Record, progress: Progress, mark: Progress | None) -> Read:
        partition, offset = record.partition, record.offset
        if partition == self.topic:
            return self._read_boundary(record, progress)
        change = envelope.decode(record)
        if change is not None and self._is_keyless(change.table):
            change = keyless.told(change, record.run())
        found = change or envelope.decode_message(record)
        size = len(record.value or b"")
        if found is None:
            return Read(partition, offset, rule.passed(progress, offset), bytes=size)
        if change is not None and change.op is Op.READ:
            if not change.incremental and is_repeated(change.position, progress, mark):
                return Read(partition, offset, rule.skipped(progress, change), bytes=size)
            change = change._replace(begins=keyless.begins(progress, change))
            return Read(partition, offset, keyless.applied(progress, change), change, bytes=size)
        transaction, order = found.transaction, found.order
        if transaction is None or order is None:
            raise untold(record)
        after = keyless.applied(progress, change) if change is not None else rule.passed(progress, offset)
        if is_applied(record, found.position, mark) or self._is_again(found, transaction, order, progress):
            passed = keyless.skipped(progress, change) if change is not None else after
            return Read(partition, offset, passed, bytes=size)
        return Read(partition, offset, after, change, transaction, order, record.moves, size)

    def _read_boundary(self, record: Record, progress: Progress) -> Read:
        end = decode_end(record)
        passed = rule.passed(progress, record.offset)
        last = progress.watermark[1] if progress.watermark else 0
        if end is None:
            return Read(record.partition, record.offset, passed)
        if end.lsn <= last:
            if end.committed_ms * 1000 > (progress.committed_us or 0):
                raise replaced(record.partition, record.offset)
            return Read(record.partition, record.offset, passed)
        committed_us = max(progress.committed_us or 0, end.committed_ms * 1000 + 999)
        after = passed._replace(watermark=(end.lsn, end.lsn), committed_us=committed_us)
        self._ends.append(end)
        return Read(record.partition, record.offset, after, transaction=end.transaction, order=_LAST)

    def _has(self, transaction: str, order: int) -> bool:
        """True for a change that has come already, and was not applied yet."""
        found = self._open.get(transaction)
        return found is not None and found.has(order)

    def _is_again(self, found: Change | envelope.Message, transaction: str, order: int, progress: Progress) -> bool:
        """True for a change that has come before. Which of two TRUNCATEs was first is not known until it is next."""
        if not isinstance(found, Change):
            return self._has(transaction, order)
        if found.run is None:
            return found.op is not Op.TRUNCATE and self._has(transaction, order)
        if keyless.is_again(progress, found):
            return True
        if self._has(transaction, order):
            raise keyless.renumbered(found)
        return False

    def _spilled(self, end: End, large: Large) -> Large:
        """Bring to disk what is in memory of a transaction, and tell how far its partitions are behind that."""
        found = self._open.get(end.transaction)
        for partition in found.partitions if found else ():
            reads = self._queues[partition].reads
            spooled = []
            is_behind = partition in large.last or (reads and reads[0].transaction is not None)
            for _ in range(run(reads, end.transaction) if is_behind else 0):
                read = self._popped(partition, is_applied=False)
                read = read if read.order else read._replace(order=large.last[partition].order)
                large.last[partition] = read
                if read.change is not None:
                    spooled.append(Spooled(read.order, read.moves, read.change))
            large.spool.append(partition, spooled)
        return large

    # Taking out

    def _count(self, end: End) -> int:
        found = self._open.get(end.transaction)
        return found.count if found else 0

    def _is_whole(self, end: End) -> bool:
        found = self._open.get(end.transaction)
        if found is not None and found.truncates and found.count == end.changes:
            self._forget_strays(end.transaction, found)
        return self._count(end) == end.changes

    def _forget_strays(self, transaction: str, found: Coming) -> None:
        """Do not count what came again and was read sooner than where it came first."""
        for partition in list(found.partitions):
            reads = self._queues[partition].reads
            for index in strays(reads, transaction):
                found.uncount([reads[index]])
                reads[index] = reads[index]._replace(change=None, transaction=None, order=0)
            is_spilled = self._large and partition in self._large.last
            if not is_spilled and all(read.transaction != transaction for read in reads):
                del found.partitions[partition]

    def _whole(self, end: End, reads: list[Read], large: Large | None) -> Iterator[Unit]:
        if large is None:
            yield Unit(end, reads)
            return
        for partition, progress in large.to.items():
            self._queues[partition].base = progress.next_offset
        try:
            yield Unit(end, reads, large)
        finally:
            large.spool.close()

    def _free(self, partition: Partition) -> Iterator[Unit]:
        """The records that belong to no transaction, and before which nothing waits."""
        reads = self._queues[partition].reads
        waits = self._large is not None and partition in self._large.last
        while reads and not waits and reads[0].transaction is None:
            yield Unit(None, [self._popped(partition)])

    def _pop(self, partition: Partition, transaction: str) -> Iterator[Read]:
        """Take a transaction's records out, and those of none between them, which get the order of the one before."""
        reads = self._queues[partition].reads
        count, order = run(reads, transaction), 0
        if not count:
            raise unended(reads[0], transaction)
        for _ in range(count):
            read = self._popped(partition)
            order = read.order or order
            yield read if read.order else read._replace(order=order)

    def _popped(self, partition: Partition, *, is_applied: bool = True) -> Read:
        queue = self._queues[partition]
        read = queue.reads.popleft()
        if is_applied:
            queue.base = read.progress.next_offset
        if partition != self.topic:
            self._rows -= 1
            self._bytes -= read.bytes
        if read.transaction in self._open:
            self._open[read.transaction].left(read)
        return read

    def _drop(self, partition: Partition) -> None:
        queue = self._queues.pop(partition)
        self._asked.pop(partition, None)
        if partition == self.topic:
            self._ends.clear()
            return
        self._rows -= len(queue.reads)
        self._bytes -= sum(read.bytes for read in queue.reads)
        for transaction, found in self._open.items():
            if partition in found.partitions:
                found.forget(partition, [read for read in queue.reads if read.transaction == transaction])


def _order(read: Read) -> int:
    return read.order
