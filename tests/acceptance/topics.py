"""What tests do to topics behind Debezium's back: make, read, fill, cut and delete them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package's own stubs
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    PartitionMetadata,
    ResourceType,
)
from tests.flow import Flow, until

from deltasync.change import Position

# As a record of a snapshot has it, or the first one of a slot.
NOWHERE = Position(None, None, 0)
Headers = list[tuple[str, str | bytes | None]]


class Found(NamedTuple):
    """A record as it lies in its topic."""

    key: bytes | None
    value: bytes | None
    partition: int
    headers: Headers


class Topics:
    """The topics of one pipeline, named by their tables: `shop.item`."""

    def __init__(self, flow: Flow) -> None:
        self._prefix = flow.settings.topic_prefix
        self._client: dict[str, str | int | float | bool] = {"bootstrap.servers": flow.settings.kafka.bootstrap or ""}
        self.admin = AdminClient(self._client)
        self._producer = Producer({**self._client, "compression.type": "lz4", "queue.buffering.max.messages": 200_000})

    def name(self, table: str) -> str:
        return f"{self._prefix}.{table}"

    def make(self, table: str, partitions: int = 1, replicas: Sequence[int] = ()) -> None:
        """Create a table's topic, each partition on these brokers; one that is being deleted is waited for."""
        where = {"replica_assignment": [list(replicas)] * partitions} if replicas else {"replication_factor": 1}
        new = NewTopic(self.name(table), num_partitions=partitions, **where)
        until(lambda: _done(self.admin.create_topics([new])[new.topic]), f"{table}'s topic made")

    def delete(self, table: str) -> None:
        name = self.name(table)
        self.admin.delete_topics([name])[name].result(10)

    def leader(self, table: str) -> int:
        """The broker that leads its first partition."""
        return int(self._first(table).leader)

    def in_sync(self, table: str) -> list[int]:
        """The brokers that have all of its first partition."""
        return list(self._first(table).isrs)

    def _first(self, table: str) -> PartitionMetadata:
        return self.admin.list_topics(self.name(table), timeout=10).topics[self.name(table)].partitions[0]

    def configure(self, table: str, settings: Mapping[str, str]) -> None:
        """Set what is set of a table's topic."""
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in settings.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, self.name(table), incremental_configs=entries)
        self.admin.incremental_alter_configs([resource])[resource].result(10)

    def id(self, table: str) -> str:
        name = self.name(table)
        return str(self.admin.describe_topics(TopicCollection([name]))[name].result(10).topic_id)

    def cut(self, table: str, offset: int) -> None:
        """Delete what lies before an offset, as retention does."""
        where = TopicPartition(self.name(table), 0, offset)
        self.admin.delete_records([where])[where].result(10)

    def put(self, table: str, records: Iterable[Found]) -> None:
        """Produce records, each to its partition, and wait until the broker has them."""
        for record in records:
            while True:
                try:
                    self._producer.produce(
                        self.name(table), record.value, record.key, record.partition, headers=record.headers
                    )
                    break
                except BufferError:
                    self._producer.poll(0.5)
        assert self._producer.flush(60) == 0

    def read(self, table: str) -> list[Found]:
        """All records of a table's topic, in order within each partition."""
        return list(self._read(table))

    def ends(self, table: str) -> dict[int, int]:
        """The end offset of each partition."""
        reader = Consumer({**self._client, "group.id": "tests", "enable.auto.commit": False})
        try:
            found = reader.list_topics(self.name(table), timeout=10).topics[self.name(table)]
            return {
                number: reader.get_watermark_offsets(TopicPartition(self.name(table), number), timeout=10)[1]
                for number in found.partitions
            }
        finally:
            reader.close()

    def _read(self, table: str) -> Iterator[Found]:
        left = {number: end for number, end in self.ends(table).items() if end > 0}
        reader = Consumer({**self._client, "group.id": "tests", "enable.auto.commit": False})
        try:
            reader.assign([TopicPartition(self.name(table), number, 0) for number in left])
            while left:
                for message in reader.consume(1000, 0.2):
                    if message.error():
                        raise KafkaException(message.error())
                    number, offset = _place(message)
                    end = left.get(number, 0)
                    if offset < end:
                        yield Found(_bytes(message.key()), _bytes(message.value()), number, _headers(message))
                    if offset + 1 >= end:
                        left.pop(number, None)
        finally:
            reader.close()


def record(
    table: str,
    row: dict[str, object],
    *,
    at: Position = NOWHERE,
    op: str = "c",
    key: str = "id",
) -> Found:
    """A record as the shipped connector writes it."""
    schema, _, name = table.partition(".")
    source = {
        "connector": "postgresql",
        "schema": schema,
        "table": name,
        "ts_us": at.committed_us,
        "sequence": json.dumps([None if half is None else str(half) for half in (at.seq0, at.seq1)]),
    }
    value = {"before": None, "after": None if op == "d" else row, "source": source, "op": op, "ts_ms": 0}
    return Found(json.dumps({key: row[key]}).encode(), json.dumps(value).encode(), 0, [])


def _place(message: Message) -> tuple[int, int]:
    return message.partition() or 0, message.offset() or 0


def _headers(message: Message) -> Headers:
    found = message.headers() or []
    return list(found.items()) if isinstance(found, dict) else found


def _done(future: Future[None]) -> bool:
    try:
        future.result(10)
    except KafkaException:
        return False
    return True


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
