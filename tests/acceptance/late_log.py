"""A worker inside the test to which the schema log comes late: no order holds between topics."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.flow import Flow

from deltasync.change import Record
from deltasync.debezium.schema_log import SCHEMA_LOG
from deltasync.kafka.consumer import Consumer
from deltasync.lifecycle import Lifecycle
from deltasync.monitor.metrics import Metrics
from deltasync.pipeline import Pipeline
from deltasync.policy import Ddl
from deltasync.replica.session import Replica


class LateLog(Consumer):
    """Keeps the records of the schema log back while `late` is set."""

    late = False
    _kept: tuple[Record, ...] = ()

    def poll(self, *, rows_max: int, bytes_max: int, wait_s: float) -> list[Record]:
        found = super().poll(rows_max=rows_max, bytes_max=bytes_max, wait_s=wait_s)
        if not self.late:
            kept, self._kept = self._kept, ()
            return [*kept, *found]
        of_log = tuple(record for record in found if record.partition.topic.endswith(f".{SCHEMA_LOG}"))
        self._kept += of_log
        return [record for record in found if record not in of_log]


@contextmanager
def late_log(flow: Flow, ddl: Ddl) -> Iterator[LateLog]:
    """Such a worker with these policies, as long as the context lasts."""
    settings = flow.settings.model_copy(update={"ddl": ddl})
    consumer, lifecycle = LateLog(settings), Lifecycle()
    pipeline = Pipeline(settings, consumer, Replica(settings), Metrics(), lifecycle)
    thread = threading.Thread(target=pipeline.run, name="late log")
    thread.start()
    try:
        yield consumer
    finally:
        lifecycle.stop()
        thread.join(20)
