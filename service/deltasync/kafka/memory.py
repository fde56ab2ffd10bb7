"""Kafka in memory: topics with ids, partitions with offsets, and groups. The reference for `kafka/consumer.py`.

Nothing happens by itself and nothing takes time: partitions change hands inside `poll`, first taken from
those that hold them and then given to others, as cooperative members do it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count

from deltasync.change import NEW_KEY, RUN, Log, Partition, Record, Told, ends_in_half
from deltasync.errors import UnreachableError
from deltasync.ports import Owner

Assign = Callable[
    [Sequence[Partition], Sequence["Consumer"], Mapping[Partition, "Consumer"]], dict[Partition, "Consumer"]
]


class _Topic:
    """One topic under one id; `starts[n]` is the offset of the first record of `logs[n]`."""

    def __init__(self, topic_id: str, partitions: int) -> None:
        self.id = topic_id
        self.starts = [0] * partitions
        self.logs: list[list[Record]] = [[] for _ in range(partitions)]

    def log(self, number: int) -> Log:
        start = self.starts[number]
        return Log(self.id, start, start + len(self.logs[number]), len(self.logs))


class Group:
    """Who holds which partition, and who is to hold it. Committed offsets are kept for those who ask."""

    def __init__(self) -> None:
        self.members: list[Consumer] = []
        self.holders: dict[Partition, Consumer] = {}
        self.wanted: dict[Partition, Consumer] = {}
        self.committed: dict[Partition, int] = {}


class Broker:
    """One broker. `assign` decides who is to hold what whenever a member comes or goes, or a topic does.

    While `reachable` is false, nothing is delivered and every question is an UnreachableError.
    """

    def __init__(self, assign: Assign | None = None) -> None:
        self.reachable = True
        self._assign = assign or evenly
        self._topics: dict[str, _Topic] = {}
        self._groups: dict[str, Group] = {}
        self._ids = count(1)

    def create(self, topic: str, partitions: int = 1) -> None:
        """Make a topic, with an id that no other had."""
        self._topics[topic] = _Topic(f"id-{next(self._ids)}", partitions)

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions to a topic, so that it has as many."""
        known = self._topics[topic]
        for _ in range(len(known.logs), partitions):
            known.starts.append(0)
            known.logs.append([])

    def delete(self, topic: str) -> None:
        del self._topics[topic]

    def produce(  # noqa: PLR0913 - what a record has
        self,
        partition: Partition,
        key: bytes | None,
        value: bytes | None,
        *,
        moves: bool = False,
        run: str = "",
        sent_ms: int = 0,
    ) -> int:
        """Append a record (see `Record`); returns its offset. A topic that is not there is made."""
        if partition.topic not in self._topics:
            self.create(partition.topic)
        topic = self._topics[partition.topic]
        offset = topic.log(partition.number).end_offset
        headers = [(RUN, run.encode()), *([(NEW_KEY, b"{}")] if moves else [])]
        found = Record(partition, offset, key, value, Told(headers, sent_ms))
        topic.logs[partition.number].append(found)
        return offset

    def expire(self, partition: Partition, before: int) -> None:
        """Delete the records below an offset, as retention does."""
        topic = self._topics[partition.topic]
        kept = [record for record in topic.logs[partition.number] if record.offset >= before]
        topic.starts[partition.number] = kept[0].offset if kept else topic.log(partition.number).end_offset
        topic.logs[partition.number] = kept

    def truncate(self, partition: Partition, end: int) -> None:
        """Lose the records from an offset on, as an unclean election does."""
        log = self._topics[partition.topic].logs[partition.number]
        log[:] = [record for record in log if record.offset < end]

    def log(self, partition: Partition) -> Log | None:
        """What there is of a partition; None where its topic does not exist."""
        topic = self._topics.get(partition.topic)
        return topic.log(partition.number) if topic else None

    def records(self, partition: Partition, start: int) -> list[Record]:
        """The records from an offset on, as far as they are there."""
        topic = self._topics[partition.topic]
        return topic.logs[partition.number][max(0, start - topic.starts[partition.number]) :]

    def partitions(self, prefix: str) -> list[Partition]:
        """All partitions of the topics whose names begin like this."""
        return [
            Partition(name, number)
            for name, topic in sorted(self._topics.items())
            if name.startswith(prefix)
            for number in range(len(topic.logs))
        ]

    def group(self, name: str) -> Group:
        return self._groups.setdefault(name, Group())

    def rebalance(self, group: Group, prefix: str) -> None:
        """Decide anew who is to hold what."""
        partitions = self.partitions(prefix)
        group.wanted = self._assign(partitions, group.members, group.wanted) if group.members else {}

    def expel(self, consumer: Consumer) -> None:
        """Throw a member out, as a group does with one of which nothing was heard: it learns of it in its next poll."""
        consumer.expelled()


