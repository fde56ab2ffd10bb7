"""The consumer group's member: records in batches, partitions opened where the ledger says.

Kafka's committed offsets are written as a hint for monitors and never read. There is no offset reset:
an offset that the log does not hold is an error of its partition (`on_missing`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import stamina
import structlog
from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # it is public

from deltasync.change import Log, Partition, Record, ends_in_half
from deltasync.debezium.schemas import Schemas
from deltasync.errors import SettingsError, UnreachableError
from deltasync.ports import Owner
from deltasync.settings import Settings

log = structlog.get_logger(__name__)

# Records taken from the client's queue at a time: bounds by how much a batch exceeds its bytes.
_CHUNK = 1000
# Memory for fetched but not yet polled records. A single larger record is fetched all the same.
QUEUE_KIB = 8 * 1024
# What is fetched at once of a partition: compressed, it may be ten times as large in memory, and more with schemas.
_FETCHED_KIB = 512
# A connection on which a request is not answered for so long is ended: the other end may be gone without a word. It is
# long enough for a record of 32 MiB at 9 Mbit/s.
_SILENT_MS_MAX = 30_000
_ADMIN_TIMEOUT_S = 10.0
# What waits for these cannot be stopped meanwhile, and SIGTERM has 10 s.
_TELL_EVERY_S = 10.0
_START_TIMEOUT_S = 6.0
_RECHECK_TIMEOUT_S = 2.0
# These would break the promise: offsets are committed after the ledger, and never reset.
_OURS = frozenset(
    {"enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset", "check.crcs", "group.id"}
    | {"bootstrap.servers"}
)


class Consumer:
    """One member of the group (see `ports.Consumer`)."""

    def __init__(self, settings: Settings) -> None:
        self._owner: Owner  # told by `start`
        self._raw_text = settings.connect.raw_text
        self._partitions = _Partitions()
        self._schemas = Schemas()
        self._pattern = topics_read(settings)
        self._client = Client(
            {
                **client_options(settings),
                "group.id": settings.group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "check.crcs": True,  # else a bit that was flipped on a disk may be a value
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": int(settings.kafka.session_timeout_s * 1000),
                "heartbeat.interval.ms": int(settings.kafka.session_timeout_s * 1000 / 4),
                "topic.metadata.refresh.interval.ms": 5000,  # a new table is found after this
                "fetch.queue.backoff.ms": 10,  # the default of a second is the latency of a full queue
                "fetch.wait.max.ms": 100,
                "queued.max.messages.kbytes": QUEUE_KIB,
                "max.partition.fetch.bytes": _FETCHED_KIB * 1024,
                "fetch.max.bytes": QUEUE_KIB * 1024,  # on a slow network one answer has to come in time, too
                "error_cb": _log_error,
            }
        )
        self._admin = admin_client(settings)

    def start(self, owner: Owner) -> None:
        """Join the group. Raises UnreachableError where no broker answers."""
        self._owner = owner
        try:
            self._client.list_topics(timeout=_START_TIMEOUT_S)
        except KafkaException as error:
            raise _unreachable(error) from None
        self._client.subscribe([self._pattern], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._lost)

    def poll(self, *, rows_max: int, bytes_max: int, wait_s: float) -> list[Record]:
        """The records that are there, at most `rows_max`, about `bytes_max`; waits for the first one.

        Returns an empty list after `wait_s` seconds without any. Keeps this member in its group.
        """
        found = list(self._collected(self._client.consume(1, wait_s)))
        size = _size(found)
        while found and ((len(found) < rows_max and size < bytes_max) or ends_in_half(found)):
            chunk = self._client.consume(max(1, min(_CHUNK, rows_max - len(found))), 0)
            if not chunk:
                break
            came = self._collected(chunk)
            found += came
            size += _size(came)
        return found

    def _collected(self, messages: Iterable[Message]) -> Sequence[Record]:
        """The records that the client delivered; of what else it tells, the owner hears."""
        partitions, converter = self._partitions, self._raw_text
        came: list[Record] = []
        for message in messages:
            partition = partitions[message.topic() or "", message.partition() or 0]
            error = message.error()
            if error is None:
                came.append(to_record(partition, message, converter))
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001 - its public name
                self._owner.on_missing(partition)
            elif error.code() == KafkaError._BAD_MSG:  # noqa: SLF001 - its public name
                self._owner.on_damaged(partition)
            elif error.fatal():
                raise KafkaException(error)
            else:
                _log_error(error)
        return self._schemas.apart(came)

    def pause(self, partition: Partition) -> None:
        """Deliver nothing of `partition` until `reposition`."""
        self._client.pause([TopicPartition(*partition)])

    def reposition(self, partition: Partition, offset: int) -> None:
        """Read `partition` from `offset` next, whether it was paused or not."""
        self._client.incremental_unassign([TopicPartition(*partition)])
        self._client.incremental_assign([TopicPartition(*partition, offset)])
        self._client.resume([TopicPartition(*partition)])  # a pause outlives the assignment

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Tell the group how far we are, for monitors; does not wait, and a failure does no harm."""
        offsets = [TopicPartition(*partition, offset) for partition, offset in next_offsets.items()]
        try:
            self._client.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            log.debug("offsets not committed", reason=str(error))

    def replaced(self, known: Mapping[str, str]) -> dict[str, str]:
        """Those of these topics, by their ids, that have another id by now, with that id.

        Where a topic is deleted and made again within seconds, the client reads on in the new one at the
        old one's offset. A topic that is not described just now is left out. Blocks for a round trip.
        """
        if not known:
            return {}
        described = self._admin.describe_topics(TopicCollection(sorted(known)), request_timeout=_RECHECK_TIMEOUT_S)
        found = {}
        for topic, future in described.items():
            with suppress(KafkaException):
                found[topic] = str(future.result().topic_id)
        return {topic: topic_id for topic, topic_id in found.items() if topic_id != known[topic]}

    def end_offset(self, partition: Partition) -> int | None:
        """The next offset that will be written, as the last fetch told; None where it is not known."""
        _, high = self._client.get_watermark_offsets(TopicPartition(*partition), cached=True)
        return high if high >= 0 else None

    def close(self) -> None:
        """Leave the group."""
        self._client.close()

    def _assign(self, client: Client, partitions: list[TopicPartition]) -> None:
        wanted = [Partition(p.topic, p.partition) for p in partitions]
        logs = self.logs(wanted)
        offsets = self._owner.on_assign(logs)
        client.incremental_assign(
            [TopicPartition(*partition, offsets.get(partition, logs[partition].end_offset)) for partition in wanted]
        )
        for partition in wanted:
            if partition not in offsets:
                self.pause(partition)

    @stamina.retry(on=UnreachableError, attempts=4, timeout=30)
    def logs(self, partitions: list[Partition]) -> dict[Partition, Log]:
        """What the broker holds of these partitions; a topic that was just made may need a moment.

        The client that reads is not asked: on a connection that is dead it would wait for longer than this may last.
        """
        return describe_logs(self._admin, partitions)

    def exists(self, topic: str) -> bool:
        try:
            return topic in self._admin.list_topics(timeout=_ADMIN_TIMEOUT_S).topics
        except KafkaException as error:
            raise _unreachable(error) from None

    def _revoke(self, _client: Client, partitions: list[TopicPartition]) -> None:
        self._owner.on_revoke([Partition(p.topic, p.partition) for p in partitions], lost=False)

    def _lost(self, _client: Client, partitions: list[TopicPartition]) -> None:
        self._owner.on_revoke([Partition(p.topic, p.partition) for p in partitions], lost=True)


