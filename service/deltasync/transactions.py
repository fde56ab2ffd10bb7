"""Puts the source's transactions together again from the partitions over which Debezium spreads them: pure.

Debezium numbers the changes of a transaction across all tables, and tells on a topic of its own where each one ends
and how many changes it has. So the ends, in the order of that topic, are the commits of the source; a transaction is
complete when all of its changes have come, and what may be applied is the longest row of complete ones. What belongs
to no transaction (reads of a snapshot, what changes nothing) is applied as soon as all before it in its partition was.

What a connector repeats after a crash is told by its place in the log: a change that stands before the last one of its
transaction in its partition, or is it, and whatever stands before the end of the last transaction that was applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from deltasync import keyless
from deltasync import progress as rule
from deltasync.change import Change, Op, Partition, Record
from deltasync.coming import Coming, began_ms
from deltasync.debezium import envelope
from deltasync.debezium.schema_log import CONTROL_TABLES
from deltasync.debezium.transaction import End
from deltasync.ends import Ends
from deltasync.errors import RecordError
from deltasync.progress import Progress
from deltasync.readable import Cut
from deltasync.spool import Place, Spool
from deltasync.table import TableId
from deltasync.whole import (
    Large,
    Queue,
    Read,
    Unit,
    behind,
    is_applied,
    is_repeated,
    level,
    place_of,
    put_on_disk,
    run,
    strays,
    unended,
    untold,
)


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
        self._ends = Ends()
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
        head = self._open.get(self._ends.transaction)
        if head is not None and (head.rows >= self._rows_max or head.bytes >= self._bytes_max):
            self._large = self._spilled(self._ends.transaction, self._large or Large(self._make_spool(), {}))
        return True

    def ready(self) -> Iterator[Unit]:
        """Take out, one by one and in order, what can be applied now.

        If not all of it is applied, everything has to be forgotten (`clear`) and read again. Raises RecordError
        where a transaction stands before another one that began after it and has ended.
        """
        for partition in self._queues:
            yield from self._free(partition)
        while self._is_whole() and not self.unread():
            end = self._ends.pop()
            large, self._large = self._large and self._spilled(end.transaction, self._large), None
            found = self._open.pop(end.transaction, Coming())
            astray = self._astray(end.transaction, found) if found.truncates else []
            parts = [*found.partitions, self.topic]
            popped = [self.topic] if large else parts
            reads = [read for partition in popped for read in self._pop(partition, end.transaction)]
            if large:
                put_on_disk(large.spool, astray)
            else:
                reads += [read._replace(partition=self.topic, progress=reads[-1].progress) for read in astray]
            reads.sort(key=place_of)
            yield from self._whole(end, level(reads) if found.truncates else reads, large)
            for partition in parts:
                yield from self._free(partition)

    def unread(self) -> list[Partition]:
        """The partitions that keep the next transaction from being applied, since a snapshot's reads may be in them.

        Of those that share a topic with its changes; TRUNCATE comes behind reads of all partitions. A partition is
        read far enough with its first change, or where its log ended (`settle`) after the transaction had.
        """
        head = self._ends.transaction
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

        Those that lag are read on, and so are all of the next transaction: where a connector began anew within it, what
        it repeats stands behind later ones, and so does its end. What is held is so until half is gone.
        """
        found = set()
        if self._holds(0.5):
            found = {p for p, queue in self._queues.items() if queue.reads and p != self.topic}
            found = found if self._holds(1) else found & held
        ends = self._queues.get(self.topic)
        if ends is not None and len(ends.reads) >= self._rows_max * (0.5 if self.topic in held else 1):
            found.add(self.topic)
        return found - self._needed() if found else found

    def _needed(self) -> set[Partition]:
        """The partitions that the next transaction may still have something in."""
        head = self._ends.transaction
        coming = self._open.get(head)
        repeated = {*coming.partitions, self.topic} if coming is not None and coming.is_repeated else set()
        return repeated | {p for p, queue in self._queues.items() if queue.last == head}

    def next_offset(self, partition: Partition) -> int:
        """Where a partition is read on."""
        return self._queues[partition].progress.next_offset

    def missing(self) -> tuple[int, End] | None:
        """A change of the next transaction that has not come, as `Ends.missing` tells it."""
        return self._ends.missing(self._open.get(self._ends.transaction))

    def _holds(self, times: float) -> bool:
        """True where so many times as much is kept as is meant to be."""
        return self._rows >= times * self._rows_max or self._bytes >= times * self._bytes_max

    # Taking in

    def _is_lost(self, at: Mapping[Partition, Progress]) -> bool:
        topic = at.get(self.topic)
        was_lost, self._lost = self._lost, False
        if self._large and any(p not in at or at[p].next_offset != self._queues[p].base for p in self._large.last):
            return True
        if topic is None:
            self._lost = any(progress.committed_us is not None for progress in at.values())
            return self._lost
        if was_lost:
            return True
        known = self._queues.get(self.topic)
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
            truncates = read.change is not None and read.change.op is Op.TRUNCATE
            self._open[read.transaction].hold(record.partition, read.bytes, truncates=truncates)

    def _read(self, record: Record, progress: Progress, mark: Progress | None) -> Read:
        partition, offset = record.partition, record.offset
        if partition == self.topic:
            return self._ends.read(record, progress)
        change = envelope.decode(record)
        if change is not None and self._is_keyless(change.table):
            change = keyless.told(change, record.run())
        size = len(record.value or b"")
        if change is None:
            return Read(partition, offset, rule.passed(progress, offset), bytes=size)
        if change.op is Op.READ:
            if not change.incremental and is_repeated(change.position, progress, mark):
                return Read(partition, offset, rule.skipped(progress, change), bytes=size)
            change = change._replace(begins=self._begins(change, progress))
            return Read(partition, offset, keyless.applied(progress, change), change, bytes=size)
        if is_applied(record, change.position, mark):
            return Read(partition, offset, _after(progress, change, is_new=False), bytes=size)
        transaction, place, is_new = self._placed(record, change, progress)
        after = _after(progress, change, is_new=is_new)
        if not is_new:
            return Read(partition, offset, after, bytes=size)
        return Read(partition, offset, after, change, transaction, place, size)

    def _begins(self, change: Change, progress: Progress) -> bool:
        """True for the first read of a snapshot that its table is emptied for."""
        if change.run is not None:
            return keyless.begins(progress, change)
        is_alone = change.partition not in self._several and change.table not in CONTROL_TABLES
        return is_alone and rule.begins_again(progress, change)

    def _placed(self, record: Record, change: Change, progress: Progress) -> tuple[str, Place, bool]:
        """A change's transaction, where it stands in that, and whether it is new. Its number has come, at any rate."""
        transaction, number, lsn, run = change.transaction, change.order, change.position.seq1, record.run()
        if transaction is None or number is None or lsn is None or began_ms(run) is None:
            raise untold(record)
        coming = self._open.get(transaction) or Coming()
        is_new = self._is_new(coming, record.partition, change, progress)
        coming.count(record.partition, run, number)
        self._open[transaction] = coming
        return transaction, Place(lsn, not record.moves, number), is_new

    def _is_new(self, coming: Coming, partition: Partition, change: Change, progress: Progress) -> bool:
        """True for a change that has not come yet.

        A TRUNCATE has no key and may come again in any partition: all of them are kept, and do together what one does.
        """
        if change.run is not None:
            return not keyless.is_again(progress, change)
        if change.op is Op.TRUNCATE and partition in self._several:
            return True
        return coming.is_new(partition, change.position.seq1 or 0, (change.op, change.key, change.table))

    def _spilled(self, transaction: str, large: Large) -> Large:
        """Bring to disk what is in memory of a transaction, and tell how far its partitions are behind that."""
        found = self._open.get(transaction)
        for partition in found.partitions if found else ():
            reads = self._queues[partition].reads
            spilled = []
            is_behind = partition in large.last or (reads and reads[0].transaction is not None)
            for _ in range(run(reads, transaction) if is_behind else 0):
                read = self._popped(partition, is_applied=False)
                last = large.last.get(partition)
                spilled.append(behind(read, last and last.place))
                large.last[partition] = spilled[-1]
            put_on_disk(large.spool, spilled)
        return large

    # Taking out

    def _is_whole(self) -> bool:
        missing = self.missing()
        return missing is not None and missing[0] == 0

    def _astray(self, transaction: str, found: Coming) -> list[Read]:
        """Take a transaction's TRUNCATEs that came again behind a later one's records out of their places."""
        gathered = []
        for partition in list(found.partitions):
            reads = self._queues[partition].reads
            for index in strays(reads, transaction):
                gathered.append(reads[index])
                reads[index] = reads[index]._replace(change=None, transaction=None, place=None)
            is_spilled = self._large and partition in self._large.last
            if not is_spilled and all(read.transaction != transaction for read in reads):
                del found.partitions[partition]
        return gathered

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
        """Take a transaction's records out, and those of none between them, which stand behind the one before."""
        reads = self._queues[partition].reads
        count, place = run(reads, transaction), None
        if not count:
            raise unended(reads[0], transaction)
        for _ in range(count):
            read = behind(self._popped(partition), place)
            place = read.place
            yield read

    def _popped(self, partition: Partition, *, is_applied: bool = True) -> Read:
        queue = self._queues[partition]
        read = queue.reads.popleft()
        if is_applied:
            queue.base = read.progress.next_offset
        if partition != self.topic:
            self._rows -= 1
            self._bytes -= read.bytes
        if read.transaction in self._open:
            self._open[read.transaction].left(partition, read.bytes)
        return read

    def _drop(self, partition: Partition) -> None:
        queue = self._queues.pop(partition)
        self._asked.pop(partition, None)
        if partition == self.topic:
            self._ends.clear()
            return
        self._rows -= len(queue.reads)
        self._bytes -= sum(read.bytes for read in queue.reads)
        for found in self._open.values():
            found.forget(partition)


def _after(progress: Progress, change: Change, *, is_new: bool) -> Progress:
    """A partition's progress behind a transaction's change, whether it is new or came again."""
    return keyless.applied(progress, change) if is_new else keyless.skipped(progress, change)
