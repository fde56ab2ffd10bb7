"""The servers that all contestants share, and what is asked of them."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
from psycopg import sql

from bench import sink_plugin
from bench.meter import Meter
from bench.shapes import Shape, is_marked
from deltasync.errors import PartError, UnreachableError
from deltasync.local import jars
from deltasync.local import state as states
from deltasync.local.process import Process
from deltasync.local.servers import Servers, stop
from deltasync.local.stack import environment

EVERY_S = 0.02
# The sink with its defaults takes minutes for what others do in seconds.
TIMEOUT_S = 1800.0
# Of every writer of every contestant: all of them can repeat what a crash of the replica would lose.
SYNCHRONOUS_COMMIT = "off"
# What the sink needs at its best, which has a queue of rows of its own; both connectors run in one worker.
# On SIGQUIT it collects all garbage and gives back what is free: else memory would be that of earlier runs.
_JAVA = ("-Xmx4g", "-XX:+PrintClassHistogram", "-XX:-ShrinkHeapInSteps")
_COLLECTED = "\nTotal "
# More than the largest work writes, else its slot is lost before it is read.
_KEEP_WAL = "ALTER SYSTEM SET max_slot_wal_keep_size = '-1'"
# Processes of `deltasync run`; the first is one of a stack's own parts.
WORKERS = ("applier", "applier-2")
# All that is made for one run and goes with it is called so.
_RUN = "bench_"
_OTHERS = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' AND datname <> ALL(%s)"


class Stage:
    """An embedded stack in `folder` (whose lock the caller holds) whose Connect has the JDBC sink, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = states.load_or_make(folder)
        self.servers = Servers(folder, self.state)
        self.servers.connect.java_options = [*_JAVA]
        self.servers.connect.extra = {
            "plugin.path": f"{jars.ensure().plugins},{sink_plugin.ensure()}",
            "connector.client.config.override.policy": "All",
        }

    def start(self) -> None:
        """Start the servers. Raises PartError."""
        self.servers.start()
        self.servers.connect.wait()
        self.servers.connect.keep_secret("source", self.state.source_password)
        self.execute(self.servers.source.dsn(), _KEEP_WAL, "SELECT pg_reload_conf()")

    def close(self) -> None:
        """End the servers and remove their data."""
        stop(self.folder, [*states.PARTS, *WORKERS], at_once=True)
        states.remove(self.folder)

    def refuse_dead_servers(self) -> None:
        """Raises UnreachableError where one has ended: nothing can be measured any more."""
        for part in self.servers.parts:
            if part.process.find() is None:
                raise UnreachableError(
                    f"The server {part.process.name} has ended. {part.process.tail()}",
                    remedy="See whether its memory or the disk was full; run the bench again with a new stage.",
                )

    def source(self, database: str) -> str:
        return self.servers.source.dsn(database)

    def replica(self, database: str) -> str:
        return self.servers.replica.dsn(database)

    def env(self, source_db: str, replica_db: str, **more: str) -> dict[str, str]:
        """The settings of a pipeline between two databases."""
        own = {
            "DELTASYNC_PIPELINE": source_db,
            "DELTASYNC_REPLICA_SYNCHRONOUS_COMMIT": SYNCHRONOUS_COMMIT,
            "DELTASYNC_CONNECT_RESTART_FAILED_TASKS": "false",
        }
        return environment(self.servers, self.state, source_db, replica_db) | own | more

    def meter(self, service: Collection[Process] = (), memory_of: Collection[Process] = ()) -> Meter:
        """What measures all parts from now on; `service` are the processes of ours."""
        servers = self.servers
        parts = {
            "service": [*service],
            "replica": [servers.replica.process],
            "source": [servers.source.process],
            "broker": [servers.kafka.process],
            "connect": [servers.connect.process],
        }
        return Meter(parts, memory_of)

    def execute(self, dsn: str, *statements: str) -> None:
        """Run statements, each of which may be several, in autocommit."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in filter(None, statements):
                connection.execute(statement.encode())

    @contextmanager
    def replica_copy(self, template: str) -> Iterator[str]:
        """A database of the replica like another one; dropped at the end."""
        name = run_name()
        make = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        admin = self.servers.replica.dsn()
        self.execute(admin, make.format(sql.Identifier(name), sql.Identifier(template)).as_string(), "CHECKPOINT")
        try:
            yield name
        finally:
            drop_database(self.replica, name)

    def tidy(self, known: Collection[str]) -> None:
        """Remove what a run that was killed has left: all but the databases in `known` and the slots of these."""
        for name in WORKERS:
            Process(name, self.folder).stop(signal.SIGTERM)
        for name in httpx.get(f"{self.servers.connect.url}/connectors", timeout=30).json():
            self.delete(name)
        # A subscription holds its slot, and a slot its database.
        _drop_others(self.replica, known)
        for slot in self.slots():
            if slot.removesuffix("_changes") not in known:
                self.drop_slot(slot)
        _drop_others(self.source, known)

    def collect_garbage(self) -> None:
        """Have Connect begin with a small heap. Raises PartError where it does not answer."""
        process = self.servers.connect.process
        size, running = process.log.stat().st_size, process.find()
        if running is None:
            return
        running.send_signal(signal.SIGQUIT)

        def is_collected() -> bool:
            with process.log.open(encoding="utf-8", errors="replace") as log:
                log.seek(size)
                return _COLLECTED in log.read()

        until(is_collected, "Connect has collected its garbage", 60)

    # Slots

    def slots(self) -> list[str]:
        with psycopg.connect(self.servers.source.dsn()) as source:
            return [str(name) for (name,) in source.execute("SELECT slot_name FROM pg_replication_slots").fetchall()]

    def drop_slot(self, slot: str) -> None:
        """Drop a slot of the source, once whoever reads it has let go of it; none is fine."""
        query = f"SELECT pg_drop_replication_slot('{slot}') FROM pg_replication_slots WHERE slot_name = '{slot}'"

        def dropped() -> bool:
            try:
                self.execute(self.servers.source.dsn(), query)
            except psycopg.errors.ObjectInUse:
                return False
            return True

        until(dropped, f"the slot {slot} is free", 60)

    def copy_slot(self, slot: str, name: str, database: str) -> None:
        self.execute(self.source(database), f"SELECT pg_copy_logical_replication_slot('{slot}', '{name}')")

    def wait_for_slot(self, slot: str, condition: str, look: Callable[[], None] = lambda: None) -> None:
        """Return when what pg_replication_slots tells of a slot is so; `look` is called meanwhile."""
        query = f"SELECT FROM pg_replication_slots WHERE slot_name = '{slot}' AND {condition}"
        with psycopg.connect(self.servers.source.dsn(), autocommit=True) as source:

            def is_so() -> bool:
                look()
                return source.execute(query.encode()).fetchone() is not None

            until(is_so, f"{slot}: {condition}")

    # Connect

    def put(self, name: str, config: Mapping[str, str]) -> None:
        """Make a connector, and return when its tasks run. Raises PartError where one fails."""
        url = f"{self.servers.connect.url}/connectors/{name}/config"
        until(lambda: httpx.put(url, json=dict(config), timeout=60).is_success, f"{name} is taken", 60)
        wanted = ["RUNNING"] * int(config.get("tasks.max", "1"))
        until(lambda: self._tasks(name) == wanted, f"{name} runs", 120)

    def refuse_failed(self, name: str) -> None:
        """Raises PartError where a task of a connector has failed."""
        self._tasks(name)

    def _tasks(self, name: str) -> list[str]:
        status = httpx.get(f"{self.servers.connect.url}/connectors/{name}/status", timeout=30).json()
        tasks = status.get("tasks", [])
        for task in tasks:
            if task["state"] == "FAILED":
                raise PartError(f"{name} failed: {_causes(task['trace'])}", remedy="")
        return [task["state"] for task in tasks]

    def delete(self, name: str) -> None:
        """Delete a connector; none is fine."""
        gone = (httpx.codes.NO_CONTENT, httpx.codes.NOT_FOUND)
        url = f"{self.servers.connect.url}/connectors/{name}"
        until(lambda: httpx.delete(url, timeout=60).status_code in gone, f"{name} is deleted", 60)


def run_name() -> str:
    """A name that no run has had: of a database, a slot, a connector, a prefix of topics."""
    return f"{_RUN}{secrets.token_hex(4)}"


def _drop_others(dsn: Callable[[str], str], known: Collection[str]) -> None:
    with psycopg.connect(dsn("postgres"), autocommit=True) as connection:
        names = connection.execute(_OTHERS, [[*known]]).fetchall()
    for (name,) in names:
        drop_database(dsn, name)


def drop_database(dsn: Callable[[str], str], name: str) -> None:
    """Drop a database with its subscriptions, which would keep it."""
    drop_subscriptions(dsn, name)
    with psycopg.connect(dsn("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def drop_subscriptions(dsn: Callable[[str], str], name: str) -> None:
    """Drop the subscriptions of a database, and leave their slots alone."""
    with psycopg.connect(dsn("postgres"), autocommit=True) as connection:
        query = "SELECT subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = %s"
        for (subscription,) in connection.execute(query, [name]).fetchall():
            with psycopg.connect(dsn(name), autocommit=True) as inside:
                for what in ("DISABLE", "SET (slot_name = NONE)"):
                    inside.execute(f"ALTER SUBSCRIPTION {subscription} {what}".encode())
                inside.execute(f"DROP SUBSCRIPTION {subscription}".encode())


def until(done: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Return when it is so. Raises PartError after the time-out."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise PartError(f"Not so after {timeout_s:.0f} s: {what}.", remedy="")
        time.sleep(EVERY_S)


def wait_for_marks(dsn: str, shape: Shape, look: Callable[[], None]) -> None:
    """Return when the last row of each table is visible; `look` is called every second. Raises PartError."""
    looked = time.monotonic()
    with psycopg.connect(dsn, autocommit=True) as connection:

        def is_seen(table: str) -> bool:
            nonlocal looked
            if time.monotonic() - looked > 1:
                looked = time.monotonic()
                look()
            return connection.execute(is_marked(table).encode()).fetchone() is not None

        for table in shape.tables:
            until(lambda table=table: is_seen(table), f"all of {table} is applied")  # type: ignore[misc]


def _causes(trace: str) -> str:
    """The last cause in a stack trace of Java, which says most."""
    lines = [line for line in trace.splitlines() if line and not line.startswith(("\t", " "))]
    return lines[-1][:600] if lines else "no reason is told"
