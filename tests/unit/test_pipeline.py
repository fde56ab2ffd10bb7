"""The loop on Kafka and a replica in memory: what one worker learns of the others."""

from __future__ import annotations

import pytest
from tests.unit.make import PLACEHOLDER, column, compact_json, described, envelope

from deltasync.change import Partition, Record
from deltasync.kafka.memory import Broker, Consumer
from deltasync.lifecycle import Lifecycle
from deltasync.monitor.metrics import Metrics
from deltasync.parking import Letter
from deltasync.pipeline import Pipeline
from deltasync.replica.memory import Database, Replica
from deltasync.replica.memory_table import Foreign, MemoryTable
from deltasync.settings import Settings
from deltasync.table import Table

PARENT = Table("shop", "p", (column("id", "int8", "bigint", not_null=True),), ("id",))
CHILD = Table("shop", "c", (*PARENT.columns, column("p", "int8", "bigint")), ("id",))
# This worker's, and another one's.
HERE, ELSEWHERE = Partition("p.shop.c", 0), Partition("elsewhere.shop.p", 0)
SETTINGS = Settings.model_validate(
    {"pipeline": "p", "unavailable_value": PLACEHOLDER, "replica": {"constraints": "ordered"}}
)


@pytest.mark.parametrize("is_parked", [True, False])
def test_a_child_of_a_row_that_another_worker_set_aside(*, is_parked: bool) -> None:
    """It is given 10 s, then set aside as well; where nothing is, its parent may still come."""
    broker, database, now = Broker(), Database(), [0.0]
    for table in (PARENT, CHILD):
        database.tables[table.id] = MemoryTable(table)
        database.source_tables[table.id] = described(table)
    database.foreign.append(Foreign(CHILD.id, "p", PARENT.id))
    if is_parked:
        key = compact_json({"id": 1})
        database.letters.append(("id", Letter(Record(ELSEWHERE, 0, key, b"{}"), PARENT.id, key, error="refused")))
    broker.produce(HERE, compact_json({"id": 7}), compact_json(envelope("c", {"id": 7, "p": 1}, table="c")))

    def wait(seconds: float) -> None:
        now[0] += seconds

    lifecycle = Lifecycle(lambda: now[0])
    session = Replica(database, ordered=True)
    pipeline = Pipeline(SETTINGS, Consumer(broker, "p", "p", wait), session, Metrics(), lifecycle)
    pipeline.start()
    set_aside_at = None
    while now[0] < 30:
        pipeline.step()
        now[0] += 0.5
        if set_aside_at is None and any(letter.table == CHILD.id for _, letter in database.letters):
            set_aside_at = now[0]

    assert (set_aside_at is not None) is is_parked
    assert set_aside_at is None or 10 < set_aside_at < 13
