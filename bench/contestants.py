"""Who takes part: deltasync, Debezium's JDBC sink, PostgreSQL's logical replication."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bench.capture import Form
from bench.meter import Cost
from bench.prepare import NATIVE, Prepared, refuse_ended, workers
from bench.shapes import SCHEMA, Shape
from bench.stage import SYNCHRONOUS_COMMIT, Stage, drop_subscriptions, run_name, wait_for_marks
from bench.topics import Topics
from deltasync.errors import PartError
from deltasync.local.process import Process
from deltasync.local.stack import run_command
from deltasync.local.state import free_ports

# The names of all sinks begin so.
SINK = "sink"


class Task(NamedTuple):
    """What is to be applied to `database`: the topics of a prefix, or what is behind a slot (None: from now on).

    `offsets` says for each table where in its topic the replica's rows end.
    """

    prepared: Prepared
    database: str
    prefix: str
    slot: str | None
    offsets: Mapping[str, int]


class Applying(NamedTuple):
    """A contestant at work: `service` are processes of its own, `memory_of` those whose memory counts.

    What was ready beforehand begins with `begin`; `look` raises PartError where it has failed.
    """

    look: Callable[[], None]
    service: Collection[Process] = ()
    memory_of: Collection[Process] = ()
    begin: Callable[[], None] = lambda: None


class Contestant(Protocol):
    """One that applies. `form` is that of the topics it reads, None where it reads none; `once`: in one round only."""

    @property
    def name(self) -> str: ...
    @property
    def form(self) -> Form | None: ...
    @property
    def once(self) -> bool: ...

    def applying(self, stage: Stage, task: Task) -> AbstractContextManager[Applying]: ...


def taking_part(appliers: Collection[Contestant]) -> dict[str, bool]:
    """Who does a work, by name: whether in the first round only."""
    return {one.name: one.once for one in appliers}


def timed(stage: Stage, contestant: Contestant, task: Task, shape: Shape, start: Callable[[], None]) -> Cost:
    """What it costs from `start` on until all is visible: who applies is ready then."""
    with contestant.applying(stage, task) as applying:
        meter = stage.meter(applying.service, applying.memory_of)
        applying.begin()
        start()
        wait_for_marks(stage.replica(task.database), shape, applying.look)
        return meter.read()


class Deltasync(NamedTuple):
    """`deltasync run` with the settings that it is shipped with, as one process or several of a group."""

    name: str = "deltasync"
    form: Form = "json"
    workers: int = 1
    once: bool = False

    @contextmanager
    def applying(self, stage: Stage, task: Task) -> Iterator[Applying]:
        own = {"DELTASYNC_KAFKA_TOPIC_PREFIX": task.prefix, "DELTASYNC_SOURCE_SLOT": task.prefix}
        if self.form == "schemas":
            own["DELTASYNC_CONNECT_RAW_TEXT"] = "false"
        env = stage.env(task.prepared.database, task.database, **own)
        run_command(env, "replica", "setup")  # rights on a database do not come with its template
        others = ({"DELTASYNC_MONITOR_URL": f"http://127.0.0.1:{free_ports().monitor}"} for _ in range(1, self.workers))
        with workers(stage, env, *(env | other for other in others)) as processes:

            def look() -> None:
                for process in processes:
                    refuse_ended(process)

            yield Applying(look, processes, processes)


class JdbcSink(NamedTuple):
    """Debezium's sink connector; `more` are settings beside its own minimum, `url` some of its driver's."""

    name: str
    more: Mapping[str, str] = {}
    url: str = ""
    tasks: int = 1
    once: bool = False
    form: Form = "schemas"

    @contextmanager
    def applying(self, stage: Stage, task: Task) -> Iterator[Applying]:
        name = run_name()  # whose group has read nothing yet
        if task.offsets:
            Topics(stage.servers.kafka.bootstrap).begin_at(f"connect-{name}", task.prefix, task.offsets)
        try:
            stage.put(name, self._config(stage, task))
            yield Applying(lambda: stage.refuse_failed(name), memory_of=[stage.servers.connect.process])
        finally:
            stage.delete(name)

    def _config(self, stage: Stage, task: Task) -> dict[str, str]:
        place = conninfo_to_dict(stage.replica(task.database))
        options = f"stringtype=unspecified&options=-c%20synchronous_commit={SYNCHRONOUS_COMMIT}{self.url}"
        return {
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "tasks.max": str(self.tasks),
            "topics.regex": f"{task.prefix}[.]{SCHEMA}[.].*",
            "connection.url": f"jdbc:postgresql://{place['host']}:{place['port']}/{task.database}?{options}",
            "connection.username": str(place["user"]),
            "connection.password": str(place["password"]),
            "insert.mode": "upsert",
            "primary.key.mode": "record_key",
            "delete.enabled": "true",
            "schema.evolution": "none",
            "collection.name.format": SCHEMA + ".${source.table}",
            "key.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "consumer.override.auto.offset.reset": "earliest",
            "consumer.override.metadata.max.age.ms": "5000",
            **self.more,
        }


class LogicalReplication(NamedTuple):
    """A subscription on a copy of a slot, or on a new one; what it does includes decoding the source's log."""

    name: str = "logical replication"
    once: bool = False
    form: Form | None = None

    @contextmanager
    def applying(self, stage: Stage, task: Task) -> Iterator[Applying]:
        slot, source, replica = run_name(), stage.source(task.prepared.database), stage.replica(task.database)
        if task.slot is None:
            stage.execute(source, f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        else:
            stage.copy_slot(task.slot, slot, task.prepared.database)
        make = (
            f"CREATE SUBSCRIPTION {slot} CONNECTION '{make_conninfo(source)}' PUBLICATION {NATIVE}"
            f" WITH (create_slot = false, enabled = false, slot_name = '{slot}', copy_data = false,"
            f" synchronous_commit = {SYNCHRONOUS_COMMIT}, origin = any)"
        )
        try:
            stage.execute(replica, make)
            enable = f"ALTER SUBSCRIPTION {slot} ENABLE"
            yield Applying(lambda: refuse_stopped(replica), begin=lambda: stage.execute(replica, enable))
        finally:
            drop_subscriptions(stage.replica, task.database)
            stage.drop_slot(slot)


def refuse_stopped(replica: str) -> None:
    """Raises PartError where a subscription could not apply what came: it would try the same for ever."""
    query = "SELECT sum(apply_error_count + sync_error_count) > 0 FROM pg_stat_subscription_stats"
    with psycopg.connect(replica) as connection:
        if connection.execute(query).fetchone() == (True,):
            raise PartError("The subscription has failed; the replica's log says why.", remedy="")


_TUNED = {
    "batch.size": "5000",
    "use.reduction.buffer": "true",
    "consumer.override.max.poll.records": "5000",
    "consumer.override.max.partition.fetch.bytes": "16777216",
    "consumer.override.fetch.max.bytes": "67108864",
}
_LARGER = {"batch.size": "10000", "consumer.override.max.poll.records": "10000"}
_REWRITE = "&reWriteBatchedInserts=true"

OURS = Deltasync()
OURS_SCHEMAS = Deltasync("deltasync, schemas", form="schemas")
OURS_TWO = Deltasync("deltasync, 2 workers", workers=2)
NATIVELY = LogicalReplication()
TUNED = JdbcSink("sink, tuned", _TUNED, _REWRITE)
TUNED_LARGER = JdbcSink("sink, tuned, batch 10000", {**_TUNED, **_LARGER}, _REWRITE)
TUNED_3 = JdbcSink("sink, tuned, 3 tasks", _TUNED, _REWRITE, tasks=3)
UNNEST_3 = JdbcSink("sink, UNNEST, 3 tasks", {**_TUNED, "dialect.postgres.unnest.insert.enabled": "true"}, tasks=3)
DEFAULTS = JdbcSink("sink, defaults", once=True)
