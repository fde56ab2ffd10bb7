"""What the service says of itself on real parts: readiness, lag, waiting, the ledger by hand."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flow import Flow, until

from deltasync import __version__

SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.item (id int PRIMARY KEY, name text);
    CREATE TABLE shop.other (id int PRIMARY KEY, name text);
    INSERT INTO shop.item SELECT n, 'item ' || n FROM generate_series(1, 100) n;
    INSERT INTO shop.other VALUES (1, 'one');
"""
NOTICED_WITHIN_S = 15


@pytest.fixture
def shop(flow: Flow) -> Flow:
    """A pipeline that runs, its monitor at a known port; the first record that fails stops its partition."""
    _take_port(flow)
    flow.env["DELTASYNC_PARKING_FAILED_MAX"] = "0"
    flow.set_up(SCHEMA)
    flow.start_worker()
    flow.wait_equal("shop.item", "shop.other")
    return flow


@pytest.fixture
def blind(shop: Flow, tmp_path: Path) -> Iterator[Flow]:
    """A second worker, which knows the addresses of Kafka and of the replica only."""
    folder = tmp_path / "blind"
    folder.mkdir()
    flow = Flow(shop.pipeline, folder)
    _take_port(flow)
    for name in ("SOURCE_DSN", "SOURCE_ADMIN_DSN", "CONNECT_URL", "CONNECT_SOURCE_PASSWORD"):
        del flow.env[f"DELTASYNC_{name}"]
    worker = flow.start_worker()
    until(lambda: worker.said("monitor answers"), "the second worker's monitor")
    yield flow
    flow.close()


def _take_port(flow: Flow) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        flow.env["DELTASYNC_MONITOR_URL"] = f"http://127.0.0.1:{free.getsockname()[1]}"


def reasons(flow: Flow) -> str:
    """What /readyz gives as reasons, "" where it answers 200."""
    answer = flow.monitor("/readyz")
    body = answer.json()
    assert (answer.status_code == 200) == body["ready"] == (not body["reasons"])
    assert all(set(reason) == {"what", "why", "remedy"} and all(reason.values()) for reason in body["reasons"])
    return "\n".join(f"{reason['what']} {reason['why']}" for reason in body["reasons"])


def until_ready(flow: Flow) -> None:
    until(lambda: reasons(flow) == "", "ready")


def until_reason(flow: Flow, pattern: str, deadline_s: float = NOTICED_WITHIN_S) -> None:
    until(lambda: re.search(pattern, reasons(flow)), f"a reason like {pattern}", deadline_s)


def test_a_dropped_publication_is_noticed(shop: Flow, blind: Flow) -> None:
    """Connect goes on saying RUNNING; the canary and, where it can be asked, the source say otherwise."""
    until_ready(shop)
    until_ready(blind)
    shop.source.execute(f"DROP PUBLICATION {shop.settings.publication}")
    dropped = time.monotonic()
    until_reason(shop, r"publication is missing on the source")
    until_reason(blind, r"canary on the replica is 1\d s old", NOTICED_WITHIN_S - (time.monotonic() - dropped))


def test_a_stopped_table_is_named_until_the_ledger_is_moved(shop: Flow) -> None:
    """A record that the replica refuses stops its partition; moved by hand, the running worker goes on."""
    until_ready(shop)
    shop.replica.execute("ALTER TABLE shop.item ADD CONSTRAINT short CHECK (length(name) < 20)")
    shop.source.execute("INSERT INTO shop.item VALUES (1000, repeat('secret', 10))")
    until_reason(shop, r"shop\.item\[0\] is stopped.*short")
    assert "secret" not in reasons(shop)
    shop.source.execute("INSERT INTO shop.item VALUES (1001, 'next'); INSERT INTO shop.other VALUES (2, 'goes on')")
    shop.wait_equal("shop.other")

    behind = json.loads(shop.cli("wait", "--timeout", "3", "--json", code=1))["behind"]
    topic = f"{shop.settings.topic_prefix}.shop.item"
    assert behind == [{"topic": topic, "partition": 0, "next_offset": 100, "end_offset": 102, "records": 2}]
    assert "without a reason" in shop.cli("ledger", "set", "shop.item", "0", "101", "--reason", " ", code=1)
    assert "not 103" in shop.cli("ledger", "set", "shop.item", "0", "103", "--reason", "a test", code=1)
    assert "no partition" in shop.cli("ledger", "set", "shop.none", "0", "0", "--reason", "a test", code=1)

    shop.cli("ledger", "set", "shop.item", "0", "101", "--reason", "that row is not wanted")
    new = "SELECT id FROM shop.item WHERE id >= 1000"
    until(lambda: shop.replica.execute(new).fetchall() == [(1001,)], "the next row", 10)
    until_ready(shop)
    audit = "SELECT old_next_offset, new_next_offset, reason FROM deltasync.ledger_audit"
    assert shop.replica.execute(audit).fetchall() == [(100, 101, "that row is not wanted")]