class _Partitions(dict[tuple[str, int], Partition]):
    """One object for each partition."""

    def __missing__(self, place: tuple[str, int]) -> Partition:
        return self.setdefault(place, Partition(*place))


def topics_read(settings: Settings) -> str:
    """The pipeline's topics, as a regular expression: those that have a schema and a table behind the prefix.

    Those of transaction metadata and of logical messages have one word there: they cost nothing unless they are needed.
    """
    names = ".+" if settings.consistency == "transaction" else "[^.]+[.].+"
    return f"^{re.escape(settings.topic_prefix)}[.]{names}"


def client_options(settings: Settings) -> dict[str, Any]:
    """What every Kafka client of ours is made with. Raises SettingsError for an option that is not the user's."""
    settings.need("kafka.bootstrap")
    taken = _OURS & settings.kafka.options.keys()
    if taken:
        raise SettingsError(
            f"The Kafka option {min(taken)} cannot be set: deltasync's promises rest on its value.",
            remedy="Remove it from `options` in [kafka].",
        )
    # Errors come as exceptions or through error_cb; the client's own lines on standard error would be no JSON.
    ours = {"bootstrap.servers": settings.kafka.bootstrap, "log_level": 0, "socket.timeout.ms": _SILENT_MS_MAX}
    return {**ours, **settings.kafka.options}


