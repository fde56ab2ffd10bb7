"""What the broker holds for a pipeline: its topics, where their logs begin and end, and when records came in."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import TypeVar

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # they are public
    ConfigResource,
    ResourceType,
)

from deltasync.change import Log, Partition, TopicSettings
from deltasync.errors import UnreachableError
from deltasync.kafka.consumer import admin_client, client_options, describe_logs, topics_read
from deltasync.settings import Settings

T = TypeVar("T")

_TIMEOUT_S = 10.0
# Only the first record of each partition is wanted: the broker sends one batch of it, however small this is.
_FETCH_BYTES = 64 * 1024


class Admin:
    """Asks the broker. Every call blocks, for 10 s at most, and raises UnreachableError where there is no answer."""

    def __init__(self, settings: Settings) -> None:
        self._options = client_options(settings)
        self._group = settings.group
        self._topics = re.compile(topics_read(settings))
        self._admin = admin_client(settings)

    def ping(self) -> None:
        """Return if the broker answers."""
        _result(self._admin.describe_cluster(request_timeout=_TIMEOUT_S))

    def members(self) -> int:
        """How many workers the consumer group has now."""
        described = self._admin.describe_consumer_groups([self._group], request_timeout=_TIMEOUT_S)
        try:
            return len(described[self._group].result(timeout=2 * _TIMEOUT_S).members)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            raise _unreachable(error) from None

    def logs(self) -> dict[Partition, Log]:
        """All partitions of the pipeline's topics: the topic's id, the first offset kept, the next one written."""
        try:
            topics = self._admin.list_topics(timeout=_TIMEOUT_S).topics
        except KafkaException as error:
            raise _unreachable(error) from None
        partitions = [
            Partition(name, number)
            for name, topic in topics.items()
            if self._topics.match(name)
            for number in topic.partitions
        ]
        return describe_logs(self._admin, partitions)

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """Of any partition, the pipeline's or not: the first offset kept, the next one written; 0 where it is not."""
        try:
            topic = self._admin.list_topics(timeout=_TIMEOUT_S).topics.get(partition.topic)
        except KafkaException as error:
            raise _unreachable(error) from None
        if topic is None or partition.number not in topic.partitions:
            return 0, 0
        log = describe_logs(self._admin, [partition])[partition]
        return log.start_offset, log.end_offset

    def settings(self, topics: Iterable[str]) -> dict[str, TopicSettings]:
        """How these topics are set; those that may not be described are left out."""
        asked = [ConfigResource(ResourceType.TOPIC, topic) for topic in sorted(topics)]
        found = {}
        for resource, future in (
            self._admin.describe_configs(asked, request_timeout=_TIMEOUT_S).items() if asked else ()
        ):
            try:
                told = future.result(timeout=2 * _TIMEOUT_S)
                compacted = "compact" in str(told["cleanup.policy"].value)
                found[resource.name] = TopicSettings(int(str(told["max.message.bytes"].value)), compacted=compacted)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise _unreachable(error) from None
        return found

    def came_in(self, offsets: Mapping[Partition, int], *, wait_s: float = 3.0) -> dict[Partition, float]:
        """When the record at each offset was written, in seconds since 1970 by the producer's clock.

        Left out is what could not be read within `wait_s`.
        """
        if not offsets:
            return {}
        found: dict[Partition, float] = {}
        until = time.monotonic() + wait_s
        reader = self._reader()
        try:
            reader.assign([TopicPartition(*partition, offset) for partition, offset in offsets.items()])
            while len(found) < len(offsets) and (left_s := until - time.monotonic()) > 0:
                for message in reader.consume(100, min(left_s, 0.1)):
                    partition = Partition(message.topic() or "", message.partition() or 0)
                    if message.error() is None and partition not in found:
                        found[partition] = message.timestamp()[1] / 1000
                        reader.pause([TopicPartition(*partition)])
        except KafkaException as error:
            raise _unreachable(error) from None
        finally:
            reader.close()
        return found

    def _reader(self) -> Client:
        own = {
            "group.id": f"{self._group}-lag",  # asked for by the client; never joined, nothing is committed
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.queue.backoff.ms": 10,
            "fetch.wait.max.ms": 100,
            "max.partition.fetch.bytes": _FETCH_BYTES,
            "queued.max.messages.kbytes": 16 * 1024,
        }
        return Client({**self._options, **own})


def _result(future: Future[T]) -> T:
    try:
        return future.result(timeout=2 * _TIMEOUT_S)
    except (KafkaException, TimeoutError) as error:
        raise _unreachable(error) from None


def _unreachable(error: Exception) -> UnreachableError:
    why = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
    return UnreachableError(
        f"Kafka does not answer: {why}.",
        remedy="See whether the broker at [kafka] bootstrap is up and reachable from here.",
    )