def test_wait_returns_when_all_is_visible(shop: Flow) -> None:
    """It really waits: a worker that stands still makes it fail, and going on makes it succeed."""
    shop.cli("wait", "--timeout", "30")
    worker = shop.workers[0]
    worker.signal(signal.SIGSTOP)
    shop.source.execute("SET synchronous_commit = off; INSERT INTO shop.item VALUES (2000, 'late')")
    said = shop.cli("wait", "--timeout", "4", code=1)
    assert re.search(r"shop\.item\[0\]: 1 records behind, at 100 of 101", said)
    worker.signal(signal.SIGCONT)
    waited = json.loads(shop.cli("wait", "--timeout", "40", "--json"))
    assert (waited["complete"], waited["as_far_as"]) == (True, "source")
    assert shop.replica.execute("SELECT name FROM shop.item WHERE id = 2000").fetchall() == [("late",)]

    shop.cli("connectors", "pause")
    until(lambda: "paused" in shop.cli("connectors", "status"), "the connector paused")
    shop.source.execute("INSERT INTO shop.item VALUES (2001, 'later')")
    assert re.search("does not move on.*is paused", shop.cli("wait", "--timeout", "3", code=1))
    del shop.env["DELTASYNC_SOURCE_DSN"], shop.env["DELTASYNC_SOURCE_ADMIN_DSN"]
    assert "as far as Kafka holds" in shop.cli("wait", "--timeout", "10")


def test_lag_in_figures(shop: Flow) -> None:
    shop.cli("wait")
    level = json.loads(shop.cli("lag", "--json"))
    assert set(level) == {"total", "tables", "partitions", "slot"}
    assert level["total"]["records"] == 0
    assert level["total"]["seconds"] < 3
    assert [(one["table"], one["records"], one["state"]) for one in level["tables"]] == [
        ("shop.item", 0, "level"),
        ("shop.other", 0, "level"),
    ]
    assert sum(one["control"] for one in level["partitions"]) == 2
    assert (level["slot"]["wal_status"], level["slot"]["active"]) == ("reserved", True)

    shop.workers[0].signal(signal.SIGSTOP)
    shop.source.execute("UPDATE shop.item SET name = name")
    shop.cli("wait", "--timeout", "3", code=1)
    behind = json.loads(shop.cli("lag", "--json"))
    assert behind["total"]["records"] == behind["tables"][0]["records"] == 100
    assert behind["tables"][0]["seconds"] > 2
    assert "100 records" in shop.cli("lag")
    shop.workers[0].signal(signal.SIGCONT)

    shop.env["DELTASYNC_SOURCE_DSN"] = "postgresql://nobody@127.0.0.1:1/none"
    assert json.loads(shop.cli("lag", "--json"))["slot"] is None
    shop.env["DELTASYNC_REPLICA_DSN"] = "postgresql://nobody@127.0.0.1:1/none"
    assert "does not answer" in json.loads(shop.cli("lag", "--json", code=3))["error"]
    assert "does not answer" in shop.cli("lag", code=3)


def test_metrics(shop: Flow) -> None:
    """The names that dashboards rely on, and a description for each of ours."""
    until_ready(shop)
    text = shop.monitor("/metrics").text
    topic = f"{shop.settings.topic_prefix}.shop.item"
    for name in ("lag", "offset", "lag_seconds"):
        labels = f'group="{shop.settings.group}",partition="0",topic="{topic}"'
        assert f"kafka_consumergroup_group_{name}{{{labels}}}" in text
    assert "deltasync_ready 1.0" in text
    assert 0 <= float(re.findall(r"^deltasync_canary_age_seconds (\S+)", text, re.MULTILINE)[0]) < 10
    assert f'deltasync_build_info{{version="{__version__}"}} 1.0' in text
    assert re.findall(r"^# HELP (\S+) *$", text, re.MULTILINE) == []
    assert shop.monitor("/healthz").json() == {"alive": True}
