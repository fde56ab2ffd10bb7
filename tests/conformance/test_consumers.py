"""What every consumer promises (`ports.Consumer`): the one in memory and Kafka's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # the package's own stubs
from tests.flow import until

from deltasync.change import Log, Partition, Record
from deltasync.errors import UnreachableError
from deltasync.kafka import consumer as kafka
from deltasync.kafka import memory
from deltasync.ports import Consumer
from deltasync.settings import Settings

_PAIR: list[tuple[str, str | bytes | None]] = [("__debezium.newkey", b"{}")]


class Bench(Protocol):
    """A broker whose topics are named by tables, and members of one group."""

    def partition(self, table: str, number: int = 0) -> Partition: ...
    def make(self, table: str, partitions: int = 1) -> None: ...
    def delete(self, table: str) -> None: ...
    def put(self, partition: Partition, *values: bytes | None, moves: bool = False, run: str = "") -> None: ...
    def cut(self, partition: Partition, before: int) -> None: ...
    def consumer(self) -> Consumer: ...


class MemoryBench:
    """See `Bench`."""

    def __init__(self) -> None:
        self.broker = memory.Broker()

    def partition(self, table: str, number: int = 0) -> Partition:
        return Partition(f"p.shop.{table}", number)

    def make(self, table: str, partitions: int = 1) -> None:
        self.broker.create(self.partition(table).topic, partitions)

    def delete(self, table: str) -> None:
        self.broker.delete(self.partition(table).topic)

    def put(self, partition: Partition, *values: bytes | None, moves: bool = False, run: str = "") -> None:
        for value in values:
            self.broker.produce(partition, b"{}", value, moves=moves, run=run)

    def cut(self, partition: Partition, before: int) -> None:
        self.broker.expire(partition, before)

    def consumer(self) -> Consumer:
        return memory.Consumer(self.broker, "p", "p", wait=lambda _seconds: None)


class KafkaBench:
    """See `Bench`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: dict[str, str | int | float | bool] = {"bootstrap.servers": settings.kafka.bootstrap or ""}
        self._admin = AdminClient(self._client)
        self._producer = Producer(self._client)

    def partition(self, table: str, number: int = 0) -> Partition:
        return Partition(f"{self._settings.topic_prefix}.shop.{table}", number)

    def make(self, table: str, partitions: int = 1) -> None:
        new = NewTopic(self.partition(table).topic, num_partitions=partitions, replication_factor=1)

        def made() -> bool:
            try:
                self._admin.create_topics([new])[new.topic].result(10)
            except KafkaException:  # it is being deleted still
                return False
            return True

        until(made, f"{table}'s topic made")

    def delete(self, table: str) -> None:
        topic = self.partition(table).topic
        self._admin.delete_topics([topic])[topic].result(10)

    def put(self, partition: Partition, *values: bytes | None, moves: bool = False, run: str = "") -> None:
        headers = [*(_PAIR if moves else []), *([("__debezium.context.runId", run.encode())] if run else [])]
        for value in values:
            self._producer.produce(partition.topic, value, b"{}", partition.number, headers=headers)
        assert self._producer.flush(10) == 0

    def cut(self, partition: Partition, before: int) -> None:
        where = TopicPartition(*partition, before)
        self._admin.delete_records([where])[where].result(10)

    def consumer(self) -> Consumer:
        return kafka.Consumer(self._settings)


class Member:
    """A consumer and what it told its owner; reads where `at` says."""

    def __init__(self, consumer: Consumer, at: Callable[[Partition], int | None] = lambda _partition: 0) -> None:
        self.consumer = consumer
        self.logs: dict[Partition, Log] = {}
        self.revoked: list[Partition] = []
        self.missing: set[Partition] = set()
        self.records: list[Record] = []
        self._at = at
        consumer.start(self)

    def on_assign(self, partitions: Mapping[Partition, Log]) -> Mapping[Partition, int]:
        self.logs.update(partitions)
        return {partition: offset for partition in partitions if (offset := self._at(partition)) is not None}

    def on_revoke(self, partitions: Iterable[Partition], *, lost: bool) -> None:
        assert not lost
        for partition in partitions:
            del self.logs[partition]
            self.revoked.append(partition)

    def on_damaged(self, partition: Partition) -> None:
        raise AssertionError(partition)

    def on_missing(self, partition: Partition) -> None:
        self.missing.add(partition)
        self.consumer.pause(partition)

    def poll(self, rows_max: int = 100) -> list[Record]:
        found = self.consumer.poll(rows_max=rows_max, bytes_max=1 << 20, wait_s=0.05)
        self.records += found
        return found

    def reads(self, count: int) -> list[tuple[int, bytes | None]]:
        """Poll until so many records are there."""
        until(lambda: self.poll() is not None and len(self.records) >= count, f"{count} records", 20)
        return [(record.offset, record.value) for record in self.records]

    def is_given(self, count: int) -> None:
        """Poll until so many partitions are ours."""
        until(lambda: self.poll() is not None and len(self.logs) == count, f"{count} partitions", 20)


@pytest.fixture(params=["memory", "real"])
def bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "memory":
        return MemoryBench()
    return KafkaBench(request.getfixturevalue("pipeline").settings)


@pytest.fixture
def join(bench: Bench) -> Iterator[Callable[..., Member]]:
    """Makes members of the group, which leave it after the test."""
    members: list[Member] = []

    def make(at: Callable[[Partition], int | None] = lambda _partition: 0) -> Member:
        members.append(Member(bench.consumer(), at))
        return members[-1]

    yield make
    for member in members:
        member.consumer.close()


