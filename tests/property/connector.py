"""A model of Debezium: the records that it writes of the source's stream, its crashes and its resets.

Measured on Debezium 3.7.0.Final: `source.sequence` is the end of the last commit that was seen and the change's
own place; after a crash an in-order suffix comes again, byte for byte; after a reset of its offsets it begins at
a transaction's begin, and the first half of the first transaction's sequence is null.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

from tests.property.event import END, Event
from tests.property.incremental import Reads
from tests.property.source import Source
from tests.runs import run_id

from deltasync.change import Partition
from deltasync.kafka.memory import Broker
from deltasync.table import TableId

PREFIX = "p"
BEGIN = "begin"
ENDS = Partition(f"{PREFIX}.transaction", 0)


class Connector:
    """One connector. Partitions that are held lag behind the others, as a producer's batches may.

    `partitions` tells of the tables whose topics have several of them: a record's key chooses its own. The initial
    snapshot leaves out those that come `late`. With `whole`, records tell their transactions.
    """

    def __init__(  # noqa: PLR0913 - what a connector is set to
        self,
        source: Source,
        broker: Broker,
        *,
        tombstones: bool,
        partitions: Mapping[str, int],
        late: Collection[str] = (),
        whole: bool = False,
    ) -> None:
        self.reads = Reads(source, late)
        self._late = frozenset(late)
        self._source = source
        self._broker = broker
        for name, count in partitions.items():
            broker.create(f"{PREFIX}.shop.{name}", count)
        self._tombstones = tombstones
        self._whole = whole
        self._numbers = whole or any(shape.table.is_keyless for shape in source.shapes.values())
        self._restarts = 0
        self._stored = 0  # the offset from which it was restarted last: none before that is stored any more
        self._shifts: dict[int, int] = {}  # by how much the changes of a transaction are numbered too high now
        self._shifted: dict[int, int] = {}  # by how much each change was, when it was sent last
        self.sent: dict[Partition, dict[int, float]] = {}  # which change each record is, by its place in the stream
        self._next = 0  # of the stream
        self._written = 0  # as far as it ever came
        self._epoch = 0  # where the connector began without offsets: in that transaction first halves are null
        self._held: dict[Partition, list[tuple[float, Event]]] = {}
        self.lost: dict[tuple[Partition, int], int] = {}  # first halves of key changes whose second one never came
        self.began_anew = False  # null first halves came again: nothing behind them is skipped
        self.watermark_forgotten = False  # by an operator: neither is what comes again then

    def snapshot(self, aborted_after: int) -> None:
        """Read all tables; a first attempt died after so many rows."""
        lsn, now_us = self._source.position(), self._source.clock_us()
        found = [read for read in self._source.snapshot() if read[0].name not in self._late]
        reads = [
            (table, key, _value(_Change(table, "r", row, snapshot=_mark(found, place)), (None, lsn), now_us))
            for place, (table, key, row) in enumerate(found)
        ]
        for table, key, value in reads[: aborted_after % (len(reads) + 1)] + reads:
            self._broker.produce(self._partition(table, key), key, value)
        self._next = self._written = self._epoch = self._stored = len(self._source.stream)
        self.reads.restart(self._next)

    def emit(self, count: int) -> None:
        """Go on by so many changes, and to the end of those that only make sense together."""
        stream, end = self._source.stream, self._next + count
        while end < len(stream) and stream[end].together and stream[end - 1].transaction == stream[end].transaction:
            end += 1
        for event in stream[self._next : end]:
            self._write_reads()
            self._write(self._next, event)
            self._shifted[self._next] = self._shifts.get(event.transaction, 0)
            self._next += 1
        self._write_reads()
        self._written = max(self._written, self._next)

    def hold(self, partition: Partition) -> None:
        """Let a partition lag behind from now on."""
        self._held.setdefault(partition, [])

    def release(self) -> None:
        """Let what lags catch up."""
        found = [one for waiting in self._held.values() for one in waiting]
        for place, event in sorted(found, key=lambda one: one[0]):
            self._produce(place, event)
        self._held.clear()

    def crash(self, back: int) -> None:
        """Die: what was not acknowledged is lost, and an in-order suffix comes again."""
        start = max(self._stored, self._acknowledged() - back)
        if (self._is_first(start) or self.watermark_forgotten) and not self.replays(start):
            start = self._written if self.watermark_forgotten else self._behind(start)
        if self._truncates_before_change(start):
            start = self._written
        self._restart(start)

    def reset(self, back: int) -> None:
        """Lose the offsets: begin at the slot, which is at a transaction's begin."""
        waits = [index for lost, index in self.lost.items() if self._is_last(*lost)]
        start = self._begin(max(self._epoch, min([self._acknowledged() - back, *waits])))
        if waits and not self.replays(start):
            return  # two faults at once: nothing would tell that the half is lost
        while not self.replays(start):
            start = self._behind(start)
        self._restart(start)
        self._epoch = start
        self.began_anew = True

    def lose_half(self) -> None:
        """Go on to a key change, send its first half, and be restarted: its second one never comes (measured).

        Only where it was not sent before, and where one partition is to have both.
        """
        stream = self._source.stream
        first = next((i for i in range(self._written, len(stream) - 1) if self._may_lose(stream[i])), None)
        if first is None or self._next > first:
            return
        self.release()
        self.emit(first + 1 - self._next)
        partition = self._partition(stream[first].table, stream[first].key)
        log = self._broker.log(partition)
        offset = log.end_offset - 1 - self._tombstones if log else 0
        self.lost[partition, offset] = first
        self._shifted[first + 1] = self._shifted[first]
        self._restarts += 1
        self._next = self._written = first + 2
        self.reads.restart(self._next)

    def _may_lose(self, event: Event) -> bool:
        log = self._broker.log(self._partition(event.table, event.key))
        shape = self._source.shapes.get(event.table.name)
        may_mend = shape is not None and not shape.unique and not shape.table.is_keyless
        return event.moves and may_mend and (log is None or log.partitions == 1)

    def _is_last(self, partition: Partition, offset: int) -> bool:
        log = self._broker.log(partition)
        return log is not None and log.end_offset == offset + 1 + self._tombstones

    def is_between(self) -> bool:
        """True where all that was written are whole transactions."""
        stream, at = self._source.stream, self._next
        return (
            not self._held
            and at == self._written
            and (at in (0, len(stream)) or stream[at - 1].transaction != stream[at].transaction)
        )

    def noise(self, number: int) -> None:
        """Records of Debezium's that change no row."""
        values = (b'{"ts_ms":1}', b'{"status":"BEGIN","id":"7:8","ts_ms":1}', None)[self._whole :]
        self._broker.produce(ENDS, b"{}", values[number % len(values)])
        message = '{"op":"m","source":{"connector":"postgresql","schema":"","table":""}}'
        self._broker.produce(Partition(f"{PREFIX}.message", 0), b"{}", message.encode())

    def has_sent(self, count: int) -> bool:
        """True where Kafka has so many of the stream's changes."""
        return self._acknowledged() >= count

    def _acknowledged(self) -> int:
        return int(min([self._next, *(found[0] for waiting in self._held.values() for found in waiting)]))

    def _write_reads(self) -> None:
        """What is left of the windows that close here, in front of the next change."""
        for event in self.reads.due(self._next):
            self._write(self._next - 0.5, event)

    def _write(self, place: float, event: Event) -> None:
        begins = self._begin(self._next) == self._next == place and event.transaction not in self._shifts
        if self._whole and begins and event.op != BEGIN:
            self._write(place, event._replace(op=BEGIN))
        partition = ENDS if event.op in {BEGIN, END} else self._partition(event.table, event.key, event.lsn)
        if partition in self._held:
            self._held[partition].append((place, event))
        else:
            self._produce(place, event)

    def _restart(self, start: int) -> None:
        """Go on from here; where something behind it was not acknowledged yet, the crash came a moment later."""
        if start > self._acknowledged():
            self.release()
            self.emit(max(0, start - self._next))
        for lost in [lost for lost, index in self.lost.items() if start <= index + 1 and self._is_last(*lost)]:
            del self.lost[lost]  # the second one comes, and nothing has come behind the first
        self._restarts += 1
        self._stored = start
        start = self._counted(start)
        self.began_anew |= self._is_first(start)
        self._next = start
        self._held.clear()
        self.reads.restart(start)

    def _counted(self, start: int) -> int:
        """Where it goes on: with the number that it had reached, but not always behind the change that had it.

        Measured: where it had come no further than to the first place of a transaction, it may send the last change
        again under the next number.
        """
        before, stream = start - 1, self._source.stream
        self._shifts = {}
        if before < self._epoch or before not in self._shifted:
            return start
        event = stream[before]
        self._shifts[event.transaction] = self._shifted[before]
        if self._restarts % 2 or not self._may_repeat(before):
            return start
        self._shifts[event.transaction] += 1
        return before

    def _may_repeat(self, index: int) -> bool:
        """True for a change that may be sent again under the next number."""
        event, stream = self._source.stream[index], self._source.stream
        was_never_sent = index - 1 in self.lost.values()
        if not self._numbers or event.op == END or was_never_sent:
            return False
        is_known = not self._whole and (self._is_first(index) or self.watermark_forgotten)
        is_first_place = event.lsn == stream[self._begin(index)].lsn
        return is_first_place and (self._source.is_keyless(event.table.name) or not is_known)

    def _number(self, event: Event) -> int:
        return event.order + self._shifts.get(event.transaction, 0)

    def replays(self, start: int) -> bool:
        """True where what follows may be applied a second time.

        Known (known.jsonl): behind null first halves all is applied again. An update that lacks values may not find
        its row then, a row that takes a new key without its large values takes those of another row, and a unique
        value that a row had may be another's by now. A table without a key stops, and rows from before a change of
        their table are taken for ones from behind it.
        """
        again = self._source.stream[start : self._written]
        taken = {(event.table, value, event.key) for event in again for value in event.takes}
        if len({one[:2] for one in taken}) < len(taken):
            return False
        return not any(
            self._source.is_keyless(event.table.name)
            or event.lsn in self._source.altered
            or (
                event.lacks and (event.op == "c" or any(e.table == event.table and e.op in "dt" for e in again[index:]))
            )
            for index, event in enumerate(again)
        )

    def _truncates_before_change(self, start: int) -> bool:
        """True where TRUNCATE, which is never skipped, would take a table back to before a change of it (known)."""
        again = self._source.stream[start : self._written]
        truncated: set[str] = set()
        for event in again:
            if event.op == "t":
                truncated.add(event.table.name)
            if self._source.altered.get(event.lsn) in truncated:
                return True
        return False

    def _is_first(self, index: int) -> bool:
        """True where a change that was written once has a null first half."""
        stream = self._source.stream
        return index < self._written and stream[index].transaction == stream[self._epoch].transaction

    def _begin(self, index: int) -> int:
        """The first change of the transaction of this one."""
        stream = self._source.stream
        while 0 < index < len(stream) and stream[index - 1].transaction == stream[index].transaction:
            index -= 1
        return max(index, self._epoch)

    def _behind(self, index: int) -> int:
        """The first change behind the transaction of this one."""
        stream = self._source.stream
        first = stream[index].transaction
        while index < len(stream) and stream[index].transaction == first:
            index += 1
        return index

    def _produce(self, place: float, event: Event) -> None:
        if event.op == BEGIN:
            self._broker.produce(ENDS, b"{}", _begin(event), sent_ms=self._restarts)
            return
        if event.op == END:
            self._broker.produce(ENDS, b"{}", _end(event, self._number(event) - 1), sent_ms=self._restarts)
            return
        stream, is_read = self._source.stream, event.op == "r"
        first = self._epoch < len(stream) and event.transaction == stream[self._epoch].transaction
        if is_read:  # its transaction was seen to the end
            first = event.transaction < 0 or (
                self._epoch > 0 and event.transaction <= stream[self._epoch - 1].transaction
            )
        seq0 = None if first else self._source.commits[event.transaction - (0 if is_read else 1)]
        change = _Change(
            event.table,
            event.op,
            event.after,
            event.before,
            event.transaction,
            self._number(event) if self._numbers and not is_read else 0,
            "incremental" if is_read else "false",
            event.number,
        )
        value = _value(change, (seq0, event.lsn), event.committed_us)
        partition = self._partition(event.table, event.key, event.lsn)
        offset = self._broker.produce(partition, event.key, value, moves=event.moves, run=run_id(self._restarts))
        self.sent.setdefault(partition, {})[offset] = place
        if event.op == "d" and self._tombstones:
            self._broker.produce(partition, event.key, None)

    def _partition(self, table: TableId, key: bytes | None, lsn: int = 0) -> Partition:
        """Where a record goes: by its key, and anywhere without one, when it comes again too."""
        topic = f"{PREFIX}.{table}"
        log = self._broker.log(Partition(topic, 0))
        place = lsn // 8 + self._restarts if key is None else crc32(key)
        return Partition(topic, place % log.partitions if log else 0)


