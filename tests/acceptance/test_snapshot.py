"""`deltasync snapshot` on real parts: Debezium reads rows again while the source is written to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx
import psycopg
import pytest
from tests.flow import Flow, until

from deltasync.errors import RefusedError
from deltasync.incremental import run, signals
from deltasync.incremental.reading import State
from deltasync.source.setup import setup as source_setup

SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.orders (id int PRIMARY KEY, total numeric, day date, big text);
    ALTER TABLE shop.orders ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE shop.orders REPLICA IDENTITY FULL;
    CREATE TABLE shop.large (id int PRIMARY KEY, v text); ALTER TABLE shop.large ALTER v SET STORAGE EXTERNAL;
    INSERT INTO shop.large VALUES (1, repeat('l', 3000));
    CREATE TABLE shop.items (a uuid, b text, n int, PRIMARY KEY (b, a));
    CREATE TABLE shop.days (day date PRIMARY KEY);
    CREATE TABLE shop.old (id int PRIMARY KEY, day date);
    INSERT INTO shop.old VALUES (1, '0044-03-15 BC'), (2, '-infinity');
    INSERT INTO shop.orders SELECT n, n, 'today', repeat('b', 3000) FROM generate_series(1, 3000) n;
    INSERT INTO shop.items SELECT md5(n::text)::uuid, n % 7, n % 5 FROM generate_series(1, 2000) n;
"""
# More than is read, two rows a chunk, while it is looked at.
MANY = """
    INSERT INTO shop.orders SELECT n, n, 'today', 'b' FROM generate_series(3001, 60000) n;
    INSERT INTO shop.items SELECT md5(n::text)::uuid, n % 7, n % 5 FROM generate_series(2001, 60000) n;
"""
DAMAGE = """
    DELETE FROM shop.orders WHERE id % 3 = 0; UPDATE shop.orders SET total = -1, big = NULL WHERE id % 7 = 0;
    DELETE FROM shop.items;
"""


REFUSED = (
    ("shop.orders", "n = 1", 'The source refuses --where for shop.orders: column "n" does not exist'),
    ("shop.orders", "true); DROP TABLE shop.orders; --", "The source refuses --where"),
    ("shop.orders", "big ? 'a'", r"has a \?"),
    ("shop.days", None, r"shop.days: Debezium does not read exactly by a key of such a type \(day date\)"),
    ("shop.large", None, "Large values of shop.large do not travel"),
    ("shop.old", "id < 2", "Dates from before 1582-10-15 would arrive as other ones: shop.old has some"),
)


