"""What all tests share: real servers, started once, and a pipeline of its own for each test."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.servers import GIVEN, Addresses, started

from deltasync.settings import Settings

if TYPE_CHECKING:
    from tests.flow import Flow
    from xdist.workermanage import WorkerController  # type: ignore[import-untyped]  # it ships no types

_ADDRESSES = pytest.StashKey[Addresses]()
_servers = ExitStack()
_END_STREAMS = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s AND active"
_DROP_SLOTS = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s"


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


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Start the servers in the process that divides the tests among pytest-xdist's workers, and say where they are."""
    stash = node.config.stash
    if _ADDRESSES not in stash:
        stash[_ADDRESSES] = _servers.enter_context(started())
    node.workerinput["servers"] = asdict(stash[_ADDRESSES])


def pytest_unconfigure() -> None:
    _servers.close()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Addresses:
    """Where the servers are, which are started once, whatever the number of processes that run tests."""
    told = getattr(request.config, "workerinput", None)
    return _servers.enter_context(started()) if told is None else Addresses(**told["servers"])


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


def _drop_database(admin: str, database: str, role: str) -> None:
    """Drop a database with its slots. A connector that was deleted may make its slot once more before it ends."""
    name = sql.Identifier(database)
    deadline = time.monotonic() + 10
    with psycopg.connect(admin, autocommit=True) as connection:
        while True:
            try:
                connection.execute(_END_STREAMS, [database])
                connection.execute(_DROP_SLOTS, [database])
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
                break
            except psycopg.errors.ObjectInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
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