def test_records_come_from_where_the_owner_says(bench: Bench, join: Callable[..., Member]) -> None:
    """In order, with their offsets; a partition that it leaves out waits until it is repositioned."""
    bench.make("t")
    bench.make("u", partitions=2)
    t, u = bench.partition("t"), bench.partition("u", 1)
    bench.put(t, b"0", b"1", None)
    bench.put(u, b"u0", b"u1")
    member = join(lambda partition: 1 if partition == t else None)
    assert member.reads(2) == [(1, b"1"), (2, None)]
    assert {partition: log[1:] for partition, log in member.logs.items()} == {
        t: (0, 3, 1),
        bench.partition("u"): (0, 0, 2),
        u: (0, 2, 2),
    }
    member.consumer.reposition(u, 1)
    assert member.reads(3)[2:] == [(1, b"u1")]
    member.consumer.pause(u)
    bench.put(u, b"u2")
    bench.put(t, b"3")
    assert member.reads(4)[3:] == [(3, b"3")]
    member.consumer.reposition(u, 0)

    assert member.reads(7)[4:] == [(0, b"u0"), (1, b"u1"), (2, b"u2")]
    assert member.consumer.end_offset(t) == 4


def test_batches_are_bounded(bench: Bench, join: Callable[..., Member]) -> None:
    """By rows, but not between the halves of a key change, tombstone or not."""
    bench.make("t")
    t = bench.partition("t")
    member = join()
    member.is_given(1)
    bench.put(t, b"a", b"b")
    bench.put(t, b'{"op":"d"}', moves=True, run="019f")
    bench.put(t, None, b'{"op":"c"}')
    bench.put(t, b"z")
    sizes: list[int] = []

    def all_came() -> bool:
        sizes.append(len(member.poll(rows_max=1)))
        return sum(sizes) >= 6

    until(all_came, "six records", 20)

    assert [size for size in sizes if size] == [1, 1, 3, 1]
    assert [record.moves for record in member.records] == [False, False, True, False, False, False]
    assert [record.run() for record in member.records] == ["", "", "019f", "", "", ""]


def test_an_offset_that_the_log_does_not_hold(bench: Bench, join: Callable[..., Member]) -> None:
    """Before its begin, or behind its end, is told; other partitions go on."""
    for table in ("t", "u", "v"):
        bench.make(table)
        bench.put(bench.partition(table), b"0", b"1", b"2")
    bench.cut(bench.partition("t"), 2)
    member = join(lambda partition: {"t": 1, "u": 9}.get(partition.topic.rpartition(".")[2], 0))
    assert [value for _, value in member.reads(3)] == [b"0", b"1", b"2"]
    until(lambda: member.poll() is not None and len(member.missing) == 2, "both told", 20)

    assert member.missing == {bench.partition("t"), bench.partition("u")}
    assert member.logs[bench.partition("t")].start_offset == 2


def test_a_group_shares_its_partitions(bench: Bench, join: Callable[..., Member]) -> None:
    """Who comes is given some, who leaves gives all back; each is told of it, and what was not read is read."""
    bench.make("t", partitions=4)
    first = join()
    first.is_given(4)
    second = join()
    until(lambda: (first.poll(), second.poll()) and len(first.logs) == len(second.logs) == 2, "two partitions each", 20)
    assert set(first.revoked) == set(second.logs)
    assert first.logs.keys() | second.logs.keys() == {bench.partition("t", number) for number in range(4)}
    second.consumer.close()
    assert len(second.revoked) == 2
    first.is_given(4)
    for number in range(4):
        bench.put(bench.partition("t", number), b"x")

    assert len(first.reads(4)) == 4


def test_a_topic_that_was_made_again(bench: Bench, join: Callable[..., Member]) -> None:
    """Its id is another one; so long as it is the same, nothing is told."""
    bench.make("t")
    t = bench.partition("t")
    member = join()
    member.is_given(1)
    known = {t.topic: member.logs[t].topic_id}
    assert member.consumer.replaced(known) == {}
    bench.delete("t")
    bench.make("t")
    until(lambda: member.consumer.replaced(known), "the new id", 20)

    assert member.consumer.replaced(known).keys() == {t.topic}
    assert member.consumer.replaced(member.consumer.replaced(known)) == {}


def test_commits_do_no_harm(bench: Bench, join: Callable[..., Member]) -> None:
    """They decide nothing: a member that comes later reads where its owner says."""
    bench.make("t")
    t = bench.partition("t")
    bench.put(t, b"0", b"1")
    first = join()
    first.reads(2)
    first.consumer.commit({t: 1})
    first.poll()
    first.consumer.close()

    assert join().reads(2) == [(0, b"0"), (1, b"1")]


def test_a_broker_in_memory_can_be_down() -> None:
    """Nothing comes, and questions have no answer; then all goes on (of the real one: tests/acceptance)."""
    bench = MemoryBench()
    bench.put(bench.partition("t"), b"0")
    member = Member(bench.consumer())
    bench.broker.reachable = False
    assert member.poll() == []
    with pytest.raises(UnreachableError):
        member.consumer.logs([bench.partition("t")])
    bench.broker.reachable = True

    assert member.poll()


def test_a_member_that_was_expelled_learns_late() -> None:
    """It believes that it holds its partitions until its next poll, which takes them (of the real one: acceptance)."""
    bench = MemoryBench()
    t = bench.partition("t")
    bench.put(t, b"0")
    frozen = Member(bench.consumer())
    frozen.poll()
    bench.broker.expel(frozen.consumer)  # type: ignore[arg-type]  # it is the one in memory
    other = Member(bench.consumer())
    assert other.poll()
    assert t in frozen.logs
    with pytest.raises(AssertionError):
        frozen.poll()  # its `on_revoke` refuses what is lost