def _begin(event: Event) -> bytes:
    return f'{{"status":"BEGIN","id":"{700 + event.transaction}:{event.lsn}","ts_ms":1}}'.encode()


def _end(event: Event, count: int) -> bytes:
    return (
        f'{{"status":"END","id":"{700 + event.transaction}:{event.lsn}","event_count":{count},'
        f'"data_collections":[],"ts_ms":{event.committed_us // 1000}}}'
    ).encode()


class _Change(NamedTuple):
    table: TableId
    op: str
    after: str | None
    before: str | None = None
    transaction: int = 0
    order: int = 0
    snapshot: str = "false"
    number: int = 0


def _mark(reads: Sequence[tuple[TableId, bytes | None, str]], place: int) -> str:
    """Where a read stands in its snapshot, as Debezium marks it."""
    table = reads[place][0]
    is_last = place + 1 == len(reads) or reads[place + 1][0] != table
    is_first = place == 0 or reads[place - 1][0] != table
    if is_last:
        return "last" if place + 1 == len(reads) else "first" if place == 0 else "last_in_data_collection"
    if is_first:
        return "first" if place == 0 else "first_in_data_collection"
    return "true"


def _value(change: _Change, sequence: tuple[int | None, int], committed_us: int) -> bytes:
    seq0 = "null" if sequence[0] is None else f'\\"{sequence[0]}\\"'
    transaction = (
        f'{{"id":"{700 + change.transaction}:{sequence[1]}","total_order":{change.order},"data_collection_order":1}}'
    )
    return (
        f'{{"before":{change.before or "null"},"after":{change.after or "null"},"source":{{"version":"3.7.0.Final",'
        f'"connector":"postgresql","name":"{PREFIX}","ts_ms":{committed_us // 1000},"snapshot":"{change.snapshot}",'
        f'"db":"d","sequence":"[{seq0},\\"{sequence[1]}\\"]","ts_us":{committed_us},"schema":"{change.table.schema}",'
        f'"table":"{change.table.name}","txId":{change.number},"lsn":{sequence[1]}}},'
        f'"transaction":{transaction if change.order else "null"},"op":"{change.op}","ts_ms":1}}'
    ).encode()
