"""The connector's notifications, read from their topic: it is none of the pipeline's, and no worker reads it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from deltasync.change import Partition
from deltasync.incremental.reading import Reading, read
from deltasync.kafka.admin import Admin
from deltasync.kafka.reader import Reader
from deltasync.settings import Settings

_ROWS_MAX = 1000
_POLL_S = 0.2


class Notices:
    """Follows the newest incremental snapshot. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._partition = Partition(f"__debezium-notification.{settings.topic_prefix}", 0)
        self._admin = Admin(settings)
        self._reader = Reader(settings)
        self._is_added = False
        self._reading: Reading | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._reader.close()

    def newest(self) -> Reading | None:
        """The newest snapshot by all that Kafka holds now; None where none was told of.

        Blocks while that is read. Raises UnreachableError where Kafka does not answer.
        """
        start, end = self._admin.bounds(self._partition)
        if not self._is_added and end:
            self._reader.add({self._partition: start})
            self._is_added = True
        while self._is_added and not self._reader.has_reached({self._partition: end}):
            records = self._reader.read(_ROWS_MAX, _POLL_S)
            self._reading = read((record.value or b"" for record in records), self._reading)
        return self._reading
