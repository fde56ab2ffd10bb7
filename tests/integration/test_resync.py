"""`deltasync resync` on real parts: rows are put right while the source is written to and the worker runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from tests.acceptance.topics import Topics
from tests.flow import Flow, until

from deltasync.resync import run
from deltasync.settings import Batch

SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.customer (id int PRIMARY KEY, name text);
    CREATE TABLE shop.orders (id int PRIMARY KEY, customer int, code text UNIQUE, total numeric, big text,
                              twice int GENERATED ALWAYS AS (customer * 2) STORED);
    ALTER TABLE shop.orders ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE shop.pile (a int, j json);
    ALTER TABLE shop.pile REPLICA IDENTITY FULL;
    CREATE TABLE shop.owed (id int, what text);
    INSERT INTO shop.customer VALUES (1, 'one'), (2, E'two\\n\\\\');
    INSERT INTO shop.orders SELECT n, 1, n, 1.00, repeat('b', 9000) FROM generate_series(1, 300) n;
    INSERT INTO shop.pile SELECT n % 3, '{"a":  1}' FROM generate_series(1, 30) n;
    INSERT INTO shop.owed VALUES (1, 'before');
"""
DAMAGE = """
    DELETE FROM shop.orders WHERE id < 10;
    UPDATE shop.orders SET code = CASE id WHEN 20 THEN '21' ELSE '20' END, total = 1.0 WHERE id = 22;
    UPDATE shop.orders SET total = 1.0 WHERE id = 23;
    INSERT INTO shop.orders (id, customer, code) VALUES (-1, 1, '1');
"""
OBJECTS = """
    CREATE INDEX by_total ON shop.orders (total);
    ALTER TABLE shop.orders ADD CONSTRAINT of_customer FOREIGN KEY (customer) REFERENCES shop.customer NOT VALID;
    CREATE VIEW shop.totals AS SELECT sum(total) FROM shop.orders;
    GRANT SELECT ON shop.orders TO pg_monitor;
"""
FOUND = """
    SELECT (SELECT count(*) FROM pg_indexes WHERE indexname = 'by_total'),
           (SELECT count(*) FROM pg_constraint WHERE conname = 'of_customer'),
           (SELECT count(*) FROM information_schema.role_table_grants
             WHERE grantee = 'pg_monitor' AND table_name = 'orders'), (SELECT count(*) FROM shop.totals)
"""


