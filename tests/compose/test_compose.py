"""`docker compose up`, from nothing to equal databases, and down again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from psycopg import sql
from tests.compose.conftest import PASSWORDS, Compose, docker

UNTIL_TIMEOUT_S = 120
REST_PATHS = (
    "connectors?expand=info&expand=status",
    "connectors/deltasync-source",
    "connectors/deltasync-source/config",
    "connectors/deltasync-source/tasks",
)

pytestmark = pytest.mark.timeout(420)


def _until(stack: Compose, what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + UNTIL_TIMEOUT_S
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {UNTIL_TIMEOUT_S} s: {what}\n{stack.logs('connectors', 'deltasync')}")
        time.sleep(0.5)  # between two looks at what other processes do


def _tables(stack: Compose, side: str) -> dict[str, list[str]]:
    """Every table of the shop, and its rows as text in a fixed order."""
    with stack.connect(side) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'shop' ORDER BY 1").fetchall()
        rows = {}
        for (name,) in names:
            query = sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1").format(sql.Identifier("shop", name))
            rows[name] = [text for (text,) in connection.execute(query)]
        return rows


def _equal(stack: Compose) -> bool:
    return _tables(stack, "SOURCE") == _tables(stack, "REPLICA")


def _on_source(stack: Compose, *statements: str) -> None:
    with stack.connect("SOURCE") as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_refuses_to_start_without_passwords(without_passwords: Compose) -> None:
    refused = without_passwords.run("up", "--detach", check=False)

    assert refused.returncode != 0
    assert "copy .env.example to .env" in refused.stdout + refused.stderr
    assert without_passwords.left_behind() == []


def test_snapshot_and_changes_reach_the_replica(stack: Compose) -> None:
    _until(stack, "the snapshot is on the replica", lambda: _equal(stack))

    _on_source(
        stack,
        "INSERT INTO shop.customer (email, interests) VALUES ('new@example.com', '{\"a,b\",NULL}')",
        "UPDATE shop.purchase SET status = 'returned', total = total + 0.05 WHERE id % 2 = 0",
        "DELETE FROM shop.purchase_line WHERE purchase_id % 5 = 0",
        "UPDATE shop.purchase_line SET line = line + 10 WHERE purchase_id % 7 = 0",
        "CREATE TABLE shop.coupon (code text PRIMARY KEY, percent numeric)",
        "INSERT INTO shop.coupon SELECT 'code ' || n, n / 3.0 FROM generate_series(1, 500) AS n",
    )

    _until(stack, "source and replica are equal", lambda: _equal(stack))
    assert len(_tables(stack, "REPLICA")["coupon"]) == 500


def test_status_is_green(stack: Compose) -> None:
    _until(
        stack,
        "the service's health check passes",
        lambda: docker("inspect", "-f", "{{.State.Health.Status}}", stack.container("deltasync")) == "healthy",
    )

    status = stack.run("run", "--rm", "--no-deps", "-T", "connectors", "status")

    assert "RUNNING" in status.stdout


def test_no_password_shows_in_connect(stack: Compose) -> None:
    """Neither the REST interface nor the topic that holds the configuration knows the password."""
    said = [
        stack.run("exec", "-T", "connect", "curl", "-fsS", f"http://localhost:8083/{path}").stdout
        for path in REST_PATHS
    ]
    consumer = "/opt/kafka/bin/kafka-console-consumer.sh"
    topic = ("--topic", "deltasync-connect-configs", "--from-beginning", "--timeout-ms", "8000")
    said.append(
        stack.run("exec", "-T", "kafka", consumer, "--bootstrap-server", "localhost:9092", *topic, check=False).stdout
    )

    assert all("${file:/dev/shm/source.properties:password}" in text for text in said)
    assert not [name for name in PASSWORDS for text in said if stack.values[name] in text]


def test_the_service_has_few_rights(stack: Compose) -> None:
    inspected = json.loads(docker("inspect", stack.container("deltasync")))[0]

    assert inspected["Config"]["User"] == "10001:10001"
    assert inspected["HostConfig"]["ReadonlyRootfs"]
    assert inspected["HostConfig"]["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in inspected["HostConfig"]["SecurityOpt"]
    assert "ADMIN" not in json.dumps(inspected["Config"]["Env"])


@pytest.mark.parametrize("service", ["source-db", "replica-db", "kafka", "connect", "deltasync"])
def test_ports_are_published_on_loopback_alone(stack: Compose, service: str) -> None:
    published = docker("port", stack.container(service)).splitlines()

    assert [line for line in published if "-> 127.0.0.1:" not in line] == []


def test_changes_survive_a_restart_of_everything(stack: Compose) -> None:
    stack.run("stop", "--timeout=30", "deltasync")
    assert docker("inspect", "-f", "{{.State.ExitCode}}", stack.container("deltasync")) == "0"
    _on_source(stack, "UPDATE shop.customer SET profile = '{\"level\": 9}' WHERE id % 2 = 0")

    stack.run("stop", "--timeout=30")
    stack.run("up", "--detach", timeout_s=300)
    _on_source(stack, "DELETE FROM shop.coupon WHERE percent > 100")

    _until(stack, "source and replica are equal again", lambda: _equal(stack))
    assert len(_tables(stack, "REPLICA")["coupon"]) == 300


def test_down_leaves_nothing(stack: Compose) -> None:
    containers = json.loads(docker("inspect", *stack.containers()))
    volumes = {mount["Name"] for one in containers for mount in one["Mounts"] if mount["Type"] == "volume"}

    stack.run("down", "--volumes", "--timeout=30")

    assert stack.left_behind() == []
    assert volumes & set(docker("volume", "ls", "-q").split()) == set()  # the images' unnamed ones, too
