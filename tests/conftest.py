"""What all tests share: real servers, started once, and a pipeline of its own for each test."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from deltasync.local import state as states
from deltasync.local.servers import Servers, stop
from deltasync.settings import Settings

if TYPE_CHECKING:
    from tests.flow import Flow

GIVEN = "DELTASYNC_TEST_"
_NAMES = (
    "SOURCE_ADMIN_DSN",
    "REPLICA_ADMIN_DSN",
    "KAFKA_BOOTSTRAP",
    "CONNECT_URL",
    "ROLE_PASSWORD",
    "CONNECT_SOURCE_PASSWORD",
)
_FOLDERS = "deltasync-test-"


@dataclass(frozen=True)
class Addresses:
    """Servers to test on: superusers' connection strings, Kafka and Connect.

    All roles that tests create have the same password, so that Connect can know it beforehand:
    `connect_source` holds the settings `[connect] source_...`, the reference to that password among them.
    `embedded` starts and ends single parts of the servers; None where they are not ours.
    """

    source_admin: str
    replica_admin: str
    kafka: str
    connect: str
    role_password: str
    connect_source: dict[str, str]
    embedded: Servers | None = None


@dataclass(frozen=True)
class Pipeline:
    """A source and a replica database, empty and of this test alone, and names that nobody else uses.

    `settings` are for code under test, `env` the same as `DELTASYNC_*` for subprocesses.
    The service's roles do not exist yet: `source setup` and `replica setup` create them.
    """

    name: str
    settings: Settings
    env: dict[str, str]
    source_admin: str
    replica_admin: str


def pytest_sessionstart() -> None:
    # A stack that the developer works with must not leak into the tests, nor they into it.
    for name in [n for n in os.environ if n.startswith("DELTASYNC_") and not n.startswith(GIVEN)]:
        del os.environ[name]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section(f"NOT RUN on this machine: {len(skipped)} skipped", red=True, bold=True)
        for report in skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            terminalreporter.line(f"{report.nodeid}: {reason}")


@pytest.fixture(scope="session")
def servers() -> Iterator[Addresses]:
    """Embedded servers, containers, or what `DELTASYNC_TEST_*` name."""
    given = {name: os.environ[GIVEN + name] for name in _NAMES if GIVEN + name in os.environ}
    match os.environ.get(f"{GIVEN}ENGINE", "given" if given else "embedded"):
        case "embedded":
            with _embedded() as found:
                yield found
        case "containers":
            from tests.containers import started  # noqa: PLC0415 - it needs this module

            with started() as found:
                yield found
        case "given":
            yield _given(given)
        case other:
            pytest.fail(f"{GIVEN}ENGINE is embedded, containers or given, not {other}.")


def _given(values: dict[str, str]) -> Addresses:
    missing = [GIVEN + name for name in _NAMES if name not in values]
    if missing:
        pytest.fail(f"The servers to test on are named in part only: set {', '.join(missing)} as well.")
    # Where Connect sees the source elsewhere than we do.
    place = {f"source_{name}": os.environ.get(f"{GIVEN}CONNECT_SOURCE_{name.upper()}") for name in ("host", "port")}
    return Addresses(
        source_admin=values["SOURCE_ADMIN_DSN"],
        replica_admin=values["REPLICA_ADMIN_DSN"],
        kafka=values["KAFKA_BOOTSTRAP"],
        connect=values["CONNECT_URL"],
        role_password=values["ROLE_PASSWORD"],
        connect_source={
            "source_password": values["CONNECT_SOURCE_PASSWORD"],
            **{name: value for name, value in place.items() if value},
        },
    )


@contextmanager
def _embedded() -> Iterator[Addresses]:
    _end_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_FOLDERS))
    folder.chmod(0o711)
    with states.locked(folder):
        found = Servers(folder, states.load_or_make(folder))
        try:
            found.start()
            found.connect.wait()
            password = secrets.token_hex(8)
            reference = found.connect.keep_secret("tests", password)
            yield Addresses(
                source_admin=found.source.dsn(),
                replica_admin=found.replica.dsn(),
                kafka=found.kafka.bootstrap,
                connect=found.connect.url,
                role_password=password,
                connect_source={"source_password": reference},
                embedded=found,
            )
        finally:
            stop(folder, states.PARTS, at_once=True)
            states.remove(folder)


def _end_abandoned() -> None:
    """End the servers of sessions that were killed: nobody holds their lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        with suppress(OSError), (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stop(folder, states.PARTS, at_once=True)
            states.remove(folder)


@pytest.fixture
def pipeline(servers: Addresses) -> Iterator[Pipeline]:
    """Databases, roles, topics and a connector's name of this test's own, removed after it."""
    name = f"t_{secrets.token_hex(5)}"
    source_admin, replica_admin = (
        _new_database(admin, name) for admin in (servers.source_admin, servers.replica_admin)
    )
    source, replica = (
        make_conninfo(dsn, user=name, password=servers.role_password) for dsn in (source_admin, replica_admin)
    )
    settings = {
        "pipeline": name,
        "unavailable_value": f"unavailable_{secrets.token_hex(12)}",
        "source": {"dsn": source, "admin_dsn": source_admin, "schemas": ("shop",)},
        "replica": {"dsn": replica, "admin_dsn": replica_admin},
        "kafka": {"bootstrap": servers.kafka},
        "connect": {"url": servers.connect, **servers.connect_source},
        "monitor": {"url": "http://127.0.0.1:0"},
    }
    yield Pipeline(name, Settings.model_validate(settings), _environment(settings), source_admin, replica_admin)
    _remove_connector(servers.connect, f"{name}-source")
    _drop_slots(source_admin, name)
    for admin, database in ((servers.source_admin, source_admin), (servers.replica_admin, replica_admin)):
        _drop_database(admin, str(conninfo_to_dict(database)["dbname"]), role=name)
    _drop_topics(servers.kafka, name)


def _environment(settings: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in settings.items():
        entries = {f"{name}_{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
        for key, inner in entries.items():
            found[f"DELTASYNC_{key}".upper()] = inner if isinstance(inner, str) else json.dumps(inner)
    return found


def _new_database(admin: str, name: str) -> str:
    with psycopg.connect(admin, autocommit=True) as connection:
        # Source and replica may be databases of one server.
        taken = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
        database = name if taken is None else f"{name}_replica"
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    return make_conninfo(admin, dbname=database)


def _drop_slots(admin: str, name: str) -> None:
    """Drop the slots of a database; whoever streams from one is disconnected."""
    with psycopg.connect(admin, autocommit=True) as connection:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                " WHERE database = current_database() AND active"
            )
            try:
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                    " WHERE database = current_database()"
                )
            except psycopg.errors.ObjectInUse:
                time.sleep(0.05)
                continue
            return
    pytest.fail(f"The slots of the database {name} stay in use.")


def _drop_database(admin: str, database: str, role: str) -> None:
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
        with suppress(psycopg.errors.DependentObjectsStillExist):
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def _remove_connector(connect: str, name: str) -> None:
    with httpx.Client(base_url=connect, timeout=30) as client:
        if client.get(f"/connectors/{name}").status_code == httpx.codes.OK:
            client.delete(f"/connectors/{name}")


def _drop_topics(bootstrap: str, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topics = [topic for topic in admin.list_topics(timeout=10).topics if prefix in topic.split(".")]
    if topics:
        for future in admin.delete_topics(topics).values():
            future.result(timeout=10)


@pytest.fixture
def flow(pipeline: Pipeline, tmp_path: Path) -> Iterator[Flow]:
    """A pipeline to set up and run; its workers end with the test."""
    from tests.flow import Flow  # noqa: PLC0415 - it needs this module

    found = Flow(pipeline, tmp_path)
    yield found
    found.close()