@contextmanager
def load(flow: Flow) -> Iterator[None]:
    """Write to the source until the block ends: each row that is changed was not there before."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(flow.pipeline.source_admin, autocommit=True) as source:
            while not stop.is_set():
                source.execute("INSERT INTO shop.orders VALUES (1000 + (SELECT count(*) FROM shop.orders), 2)")
                newest = "(SELECT max(id) - 3 FROM shop.orders)"
                source.execute(f"UPDATE shop.orders SET total = coalesce(total, 0) + 1 WHERE id > {newest}")
                source.execute("INSERT INTO shop.pile VALUES (7, '{}'); DELETE FROM shop.pile WHERE a > 7")
                source.execute("UPDATE shop.pile SET a = a + 1 WHERE a > 6")
                stop.wait(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def shadows(flow: Flow) -> int:
    row = flow.replica.execute("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'resync%'").fetchone()
    return row[0] if row else -1


def resync(flow: Flow, *tables: str, reason: str = "test", dry_run: bool = False) -> dict[str, tuple[int, int, int]]:
    """What was missing, surplus and different of each table."""
    done = run.resync(flow.settings, tables, run.Job(reason, dry_run=dry_run))
    return {one.table: (one.missing, one.surplus, one.different) for one in done}


def test_rows_are_put_right_under_load(flow: Flow) -> None:
    """Deleted, changed and added by hand, and owed from before; what else the table has, and equal rows, stay."""
    flow.use_keyless()
    flow.set_up(SCHEMA)
    flow.start_worker()
    flow.wait_equal("shop.customer", "shop.orders", "shop.pile")
    flow.source.execute("ALTER TABLE shop.owed ADD PRIMARY KEY (id)")
    flow.source.execute("INSERT INTO shop.owed VALUES (2, 'after')")
    until(lambda: flow.count("shop.owed") == 1, "the table that is owed its rows")
    flow.replica.execute(OBJECTS)
    untouched = "SELECT xmin::text FROM shop.orders WHERE id = 100"
    before = flow.replica.execute(untouched).fetchone()
    with load(flow):
        flow.replica.execute(DAMAGE)
        flow.replica.execute("DELETE FROM shop.pile WHERE ctid IN (SELECT ctid FROM shop.pile WHERE a < 3 LIMIT 5)")
        orders, pile = json.loads(flow.cli("resync", "shop.orders", "shop.pile", "--json"))["tables"]
        # What the worker has not applied yet counts, too.
        assert (orders["missing"] >= 9, orders["surplus"] >= 1, orders["different"] >= 2) == (True, True, True)
        assert pile["missing"] >= 5
    assert resync(flow, "shop.owed") == {"shop.owed": (1, 0, 0)}
    flow.wait_equal("shop.customer", "shop.orders", "shop.pile", "shop.owed")
    flow.replica.execute("DELETE FROM shop.orders WHERE id = 8")
    for _ in range(2):
        assert resync(flow, "shop.orders", dry_run=True) == {"shop.orders": (1, 0, 0)}
    assert flow.replica.execute(untouched).fetchone() == before
    assert flow.replica.execute(FOUND).fetchone() == (1, 1, 1, 1)
    flow.source.execute("ALTER TABLE shop.owed ADD more int")
    columns = "SELECT FROM information_schema.columns WHERE table_name = 'owed' AND column_name = 'more'"
    until(lambda: flow.replica.execute(columns).rowcount == 1, "a later entry of the schema log is here")
    assert flow.replica.execute("SELECT bool_and(complete) FROM deltasync.source_table").fetchone() == (True,)
    assert "Did you mean shop.orders?" in flow.cli("resync", "shop.order", code=2)
    assert shadows(flow) == 0


def test_a_stopped_pipeline(flow: Flow) -> None:
    """What the snapshot holds is not applied again; a ledger that moves is followed; kill -9 leaves nothing behind."""
    flow.use_keyless()
    flow.settings = flow.settings.model_copy(update={"batch": Batch(rows_max=1)})
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    flow.wait_equal("shop.customer", "shop.orders", "shop.pile")
    assert worker.stop() == 0
    # An update that lacks a value, of a row that is gone in the snapshot; and rows that nothing tells apart.
    flow.source.execute("UPDATE shop.orders SET total = 2 WHERE id = 7")
    flow.source.execute("DELETE FROM shop.orders WHERE id = 7")
    flow.source.execute("INSERT INTO shop.pile VALUES (1, '{}')")
    assert resync(flow, "shop.orders", "shop.pile") == {"shop.orders": (0, 1, 0), "shop.pile": (1, 0, 0)}
    assert flow.equal("shop.orders", "shop.pile")

    _is_killed(flow)
    _follows_a_ledger_that_moves(flow)
    _closes_a_gap(flow)


def _is_killed(flow: Flow) -> None:
    """While it waits for the ledger; the live table is as it was, and the next one works."""
    flow.replica.execute("DELETE FROM shop.customer")
    for how, code, left in ((signal.SIGKILL, -9, 1), (signal.SIGTERM, 130, 0)):
        with psycopg.connect(flow.pipeline.replica_admin) as worker:
            worker.execute("SELECT FROM deltasync.ledger FOR UPDATE")
            command = _started(flow, "shop.customer")
            command.send_signal(how)
            assert command.wait(20) == code
            assert flow.count("shop.customer") == 0
            assert shadows(flow) == left
    assert resync(flow, "shop.customer") == {"shop.customer": (2, 0, 0)}
    assert (flow.equal("shop.customer"), shadows(flow)) == (True, 0)


def _follows_a_ledger_that_moves(flow: Flow) -> None:
    """A worker that applies more while the command waits for its transaction: that is not taken back."""
    topics = Topics(flow)
    end = topics.ends("shop.customer")[0]
    with psycopg.connect(flow.pipeline.replica_admin) as worker:
        worker.execute("SELECT FROM deltasync.ledger FOR UPDATE")
        worker.execute("INSERT INTO shop.customer VALUES (3, 'three')")
        command = _started(flow, "shop.customer")
        flow.source.execute("INSERT INTO shop.customer VALUES (3, 'three')")
        until(lambda: topics.ends("shop.customer")[0] == end + 1, "captured")
        worker.execute(
            "UPDATE deltasync.ledger SET next_offset = %s WHERE topic = %s", [end + 1, topics.name("shop.customer")]
        )
    assert command.wait(20) == 0
    assert flow.equal("shop.customer")
    assert flow.ledger()["shop.customer"][0] == end + 1


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


def _started(flow: Flow, table: str) -> subprocess.Popen[bytes]:
    """The command, once it waits for a lock on the replica."""
    command = subprocess.Popen(
        [sys.executable, "-m", "deltasync.cli.main", "resync", table],
        env={"PATH": os.environ["PATH"], **flow.env},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    waits = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'deltasync:resync' AND wait_event_type = 'Lock'"
    until(lambda: flow.replica.execute(waits).fetchone(), "the command waits for the ledger")
    return command
