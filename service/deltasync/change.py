"""The nouns of the data flow: what Kafka delivers (`Record`) and what one row change is (`Change`)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from deltasync.table import TableId

Headers = Sequence[tuple[str, bytes | None]]
# Debezium's header, another one for each start of a task.
RUN = "__debezium.context.runId"
# How a delete's envelope says so, and the header of one whose row goes on under another key.
_DELETE = b'"op":"d"'
NEW_KEY = "__debezium.newkey"
# What the jar of connectors/raw-text puts on every record with an envelope.
TABLE = "deltasync.table"


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


class Log(NamedTuple):
    """What the broker holds of a partition: its topic's id, the first offset kept, the next one written.

    `partitions` is how many the topic has.
    """

    topic_id: str
    start_offset: int
    end_offset: int
    partitions: int = 1


class TopicSettings(NamedTuple):
    """How the broker keeps a topic: the largest batch that it takes, and whether newer records replace older ones."""

    record_bytes_max: int
    compacted: bool


class Message(Protocol):
    """What the client has of a record besides its bytes. Asking costs microseconds, so only those who need it do."""

    def headers(self) -> Headers | None: ...

    def timestamp(self) -> tuple[int, int]: ...

    def set_value(self, value: bytes, /) -> None: ...


class Told(NamedTuple):
    """The same, of a record that no client has delivered."""

    known: Headers = ()
    sent_ms: int = 0

    def headers(self) -> Headers:
        return self.known

    def timestamp(self) -> tuple[int, int]:
        return 1, self.sent_ms

    def set_value(self, value: bytes, /) -> None:
        """It keeps none."""


class Record(NamedTuple):
    """What Kafka delivers: bytes at an offset of a partition.

    `converter` says that Connect may have had the raw-text converter when it wrote the record; `front` is what was
    taken from in front of the value, its schema (see `debezium.schemas`).
    """

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    message: Message = Told()
    converter: bool = False
    front: bytes = b""

    @property
    def whole(self) -> bytes | None:
        """The value as it is in Kafka."""
        return self.front + self.value + b"}" if self.front and self.value is not None else self.value

    @property
    def moves(self) -> bool:
        """True for a delete whose row goes on under another key.

        The next record of its partition that has a value is the row under its new key.
        """
        return self.value is not None and _DELETE in self.value and self._has(NEW_KEY)

    @property
    def raw_text(self) -> bool:
        """Whether Connect had the raw-text converter, as a header tells."""
        return self.converter and self._has(TABLE)

    @property
    def sent_ms(self) -> int:
        """Kafka's timestamp of it, in milliseconds since 1970."""
        return self.message.timestamp()[1]

    def headers(self) -> Headers:
        return self.message.headers() or ()

    def stays(self) -> Record:
        """The same record, as if its row did not go on under another key."""
        kept = tuple(header for header in self.headers() if header[0] != NEW_KEY)
        return self._replace(message=Told(kept, self.sent_ms))

    def run(self) -> str:
        """Which run of the connector's task sent it; empty where no header tells."""
        found = next((value for name, value in self.headers() if name == RUN), None)
        return "" if found is None else found.decode("utf-8", "replace")

    def _has(self, name: str) -> bool:
        return any(header[0] == name for header in self.headers())


def ends_in_half(records: Sequence[Record]) -> bool:
    """True where the last record, tombstones apart, is the first half of a key change."""
    last = next((record for record in reversed(records) if record.value is not None), None)
    return last is not None and last.moves


class Op(StrEnum):
    """Debezium's operations."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    READ = "r"
    TRUNCATE = "t"


class Position(NamedTuple):
    """Where a change stands in the source's log, and when its transaction committed there.

    `seq0` and `seq1` are `source.sequence`: the end of the last commit that the connector had seen,
    and the change's own LSN. Either may be null; `seq0` is after a snapshot, an offsets or a slot reset.
    `committed_us` is microseconds since 1970 by the source's clock (for op r, by the snapshot's).
    """

    seq0: int | None
    seq1: int | None
    committed_us: int


class Change(NamedTuple):
    """One row change: `key` and `row` are the raw JSON of the key and of the row after the change.

    `row` is None for deletes and truncates, `key` for truncates. `snapshot` is Debezium's mark of a
    read; those of an `incremental` snapshot are interleaved with streamed changes. `old_key` is the key that the row
    had until this change gave it another one. `transaction` is the source's transaction and `order` the change's
    number in it, across all tables; both are None for reads, and where the connector tells no transactions. `raw_text`
    is that of its record. `before` is the raw JSON of the row before an update or a delete, as far as the table's
    REPLICA IDENTITY tells it; None where it does not.

    `begins` is true for the first read of a snapshot that the table is emptied for. Only of tables without a key, `run`
    says which run of the connector's task sent it, and is None until it was asked for.
    """

    table: TableId
    op: Op
    key: bytes | None
    row: bytes | None
    position: Position
    partition: Partition
    offset: int
    snapshot: str | None = None
    old_key: bytes | None = None
    order: int | None = None
    transaction: str | None = None
    raw_text: bool = False
    before: bytes | None = None
    run: str | None = None
    begins: bool = False

    @property
    def incremental(self) -> bool:
        return self.snapshot == "incremental"
