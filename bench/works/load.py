"""Filling an empty replica."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo

from bench.capture import capturing
from bench.contestants import OURS, TUNED, TUNED_3, Contestant, Task, refuse_stopped, timed
from bench.meter import Cost
from bench.prepare import NATIVE, Prepared, Tell, digest, prepare
from bench.shapes import SCHEMA, Shape
from bench.stage import SYNCHRONOUS_COMMIT, TIMEOUT_S, Stage, drop_subscriptions, run_name, until, wait_for_marks
from bench.topics import Topics
from bench.works import Outcome, Pair
from deltasync.local.stack import run_command

# Loads a database of the replica with what a shape's source holds.
_Way = Callable[[Stage, Shape, Prepared, str], Cost]


class Load(NamedTuple):
    """From the first command, or the connector's start, until all rows are visible on a replica that had none.

    Its tables are there, and their primary keys: what builds keys behind the rows drops these first.
    """

    name: str
    says: str
    shape: Callable[[float], Shape]
    ways: Mapping[str, _Way]
    pairs: tuple[Pair, ...]

    @property
    def contestants(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.ways, False)

    def prepare(self, stage: Stage, scale: float, tell: Tell) -> Callable[[str], Outcome]:
        shape = self.shape(scale)
        prepared = prepare(stage, shape, tell, [], base=False)
        return partial(self._run, stage, shape, prepared, digest(stage.source(prepared.database), shape))

    def _run(self, stage: Stage, shape: Shape, prepared: Prepared, wanted: list[object], way: str) -> Outcome:
        with stage.replica_copy(prepared.empty) as database:
            cost = self.ways[way](stage, shape, prepared, database)
            return Outcome(cost.per_change(shape.records), digest(stage.replica(database), shape) == wanted)


def pipe(stage: Stage, shape: Shape, prepared: Prepared, database: str) -> Cost:
    """Binary COPY, one table after the other through one pipe: what two databases can do at most in this way."""
    meter = stage.meter()
    before = _own_cpu_s(resource.RUSAGE_SELF)
    with (
        psycopg.connect(stage.source(prepared.database)) as source,
        psycopg.connect(stage.replica(database)) as replica,
    ):
        replica.execute(f"SET synchronous_commit = {SYNCHRONOUS_COMMIT}".encode())
        for table in shape.tables:
            out = f"COPY (SELECT * FROM {SCHEMA}.{table}) TO STDOUT (FORMAT binary)".encode()
            into = f"COPY {SCHEMA}.{table} FROM STDIN (FORMAT binary)".encode()
            with source.cursor().copy(out) as rows, replica.cursor().copy(into) as target:
                for block in rows:
                    target.write(block)
    return _with_service(meter.read(), _own_cpu_s(resource.RUSAGE_SELF) - before)


def bootstrap(stage: Stage, shape: Shape, prepared: Prepared, database: str) -> Cost:
    """`deltasync bootstrap`, the start of its connector included."""
    del shape
    name = run_name()
    own = {"DELTASYNC_KAFKA_TOPIC_PREFIX": name, "DELTASYNC_SOURCE_SLOT": name}
    env = stage.env(prepared.database, database, **own)
    run_command(env, "replica", "setup")  # rights on a database do not come with its template
    try:
        meter = stage.meter()
        before = _own_cpu_s(resource.RUSAGE_CHILDREN)
        run_command(env, "bootstrap", timeout_s=TIMEOUT_S)
        return _with_service(meter.read(), _own_cpu_s(resource.RUSAGE_CHILDREN) - before)
    finally:
        stage.delete(f"{prepared.database}-source")
        stage.drop_slot(name)
        Topics(stage.servers.kafka.bootstrap).delete(name)


def through_kafka(contestant: Contestant) -> _Way:
    """Debezium's snapshot, applied while it is taken."""

    def load(stage: Stage, shape: Shape, prepared: Prepared, database: str) -> Cost:
        form = contestant.form or "json"
        initial = {"snapshot.mode": "initial"}
        with capturing(stage, prepared.database, shape.tables, form=form, changes=initial) as capture:
            task = Task(prepared, database, capture.name, None, {})
            return timed(stage, contestant, task, shape, capture.start)

    return load


def natively(stage: Stage, shape: Shape, prepared: Prepared, database: str) -> Cost:
    """A subscription that copies the tables itself."""
    slot, source, replica = run_name(), stage.source(prepared.database), stage.replica(database)
    make = f"CREATE SUBSCRIPTION {slot} CONNECTION '{make_conninfo(source)}' PUBLICATION {NATIVE}"
    synced = "SELECT WHERE NOT EXISTS (SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r')"
    try:
        meter = stage.meter()
        stage.execute(replica, f"{make} WITH (copy_data = true, synchronous_commit = {SYNCHRONOUS_COMMIT})")
        wait_for_marks(replica, shape, lambda: refuse_stopped(replica))
        cost = meter.read()
        with psycopg.connect(replica, autocommit=True) as connection:
            until(lambda: connection.execute(synced).fetchone() is not None, "the subscription has let go of its slots")
        return cost
    finally:
        drop_subscriptions(stage.replica, database)
        stage.drop_slot(slot)


def _own_cpu_s(whose: int) -> float:
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def _with_service(cost: Cost, cpu_s: float) -> Cost:
    return Cost(cost.seconds, {**cost.cpu_s, "service": round(cpu_s, 2)})


WAYS: Mapping[str, _Way] = {
    "COPY binary": pipe,
    "deltasync bootstrap": bootstrap,
    "deltasync": through_kafka(OURS),
    "sink, tuned": through_kafka(TUNED),
    "sink, tuned, 3 tasks": through_kafka(TUNED_3),
    "logical replication": natively,
}
