"""The topics of one prefix: made beforehand, counted, deleted."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # they are public
    AdminClient,
    NewTopic,
    OffsetSpec,
)

from bench.shapes import SCHEMA

_TIMEOUT_S = 60.0
# The client tells of every short-lived connection otherwise.
_ERRORS = 3
# Of the broker and of the shipped connector.
_SETTINGS = {"max.message.bytes": "33554432", "cleanup.policy": "delete", "retention.ms": "-1"}
_CONTROL = ("deltasync.schema_log", "deltasync.canary", "deltasync.signal")


def topic(prefix: str, table: str) -> str:
    """The topic of a table, as Debezium calls it."""
    return f"{prefix}.{SCHEMA}.{table}"


class Topics:
    """Asks a broker. Every call blocks; raises KafkaException."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": _ERRORS})

    def make(self, prefix: str, tables: Collection[str]) -> None:
        """Make what a connector would make at its first records: who reads them has found them by then."""
        names = [*(topic(prefix, table) for table in tables), *(f"{prefix}.{name}" for name in _CONTROL)]
        made = self._admin.create_topics([NewTopic(name, 1, 1, config=_SETTINGS) for name in names])
        for future in made.values():
            future.result(_TIMEOUT_S)

    def delete(self, prefix: str) -> None:
        """Delete all topics of a prefix."""
        names = [name for name in self._admin.list_topics(timeout=_TIMEOUT_S).topics if prefix in name.split(".")]
        for future in (self._admin.delete_topics(names) if names else {}).values():
            future.result(_TIMEOUT_S)

    def count(self, prefix: str, tables: Collection[str]) -> int:
        """How many records the topics of these tables hold."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        places = {TopicPartition(topic(prefix, table), 0): latest for table in tables}
        return sum(int(future.result(_TIMEOUT_S).offset) for future in self._admin.list_offsets(places).values())

    def begin_at(self, group: str, prefix: str, offsets: Mapping[str, int]) -> None:
        """Have a group that has no member begin at these offsets, by table."""
        places = [TopicPartition(topic(prefix, table), 0, offset) for table, offset in offsets.items()]
        asked = self._admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])
        for future in asked.values():
            future.result(_TIMEOUT_S)
