"""`deltasync connectors` on a real Connect worker and a real source."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flow import Flow, until

from deltasync.connect.apply import find_status
from deltasync.connect.client import ConnectClient, is_streaming
from deltasync.connect.status import Condition
from deltasync.connect.supervise import Supervisor, Verdict
from deltasync.connect.template import shipped
from deltasync.source.setup import setup as source_setup

SHOP = (
    "CREATE SCHEMA shop; CREATE TABLE shop.item (id int PRIMARY KEY, name text); INSERT INTO shop.item VALUES (1, 'a')"
)


@pytest.fixture
def source(flow: Flow) -> Flow:
    """A source that is set up, and no connector yet."""
    flow.source.execute(SHOP)
    source_setup(flow.settings)
    return flow


@pytest.fixture
def client(source: Flow) -> Iterator[ConnectClient]:
    with ConnectClient(source.settings.connect.url or "") as found:
        yield found


def own_file(folder: Path, **changes: str) -> str:
    document = json.loads(shipped().read_text())
    document["config"] |= {key.replace("__", "."): value for key, value in changes.items()}
    file = folder / "mine.json"
    file.write_text(json.dumps(document))
    return str(file)


def condition(client: ConnectClient, name: str) -> Condition | None:
    status = find_status(client, name)
    return status.condition if status else None


def streams(flow: Flow) -> int | None:
    """The process on the source that streams to the connector."""
    query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND active"
    found = flow.source.execute(query, [flow.settings.slot]).fetchone()
    return found[0] if found else None


def drop_slot(flow: Flow) -> None:
    until(lambda: not streams(flow), "the slot is released")
    flow.source.execute("SELECT pg_drop_replication_slot(%s)", [flow.settings.slot])


def test_connector_is_created_left_alone_and_changed(source: Flow, client: ConnectClient, tmp_path: Path) -> None:
    assert f"{source.connector}: create" in source.cli("connectors", "plan", code=1)
    assert "running" in source.cli("connectors", "apply")
    until(lambda: is_streaming(client.offsets(source.connector)), "its snapshot is complete")
    assert "snapshot.mode: initial → no_data" in source.cli("connectors", "plan", code=1)
    source.cli("connectors", "apply")
    assert f"{source.connector}: unchanged" in source.cli("connectors", "apply")

    mine = own_file(tmp_path, poll__interval__ms="20")
    assert "poll.interval.ms: 10 → 20" in source.cli("connectors", "plan", "--file", mine, code=1)
    source.cli("connectors", "apply", "--file", mine)
    shown = json.loads(source.cli("connectors", "show"))
    assert shown["config"]["poll.interval.ms"] == "20"
    assert shown["config"]["database.password"] == source.settings.connect.source_password
    assert [found["name"] for found in json.loads(source.cli("connectors", "list", "--json"))].count(
        source.connector
    ) == 1


def test_what_connect_refuses_changes_nothing(source: Flow, client: ConnectClient, tmp_path: Path) -> None:
    source.env["DELTASYNC_CONNECT_SOURCE_USER"] = "stranger"
    said = source.cli("connectors", "apply", code=1)
    assert 'password authentication failed for user "stranger"' in " ".join(said.split())
    del source.env["DELTASYNC_CONNECT_SOURCE_USER"]
    said = source.cli("connectors", "apply", "--file", own_file(tmp_path, max__batch__size="many"), code=1)
    assert "max.batch.size" in said
    assert condition(client, source.connector) is None


def test_failed_task_is_told_with_remedy_and_restarted(source: Flow) -> None:
    source.source.execute(f"DROP PUBLICATION {source.settings.publication}")
    for command in ("apply", "status"):
        said = " ".join(source.cli("connectors", command, code=1).split())
        assert "Publication autocreation is disabled" in said
        assert "deltasync source setup" in said
    (report,) = json.loads(source.cli("connectors", "status", "--json", code=1))
    assert (report["condition"], report["failures"][0]["part"]) == ("failed", "task 0")
    source_setup(source.settings)
    assert "running" in source.cli("connectors", "restart")


def test_pause_resume_and_delete_in_the_order_that_works(source: Flow, client: ConnectClient) -> None:
    source.cli("connectors", "apply")
    source.cli("connectors", "pause")
    until(lambda: condition(client, source.connector) is Condition.PAUSED, "paused")
    assert "paused" in source.cli("connectors", "apply")
    source.cli("connectors", "resume")
    until(lambda: condition(client, source.connector) is Condition.RUNNING, "running")

    until(lambda: client.offsets(source.connector), "offsets are stored")
    drop = f"SELECT pg_drop_replication_slot('{source.settings.slot}')"
    assert drop in source.cli("connectors", "delete", source.connector)
    drop_slot(source)
    said = " ".join(source.cli("connectors", "apply", code=1).split())
    assert "no longer available on the server" in said
    assert "deltasync recover" in said

    said = source.cli("connectors", "delete", source.connector, "--reset-offsets")
    assert f"The source has no slot {source.settings.slot}." in said
    assert condition(client, source.connector) is None
    assert "running" in source.cli("connectors", "apply")
    for name in ("DSN", "ADMIN_DSN"):
        source.env[f"DELTASYNC_SOURCE_{name}"] = "postgresql://nobody@127.0.0.1:1/none"
    said = source.cli("connectors", "delete", source.connector)
    assert f"If there is a slot {source.settings.slot} on the source" in said
    assert drop in said
    source.cli("connectors", "status", "nobody", code=1)


def test_supervisor_restarts_what_passes_and_leaves_what_does_not(
    source: Flow, client: ConnectClient, tmp_path: Path
) -> None:
    source.cli("connectors", "apply", "--file", own_file(tmp_path, errors__max__retries="0"))
    until(lambda: streams(source), "the connector streams")
    until(lambda: is_streaming(client.offsets(source.connector)), "that is stored")
    supervisor, first = Supervisor(client, [source.connector]), streams(source)
    (action,) = supervisor.check(time.monotonic())
    assert action.verdict is Verdict.SETTLED
    assert client.config(source.connector)["snapshot.mode"] == "no_data"
    until(lambda: streams(source) not in (None, first), "it streams on")
    assert supervisor.check(time.monotonic()) == []

    terminate = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active"

    def fails() -> bool:
        """Once more: a task that was just put in place of another one may begin after the first try."""
        source.source.execute(terminate, [source.settings.slot])
        return condition(client, source.connector) is Condition.FAILED

    until(fails, "the task fails")
    (action,) = supervisor.check(time.monotonic())
    assert (action.verdict, action.attempt, supervisor.restarts) == (Verdict.RESTARTED, 1, 1), action.reason
    until(lambda: condition(client, source.connector) is Condition.RUNNING and streams(source), "it streams again")

    client.stop(source.connector)
    drop_slot(source)
    client.resume(source.connector)
    until(lambda: condition(client, source.connector) is Condition.FAILED, "the task misses its slot")
    (action,) = supervisor.check(time.monotonic() + 60)
    assert (action.verdict, supervisor.restarts) == (Verdict.LEFT, 1)
    assert "deltasync recover" in action.remedy
    assert supervisor.check(time.monotonic() + 120) == []
