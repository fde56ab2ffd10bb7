"""Reads partitions of a pipeline apart from its consumer group: nothing is joined, nothing is committed."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from deltasync.change import Partition, Record
from deltasync.errors import GapError, UnreachableError
from deltasync.kafka.consumer import QUEUE_KIB, client_options, to_record
from deltasync.settings import Settings

_MISSING = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)  # noqa: SLF001 - its public name

# What the broker holds it sends within moments; the transaction that waits for it may idle for 15 s.
_SILENT_S_MAX = 10.0


class Reader:
    """Reads on from where it was told, partition by partition in order. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._raw_text = settings.connect.raw_text
        self._reached: dict[Partition, int] = {}
        self._silent_s = 0.0
        own = {
            "group.id": f"{settings.group}-resync",  # asked for by the client; never joined, nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "check.crcs": True,
            "fetch.queue.backoff.ms": 10,
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": QUEUE_KIB,
            "fetch.max.bytes": QUEUE_KIB * 1024,
        }
        self._client = Client({**client_options(settings), **own})

    def add(self, offsets: Mapping[Partition, int]) -> None:
        """Read these partitions, too, from these offsets on."""
        self._reached |= offsets
        self._client.incremental_assign([TopicPartition(*partition, offset) for partition, offset in offsets.items()])

    def has_reached(self, offsets: Mapping[Partition, int]) -> bool:
        """True where everything before these offsets was returned; a log may end with a mark that is no record."""
        return all(self._reached[partition] >= offset for partition, offset in offsets.items())

    def read(self, rows_max: int, wait_s: float) -> list[Record]:
        """What is there, at most `rows_max` records; waits for the first one. Belongs where not all was reached.

        Raises GapError where a log does not hold what is next, and UnreachableError where the broker fails.
        """
        found: list[Record] = []
        messages = self._client.consume(rows_max, wait_s)
        self._silent_s = 0.0 if messages else self._silent_s + wait_s
        if self._silent_s > _SILENT_S_MAX:
            raise unreachable("it sends nothing of what it holds")
        for message in messages:
            partition, error = Partition(message.topic() or "", message.partition() or 0), message.error()
            if error is None:
                found.append(to_record(partition, message, self._raw_text))
                self._reached[partition] = found[-1].offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                self._reached[partition] = max(self._reached[partition], message.offset() or 0)
            elif error.code() in _MISSING:
                raise GapError(
                    f"The log of {partition} does not hold offset {self._reached[partition]}.",
                    remedy="Retention took it meanwhile: read the table again.",
                )
            elif error.fatal():
                raise unreachable(error.str())
        return found

    def close(self) -> None:
        """End the client."""
        try:
            self._client.close()
        except KafkaException as error:
            raise unreachable(error.args[0].str()) from None


def unreachable(why: str) -> UnreachableError:
    """The broker failed in a way that the client does not mend by itself soon."""
    return UnreachableError(
        f"Kafka failed: {why}.", remedy="See whether the broker at DELTASYNC_KAFKA_BOOTSTRAP is up."
    )