def evenly(
    partitions: Sequence[Partition], members: Sequence[Consumer], before: Mapping[Partition, Consumer]
) -> dict[Partition, Consumer]:
    """As many partitions for each member as for the others, moving as few as possible."""
    most = -(-len(partitions) // len(members))
    held: dict[Consumer, list[Partition]] = {member: [] for member in members}
    for partition in partitions:
        if before.get(partition) in held and len(held[before[partition]]) < most:
            held[before[partition]].append(partition)
    placed = {partition: member for member, found in held.items() for partition in found}
    for partition in partitions:
        if partition not in placed:
            member = min(members, key=lambda member: len(held[member]))
            held[member].append(partition)
            placed[partition] = member
    return placed


class Consumer:
    """One member of a group (see `ports.Consumer`). `wait` is told how long nothing was there."""

    def __init__(self, broker: Broker, group: str, prefix: str, wait: Callable[[float], object] = time.sleep) -> None:
        self._broker = broker
        self._group = broker.group(group)
        self._prefix = f"{prefix}."
        self._wait = wait
        self._owner: Owner  # told by `start`
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._turn = 0

    def start(self, owner: Owner) -> None:
        self._owner = owner
        self._ask()
        self._join()

    def poll(self, *, rows_max: int, bytes_max: int, wait_s: float) -> list[Record]:
        found: list[Record] = []
        if self._broker.reachable:
            self._take_part()
            found = self._fetch(rows_max, bytes_max)
        if not found:
            self._wait(wait_s)
        return found

    def pause(self, partition: Partition) -> None:
        self._paused.add(partition)

    def reposition(self, partition: Partition, offset: int) -> None:
        if partition not in self._positions:
            raise KeyError(partition)
        self._positions[partition] = offset
        self._paused.discard(partition)

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        if self._broker.reachable and self in self._group.members:
            self._group.committed.update(next_offsets)

    def logs(self, partitions: list[Partition]) -> dict[Partition, Log]:
        self._ask()
        found = {partition: self._broker.log(partition) for partition in partitions}
        known = {partition: log for partition, log in found.items() if log is not None}
        if len(known) < len(partitions):
            raise _unreachable("it has no such topic")
        return known

    def exists(self, topic: str) -> bool:
        self._ask()
        return self._broker.log(Partition(topic, 0)) is not None

    def replaced(self, known: Mapping[str, str]) -> dict[str, str]:
        if not self._broker.reachable:
            return {}
        found = {topic: self._broker.log(Partition(topic, 0)) for topic in known}
        return {topic: log.topic_id for topic, log in found.items() if log and log.topic_id != known[topic]}

    def end_offset(self, partition: Partition) -> int | None:
        log = self._broker.log(partition)
        return log.end_offset if log else None

    def close(self) -> None:
        self._give_up(list(self._positions), lost=False)
        self.expelled()

    def expelled(self) -> None:
        """The group goes on without this member, which still believes that it holds its partitions."""
        if self in self._group.members:
            self._group.members.remove(self)
        for partition in [p for p, holder in self._group.holders.items() if holder is self]:
            del self._group.holders[partition]
        self._broker.rebalance(self._group, self._prefix)

    def _ask(self) -> None:
        if not self._broker.reachable:
            raise _unreachable("it is down")

    def _join(self) -> None:
        self._group.members.append(self)
        self._broker.rebalance(self._group, self._prefix)

    def _take_part(self) -> None:
        """Give up what others hold or are to hold, and take what is ours and free."""
        if self not in self._group.members:
            self._give_up(list(self._positions), lost=True)
            self._join()
        if set(self._group.wanted) != set(self._broker.partitions(self._prefix)):
            self._broker.rebalance(self._group, self._prefix)
        wanted, holders = self._group.wanted, self._group.holders
        self._give_up([p for p in self._positions if wanted.get(p) is not self], lost=False)
        self._take([p for p, member in wanted.items() if member is self and p not in holders])

    def _give_up(self, partitions: Sequence[Partition], *, lost: bool) -> None:
        if not partitions:
            return
        self._owner.on_revoke(partitions, lost=lost)
        for partition in partitions:
            del self._positions[partition]
            if self._group.holders.get(partition) is self:
                del self._group.holders[partition]

    def _take(self, partitions: list[Partition]) -> None:
        if not partitions:
            return
        logs = self.logs(partitions)
        offsets = self._owner.on_assign(logs)
        for partition in partitions:
            self._group.holders[partition] = self
            self._positions[partition] = offsets.get(partition, logs[partition].end_offset)
        self._paused -= offsets.keys()
        self._paused |= set(partitions) - offsets.keys()

    def _fetch(self, rows_max: int, bytes_max: int) -> list[Record]:
        """What is there of each partition, beginning with another one each time."""
        self._turn += 1
        found: list[Record] = []
        size = 0
        for partition in self._readable():
            for record in self._broker.records(partition, self._positions[partition]):
                if (len(found) >= rows_max or size >= bytes_max) and not ends_in_half(found):
                    return found
                found.append(record)
                size += len(record.value or b"")
                self._positions[partition] = record.offset + 1
        return found

    def _readable(self) -> Iterable[Partition]:
        partitions = [partition for partition in self._positions if partition not in self._paused]
        turn = self._turn % len(partitions) if partitions else 0
        for partition in partitions[turn:] + partitions[:turn]:
            log = self._broker.log(partition)
            if log is not None and log.start_offset <= self._positions[partition] <= log.end_offset:
                yield partition
            elif log is not None:
                self._owner.on_missing(partition)


def _unreachable(why: str) -> UnreachableError:
    return UnreachableError(f"The broker in memory does not answer: {why}.", remedy="Make it reachable.")
