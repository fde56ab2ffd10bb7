"""`deltasync resync` killed, behind records that are gone, and beside a commit that snapshots do not show yet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import psycopg
from tests.acceptance.standby import standby_missing
from tests.acceptance.test_resync_live import resync, shadows, started
from tests.acceptance.topics import Topics
from tests.flow import Flow, until

from deltasync.connect.client import ConnectClient


def test_a_commit_that_waits_for_its_standby(flow: Flow) -> None:
    """Its row is on the replica before the source shows it: the command waits for it, and leaves the row alone."""
    flow.source.execute(f"ALTER DATABASE {flow.source.info.dbname} SET synchronous_commit = local")
    flow.source.execute("SET synchronous_commit = local")
    flow.set_up("CREATE SCHEMA shop; CREATE TABLE shop.item (id int PRIMARY KEY); INSERT INTO shop.item VALUES (1)")
    flow.start_worker()
    flow.wait_equal("shop.item")
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(flow.pipeline.source_admin, autocommit=True) as late:
            late.execute("SET synchronous_commit = on")
            while not stop.wait(0.05):
                late.execute("INSERT INTO shop.item SELECT max(id) + 1 FROM shop.item")

    writes = threading.Thread(target=write)
    with standby_missing(flow):
        writes.start()
        until(lambda: flow.count("shop.item") > len(flow.rows(flow.source, "shop.item")), "ahead of the source")
        stop.set()
        rows = flow.rows(flow.replica, "shop.item")
        with (flow.folder / "said").open("wb") as said:
            command = subprocess.Popen(
                [sys.executable, "-m", "deltasync.cli.main", "resync", "shop.item"],
                env={"PATH": os.environ["PATH"], **flow.env},
                stderr=said,
                stdout=said,
            )
        told = flow.folder / "said"
        until(lambda: b"waiting for transactions" in told.read_bytes() or command.poll() is not None, "it waits")
        assert command.poll() is None, told.read_text()
    writes.join()
    assert command.wait(30) == 0, told.read_text()
    assert rows == flow.rows(flow.replica, "shop.item") == flow.rows(flow.source, "shop.item")


def test_what_was_lost_comes_back(flow: Flow) -> None:
    """Behind a kill, for records that expired, for a topic that was made anew, for a table that is owed its rows."""
    flow.set_up("""
        CREATE SCHEMA shop;
        CREATE TABLE shop.customer (id int PRIMARY KEY, name text);
        CREATE TABLE shop.owed (id int, what text);
        INSERT INTO shop.customer VALUES (1, 'one'), (2, 'two'), (3, 'three');
        INSERT INTO shop.owed VALUES (1, 'before');
    """)
    worker = flow.start_worker()
    flow.wait_equal("shop.customer")
    assert worker.stop() == 0
    _is_killed(flow)
    _closes_a_gap(flow)
    _follows_a_new_topic(flow)
    _pays_what_is_owed(flow)


def _is_killed(flow: Flow) -> None:
    """While it waits for the ledger; the live table is as it was, and the next one works."""
    flow.replica.execute("DELETE FROM shop.customer")
    for how, code, left in ((signal.SIGKILL, -9, 1), (signal.SIGTERM, 130, 0)):
        with psycopg.connect(flow.pipeline.replica_admin) as worker:
            worker.execute("SELECT FROM deltasync.ledger FOR UPDATE")
            command = started(flow, "shop.customer")
            command.send_signal(how)
            assert command.wait(20) == code
            assert flow.count("shop.customer") == 0
            assert shadows(flow) == left
    assert resync(flow, "shop.customer") == {"shop.customer": (3, 0, 0)}
    assert (flow.equal("shop.customer"), shadows(flow)) == (True, 0)


def _closes_a_gap(flow: Flow) -> None:
    """Records that retention took before they were applied: the partition that stopped there goes on by itself."""
    topics = Topics(flow)
    end = topics.ends("shop.customer")[0]
    for number in (4, 5):
        flow.source.execute("INSERT INTO shop.customer VALUES (%s, 'more')", [number])
    flow.source.execute("DELETE FROM shop.customer WHERE id = 1")
    until(lambda: topics.ends("shop.customer")[0] >= end + 3, "captured")
    topics.cut("shop.customer", end + 1)
    worker = flow.start_worker()
    until(lambda: worker.events("partition stopped"), "the partition stops")
    assert resync(flow, "shop.customer", reason="retention") == {"shop.customer": (2, 1, 0)}
    flow.source.execute("INSERT INTO shop.customer VALUES (6, 'six')")
    flow.wait_equal("shop.customer")
    assert flow.replica.execute(
        "SELECT old_next_offset, reason FROM deltasync.ledger_audit ORDER BY id DESC LIMIT 1"
    ).fetchone() == (end, "retention")


def _follows_a_new_topic(flow: Flow) -> None:
    """The ledger knows another one of that name: the partition goes on in the new one by itself."""
    topics = Topics(flow)
    assert flow.workers[-1].stop() == 0
    topics.delete("shop.customer")
    topics.make("shop.customer")
    flow.source.execute("UPDATE shop.customer SET name = 'new' WHERE id = 2")
    worker = flow.start_worker()
    until(lambda: worker.events("partition stopped"), "the partition stops")
    flow.replica.execute("DELETE FROM shop.customer WHERE id = 3")
    assert resync(flow, "shop.customer") == {"shop.customer": (1, 0, 1)}
    flow.source.execute("INSERT INTO shop.customer VALUES (7, 'seven')")
    flow.wait_equal("shop.customer")


def _pays_what_is_owed(flow: Flow) -> None:
    """Rows from before the table was captured; that they are here is remembered, whatever the table becomes."""
    flow.source.execute("ALTER TABLE shop.owed ADD PRIMARY KEY (id)")
    flow.source.execute("INSERT INTO shop.owed VALUES (2, 'after')")
    until(lambda: flow.count("shop.owed") == 1, "the table that is owed its rows")
    assert resync(flow, "shop.owed") == {"shop.owed": (1, 0, 0)}
    flow.source.execute("ALTER TABLE shop.owed ADD more int")
    flow.wait_equal("shop.owed")
    columns = "SELECT FROM information_schema.columns WHERE table_name = 'owed' AND column_name = 'more'"
    until(lambda: flow.replica.execute(columns).rowcount == 1, "a later entry of the schema log is here")
    assert flow.replica.execute("SELECT bool_and(complete) FROM deltasync.source_table").fetchone() == (True,)


def test_the_slot_is_lost(flow: Flow) -> None:
    """Rows and tables that changed while nobody kept the changes, deletes included; the worker and the source go on."""
    flow.set_up("""
        CREATE SCHEMA shop;
        CREATE TABLE shop.item (id int PRIMARY KEY, n int);
        CREATE TABLE shop.ok (id int PRIMARY KEY);
        INSERT INTO shop.item SELECT n, n FROM generate_series(1, 50) n;
    """)
    flow.start_worker()
    flow.wait_equal("shop.item", "shop.ok")
    assert "The slot" in flow.cli("recover", code=1)
    with ConnectClient(flow.settings.connect.url or "") as client:
        client.stop(flow.connector)
        until(lambda: flow.streaming() is None, "the slot is free")
        flow.source.execute("SELECT pg_drop_replication_slot(%s)", [flow.settings.slot])
    flow.source.execute("DELETE FROM shop.item WHERE id < 10")
    flow.source.execute("UPDATE shop.item SET n = 0 WHERE id > 40")
    flow.source.execute("INSERT INTO shop.item VALUES (60, 60)")
    flow.source.execute("ALTER TABLE shop.item ADD more int; UPDATE shop.item SET more = id WHERE id = 20")
    flow.source.execute("CREATE TABLE shop.late (id int PRIMARY KEY); INSERT INTO shop.late VALUES (1)")
    found = {
        one["table"]: one for one in json.loads(flow.cli("recover", "--reason", "slot dropped", "--json"))["tables"]
    }
    assert found["shop.item"]["surplus"] == 9
    assert found["shop.late"]["missing"] == 1
    flow.source.execute("INSERT INTO shop.item VALUES (61, 61); DELETE FROM shop.ok; INSERT INTO shop.late VALUES (2)")
    flow.wait_equal("shop.item", "shop.ok", "shop.late")
    assert flow.replica.execute("SELECT bool_and(complete) FROM deltasync.source_table").fetchone() == (True,)