@contextmanager
def load(flow: Flow) -> Iterator[None]:
    """Write to the source until the block ends, to rows that are there on the replica, too."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(flow.pipeline.source_admin, autocommit=True) as source:
            for turn in range(100_000):
                if stop.wait(0.005):
                    return
                key = turn * 37 % 3000 + 1
                source.execute("UPDATE shop.orders SET total = total + 1 WHERE id = %s AND id %% 3 > 0", [key])
                source.execute("DELETE FROM shop.orders WHERE id = %s", [key + 1])
                source.execute("INSERT INTO shop.orders VALUES (%s, 0, 'today', 'new')", [key + 1])
                source.execute("UPDATE shop.orders SET id = -id WHERE id = %s AND id %% 3 > 0", [key + 2])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Started:
    """`deltasync snapshot start`, as a process of its own; killed where it did not end by the end of the block."""

    def __init__(self, flow: Flow, *arguments: str) -> None:
        self._log = flow.folder / "snapshot.log"
        command = [sys.executable, "-m", "deltasync.cli.main", "snapshot", "start", *arguments]
        with self._log.open("w") as log:
            env = {"PATH": os.environ["PATH"], **flow.env}
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait(10)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def ended(self) -> int:
        """The exit code, once it has ended by itself."""
        until(lambda: self.process.poll() is not None, "it ends")
        return self.process.returncode


@contextmanager
def paused(flow: Flow, table: str) -> Iterator[Started]:
    """A snapshot that was begun and paused, in-process: a command of its own might come when it is over."""
    with run.opened(flow.settings) as parts, Started(flow, table) as start:
        until(lambda: table in start.said, "it reads")
        run.order(parts, signals.pause, State.PAUSED)
        yield start


def snapshot(flow: Flow, *arguments: str, code: int = 0) -> dict[str, Any]:
    """A command about snapshots, as JSON."""
    found: dict[str, Any] = json.loads(flow.cli("snapshot", *arguments, "--json", code=code))
    return found


def marks(flow: Flow) -> int:
    """The ends of chunks that were read."""
    return len([row for row in flow.rows(flow.source, "deltasync.signal") if "-open" in row or "-close" in row])


def restart(flow: Flow) -> None:
    url = f"{flow.settings.connect.url}/connectors/{flow.connector}/restart?includeTasks=true"
    httpx.post(url, timeout=30).raise_for_status()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_rows_come_back_among_changes(flow: Flow, consistency: str) -> None:
    """What is missing or wrong is right in the end, whatever changes meanwhile, and the connector is restarted."""
    flow.settings = flow.settings.model_copy(update={"consistency": consistency})
    flow.env["DELTASYNC_CONSISTENCY"] = consistency
    flow.set_up(SCHEMA, incremental__snapshot__chunk__size="80")
    flow.start_settled()
    flow.wait_equal("shop.orders", "shop.items")
    flow.replica.execute(DAMAGE)
    with load(flow), Started(flow, "shop.orders", "shop.items") as start:
        until(lambda: marks(flow) > 5, "it reads")
        # Another pipeline's signal, in the table that they share.
        flow.source.execute(
            "INSERT INTO deltasync.signal VALUES ('other:1', 'stop-snapshot', '{\"type\":\"incremental\"}')"
        )
        restart(flow)
        before = marks(flow)
        assert start.ended() == 0, start.said
    assert marks(flow) > before + 10, "it was over before the restart"
    assert "shop.items: read, 2,000 rows" in start.said
    assert "deltasync resync takes them away, too" in start.said
    flow.wait_equal("shop.orders", "shop.items")
    assert not flow.workers[-1].blamed()


@pytest.mark.timeout(300)
def test_paused_stopped_failed_and_refused(flow: Flow) -> None:
    flow.set_up(SCHEMA + MANY, incremental__snapshot__chunk__size="2")
    flow.start_settled()
    flow.wait_equal("shop.orders", "shop.items")
    flow.replica.execute("DELETE FROM shop.orders WHERE id > 50000")
    flow.source.execute(f"ALTER PUBLICATION {flow.settings.publication} DROP TABLE deltasync.signal")
    assert "Run deltasync source setup" in flow.cli("snapshot", "start", "shop.items", code=1)
    source_setup(flow.settings)
    assert "No snapshot goes on" in flow.cli("snapshot", "pause", code=1)

    failed = snapshot(flow, "start", "shop.orders", "--where", "id / (id - 2950) > 1", code=1)
    assert [(table["read"], table["status"]) for table in failed["tables"]] == [(False, "SQL_EXCEPTION")]
    assert "shop.orders: not read: the source refused" in flow.cli("snapshot", "status", code=1)
    with run.opened(flow.settings) as parts:
        for table, where, told in REFUSED:
            with pytest.raises(RefusedError, match=told):
                run.ask(parts, [table], where)
    assert "Did you mean shop.items?" in flow.cli("snapshot", "start", "shop.item", code=2)

    with paused(flow, "shop.orders") as start:
        assert snapshot(flow, "pause")["state"] == "paused"
        start.process.send_signal(signal.SIGINT)
        assert (start.ended(), "deltasync snapshot stop ends it" in start.said) == (130, True), start.said
    assert "Another snapshot is not over" in flow.cli("snapshot", "start", "shop.items", code=1)
    with run.opened(flow.settings) as parts:
        assert run.order(parts, signals.resume, State.RUNNING).state is State.RUNNING
        run.order(parts, signals.pause, State.PAUSED)
    stopped = snapshot(flow, "stop")
    assert [table["status"] for table in stopped["tables"]] == ["STOPPED"]
    assert flow.count("shop.orders") == 50_000
    assert "it was stopped before" in flow.cli("snapshot", "status", "--follow", code=1)

    found = snapshot(flow, "start", "shop.orders", "--where", "id > 59950 -- and no more")
    assert [(table["rows"], table["chunks"]) for table in found["tables"]] == [(50, 25)]
    assert flow.count("shop.orders") == 50_050

    # Of a paused one a connector that is restarted reads on.
    with paused(flow, "shop.items") as start:
        flow.source.execute("TRUNCATE shop.items")
        restart(flow)
        assert start.ended() == 3, start.said
    assert "shop.items: it was truncated" in start.said