def admin_client(settings: Settings) -> AdminClient:
    """What asks a broker. Its answers are small, so it ends a connection that is dead sooner than others do."""
    return AdminClient({**client_options(settings), "socket.timeout.ms": int(_ADMIN_TIMEOUT_S * 1000)})


class Topic(NamedTuple):
    """A topic's id (another one means that it was deleted and made again), and how many partitions it has."""

    id: str
    partitions: int


def describe_topics(admin: AdminClient, topics: Iterable[str]) -> dict[str, Topic]:
    """What the broker knows of these topics. Raises UnreachableError where one cannot be described."""
    wanted = sorted(topics)
    if not wanted:
        return {}
    try:
        described = admin.describe_topics(TopicCollection(wanted), request_timeout=_ADMIN_TIMEOUT_S)
        found = {topic: described[topic].result() for topic in wanted}
    except KafkaException as error:
        raise _unreachable(error) from None
    return {name: Topic(str(topic.topic_id), len(topic.partitions)) for name, topic in found.items()}


def describe_logs(admin: AdminClient, partitions: Iterable[Partition]) -> dict[Partition, Log]:
    """Of each partition the topic's id, the first offset kept and the next one written. Raises UnreachableError."""
    wanted = sorted(partitions)
    topics = describe_topics(admin, {partition.topic for partition in wanted})
    starts = _offsets(admin, wanted, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    ends = _offsets(admin, wanted, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    return {p: Log(topics[p.topic].id, starts[p], ends[p], topics[p.topic].partitions) for p in wanted}


def _offsets(admin: AdminClient, partitions: Iterable[Partition], which: OffsetSpec) -> dict[Partition, int]:
    asked = {TopicPartition(*partition): which for partition in partitions}
    if not asked:
        return {}
    try:
        found = admin.list_offsets(asked, request_timeout=_ADMIN_TIMEOUT_S)
        return {Partition(at.topic, at.partition): future.result().offset for at, future in found.items()}
    except KafkaException as error:
        raise _unreachable(error) from None


def _unreachable(error: KafkaException) -> UnreachableError:
    return UnreachableError(
        f"Kafka did not answer: {error.args[0].str()}.",
        remedy="See whether the broker at DELTASYNC_KAFKA_BOOTSTRAP is up, and the service may read its topics.",
    )


_tuple = tuple.__new__


def to_record(partition: Partition, message: Message, converter: bool) -> Record:  # noqa: FBT001 - faster by its place
    """A record as the client delivered it."""
    # A named tuple's own `__new__` would take as long as all the rest.
    return _tuple(Record, (partition, message.offset() or 0, message.key(), message.value(), message, converter, b""))


def _size(records: Iterable[Record]) -> int:
    return sum([len(record.value or b"") for record in records])


_told_at: dict[str, float] = {}


def _log_error(error: KafkaError) -> None:
    if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return  # no topic of the pipeline exists yet: Connect makes them
    now = time.monotonic()
    if now - _told_at.get(error.name(), -_TELL_EVERY_S) < _TELL_EVERY_S:
        return  # the client tries again many times a second
    _told_at[error.name()] = now
    log.warning("kafka", reason=error.str(), code=error.name())
