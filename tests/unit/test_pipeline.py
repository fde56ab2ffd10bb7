"""The loop on Kafka and a replica in memory: what one worker learns of the others."""

from __future__ import annotations

from copy import deepcopy

import pytest
from tests.unit.make import PLACEHOLDER, column, compact_json, described, envelope

from deltasync import pipeline as pipeline_module
from deltasync.change import Partition, Record
from deltasync.kafka.memory import Broker, Consumer
from deltasync.lifecycle import Lifecycle
from deltasync.monitor.metrics import Metrics
from deltasync.ownership import PartitionState
from deltasync.parking import Letter
from deltasync.pipeline import Pipeline
from deltasync.replica.memory import Database, Replica
from deltasync.replica.memory_evolve import names
from deltasync.replica.memory_table import Foreign, MemoryTable, OperationalError
from deltasync.settings import Batch, Settings
from deltasync.settings import Replica as ReplicaSettings
from deltasync.table import Table

PARENT = Table("shop", "p", (column("id", "int8", "bigint", not_null=True),), ("id",))
CHILD = Table("shop", "c", (*PARENT.columns, column("p", "int8", "bigint")), ("id",))
WIDER = Table("shop", "c", (*CHILD.columns, column("more", "int8", "bigint")), ("id",))
# This worker's, and another one's.
HERE, ELSEWHERE = Partition("p.shop.c", 0), Partition("elsewhere.shop.p", 0)
SETTINGS = Settings.model_validate(
    {"pipeline": "p", "unavailable_value": PLACEHOLDER, "replica": {"constraints": "ordered"}}
)


class World:
    """One worker that reads `HERE`, and goes on as long as somebody steps."""

    def __init__(self, *tables: Table, ordered: bool = True) -> None:
        self.now, self.made = 0.0, 10
        self.broker, self.database = Broker(), Database()
        self.fails = False
        for table in tables:
            self.database.tables[table.id] = MemoryTable(table)
            self.database.source_tables[table.id] = described(table)
        self.consumer = Consumer(self.broker, "p", "p", self._wait)
        session = Replica(self.database, self._at, ordered=ordered)
        some = {"replica": ReplicaSettings(), "batch": Batch(rows_max=20)}
        settings = SETTINGS if ordered else SETTINGS.model_copy(update=some)
        self.pipeline = Pipeline(settings, self.consumer, session, Metrics(), Lifecycle(lambda: self.now))

    def _wait(self, seconds: float) -> None:
        self.now += seconds

    def _at(self, _place: str) -> None:
        if self.fails:
            self.fails = False
            raise OperationalError("57P01")

    def insert(self, table: Table = CHILD, **row: int) -> None:
        self.made += 1
        value = envelope("c", {**row}, table=table.name, sequence=f'["10","{self.made}"]')
        partition = Partition(f"p.shop.{table.name}", 0)
        self.broker.produce(partition, compact_json({"id": row["id"]}), compact_json(value))

    def step(self) -> None:
        self.pipeline.step()
        self.now += 0.5


@pytest.mark.parametrize("is_parked", [True, False])
def test_a_child_of_a_row_that_another_worker_set_aside(*, is_parked: bool) -> None:
    """It is given 15 s, then set aside as well; where nothing is, its parent may still come."""
    world = World(PARENT, CHILD)
    world.database.foreign.append(Foreign(CHILD.id, "p", PARENT.id))
    if is_parked:
        key = compact_json({"id": 1})
        letter = Letter(Record(ELSEWHERE, 0, key, b"{}"), PARENT.id, key, error="refused")
        world.database.letters.append(("id", letter))
    world.insert(id=7, p=1)
    world.pipeline.start()
    set_aside_at = None
    while world.now < 30:
        world.step()
        if set_aside_at is None and any(letter.table == CHILD.id for _, letter in world.database.letters):
            set_aside_at = world.now

    assert (set_aside_at is not None) is is_parked
    assert set_aside_at is None or 15 < set_aside_at < 18


@pytest.mark.parametrize("is_assigned_anew", [True, False])
def test_a_replica_that_lost_a_column(*, is_assigned_anew: bool) -> None:
    """It failed over to a standby that lacks what another worker had done: its descriptions are read again, too."""
    world = World(CHILD)
    world.pipeline.start()
    world.insert(id=1)
    world.step()
    before = deepcopy(world.database.ledger)
    _describe(world.database, WIDER)
    world.insert(id=2, more=2)
    for _ in range(5):
        world.step()
    assert world.database.tables[CHILD.id].rows.keys() == {("1",), ("2",)}

    world.database.ledger = before
    del world.database.tables[CHILD.id].rows["2",]
    _describe(world.database, CHILD)
    if is_assigned_anew:
        world.broker.expel(world.consumer)
    world.fails = True
    for _ in range(5):
        world.step()
    assert world.pipeline.troubles()[0].state is PartitionState.WAITING
    _describe(world.database, WIDER)
    for _ in range(5):
        world.step()

    assert world.database.tables[CHILD.id].rows.keys() == {("1",), ("2",)}


@pytest.mark.parametrize("is_to_blame", [True, False])
def test_a_batch_that_fails_in_the_background(monkeypatch: pytest.MonkeyPatch, *, is_to_blame: bool) -> None:
    """It is applied record by record, or again; what was read behind it is read again, and other partitions go on."""
    monkeypatch.setattr(pipeline_module, "OVERLAP_FROM", 1)
    world = World(PARENT, CHILD, ordered=False)
    world.pipeline.start()
    world.step()
    for n in range(60):
        world.insert(id=n, p=1)
    if is_to_blame:
        world.database.tables[CHILD.id] = MemoryTable(CHILD, refused=frozenset({("id", "3")}))
    world.fails = not is_to_blame
    world.step()
    for n in range(10):
        world.insert(PARENT, id=n)
    for _ in range(20):
        world.step()

    kept = {(str(n),) for n in range(60)}
    assert world.database.tables[PARENT.id].rows.keys() == {(str(n),) for n in range(10)}
    assert world.database.tables[CHILD.id].rows.keys() == kept - ({("3",)} if is_to_blame else set())


def _describe(database: Database, table: Table) -> None:
    found = database.tables[table.id]
    database.tables[table.id] = found.changed(table, names(found.table, table))
    database.source_tables[table.id] = described(table)
