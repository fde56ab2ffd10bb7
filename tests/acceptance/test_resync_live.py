"""`deltasync resync` on real parts: rows are put right while the source is written to and the worker runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from tests.acceptance.topics import Topics
from tests.conftest import Pipeline
from tests.flow import Flow, until

from deltasync.connect.client import ConnectClient
from deltasync.errors import ReferencedError, RefusedError, UnreachableError
from deltasync.postgres.catalog import describe_table
from deltasync.postgres.connect import connect
from deltasync.replica.difference import Difference, Suspects, make_equal
from deltasync.replica.setup import setup
from deltasync.resync import run
from deltasync.settings import Batch
from deltasync.table import Table, TableId

SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.customer (id int PRIMARY KEY, name text);
    CREATE TABLE shop.orders (id int PRIMARY KEY, customer int, code text UNIQUE, total numeric, big text,
                              twice int GENERATED ALWAYS AS (customer * 2) STORED);
    ALTER TABLE shop.orders ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE shop.pile (a int, j json);
    ALTER TABLE shop.pile REPLICA IDENTITY FULL;
    INSERT INTO shop.customer VALUES (1, 'one'), (2, E'two\\n\\\\');
    INSERT INTO shop.orders SELECT n, 1, n, 1.00, repeat('b', 9000) FROM generate_series(1, 300) n;
    INSERT INTO shop.pile SELECT n % 3, '{"a":  1}' FROM generate_series(1, 30) n;
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
    """Deleted, changed and added by hand; what else the table has, and equal rows, stay."""
    flow.use_keyless()
    flow.set_up(SCHEMA)
    flow.start_worker()
    flow.wait_equal("shop.customer", "shop.orders", "shop.pile")
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
    flow.wait_equal("shop.customer", "shop.orders", "shop.pile")
    flow.replica.execute("DELETE FROM shop.orders WHERE id = 8")
    for _ in range(2):
        assert resync(flow, "shop.orders", dry_run=True) == {"shop.orders": (1, 0, 0)}
    assert flow.replica.execute(untouched).fetchone() == before
    assert flow.replica.execute(FOUND).fetchone() == (1, 1, 1, 1)
    assert "Did you mean shop.orders?" in flow.cli("resync", "shop.order", code=2)
    assert shadows(flow) == 0


def test_a_stopped_pipeline(flow: Flow) -> None:
    """What the snapshot holds is not applied again, nor before Kafka has it; a ledger that moves is followed."""
    flow.use_keyless()
    flow.settings = flow.settings.model_copy(update={"batch": Batch(rows_max=2)})
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    flow.wait_equal("shop.customer", "shop.orders", "shop.pile")
    assert worker.stop() == 0
    with ConnectClient(flow.settings.connect.url or "") as connect:
        connect.pause(flow.connector)
        flow.source.execute("INSERT INTO shop.pile VALUES (1, '{}')")
        with pytest.raises(UnreachableError, match="does not reach Kafka"):
            list(run.resync(flow.settings, ["shop.pile"], run.Job(timeout_s=1)))
        connect.resume(flow.connector)
    # An update that lacks a value, of a row that is gone in the snapshot; and rows that nothing tells apart.
    flow.source.execute("UPDATE shop.orders SET total = 2 WHERE id = 7")
    flow.source.execute("DELETE FROM shop.orders WHERE id = 7")
    assert resync(flow, "shop.orders", "shop.pile") == {"shop.orders": (0, 1, 0), "shop.pile": (1, 0, 0)}
    assert flow.equal("shop.orders", "shop.pile")
    _follows_a_ledger_that_moves(flow)


def _follows_a_ledger_that_moves(flow: Flow) -> None:
    """A worker that applies more while the command waits for its transaction, behind or before what that has read."""
    topics = Topics(flow)
    end = topics.ends("shop.customer")[0]
    # Equal to the snapshot before, and behind, but not where the worker is then.
    for name in ("x", "one"):
        flow.source.execute("UPDATE shop.customer SET name = %s WHERE id = 1", [name])
    with _locked_out(flow, end + 1) as worker:
        worker.execute("UPDATE shop.customer SET name = 'x' WHERE id = 1")
    assert flow.equal("shop.customer")
    assert flow.ledger()["shop.customer"][0] == end + 2
    with _locked_out(flow, end + 5) as worker:
        worker.execute("INSERT INTO shop.customer VALUES (3, 'three'), (4, 'four'), (5, 'five')")
        flow.source.execute("INSERT INTO shop.customer VALUES (3, 'three'), (4, 'four'), (5, 'five')")
        flow.source.execute("UPDATE shop.customer SET name = 'another' WHERE id = 1")
        until(lambda: topics.ends("shop.customer")[0] == end + 6, "captured")
    assert flow.equal("shop.customer")
    assert flow.ledger()["shop.customer"][0] == end + 6
    with _locked_out(flow, end + 6) as worker:  # a replay, after it has compared
        worker.execute("UPDATE shop.customer SET name = 'late' WHERE id = 1")
        moved = "INSERT INTO deltasync.ledger_audit (pipeline, topic, partition, new_next_offset, reason)"
        place = [flow.settings.pipeline, topics.name("shop.customer"), end + 6]
        worker.execute(f"{moved} VALUES (%s, %s, 0, %s, 'replayed')", place)
    assert flow.equal("shop.customer")


@contextmanager
def _locked_out(flow: Flow, next_offset: int) -> Iterator[psycopg.Connection]:
    """What a worker's transaction does while the command, which has compared by then, waits for it."""
    with psycopg.connect(flow.pipeline.replica_admin) as worker:
        worker.execute("SELECT FROM deltasync.ledger FOR UPDATE")
        command = started(flow, "shop.customer")
        yield worker
        topic = Topics(flow).name("shop.customer")
        worker.execute("UPDATE deltasync.ledger SET next_offset = %s WHERE topic = %s", [next_offset, topic])
    assert command.wait(20) == 0


def started(flow: Flow, table: str) -> subprocess.Popen[bytes]:
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


BESIDE = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.parent (id numeric PRIMARY KEY, code text UNIQUE, own text);
    CREATE TABLE shop.child (id int PRIMARY KEY, parent numeric REFERENCES shop.parent);
    CREATE TABLE shop.taken (id int, parent numeric REFERENCES shop.parent ON DELETE CASCADE);
    CREATE TABLE shop.pile (a int, j json);
    CREATE TABLE shop.parent_wanted (id numeric PRIMARY KEY, code text);
    CREATE TABLE shop.child_wanted (LIKE shop.child INCLUDING ALL);
    CREATE TABLE shop.pile_wanted (LIKE shop.pile);
    INSERT INTO shop.parent VALUES (1, 'a', 'mine'), (2, 'b', NULL), (3, 'c', 'mine'), (4, 'd', NULL);
    INSERT INTO shop.parent_wanted VALUES (1.0, 'a'), (2, 'b'), (3, 'new'), (5, 'd');
    INSERT INTO shop.child VALUES (1, 2);
    INSERT INTO shop.child_wanted VALUES (1, 2), (2, 9);
    INSERT INTO shop.pile SELECT n % 2, '{"a":  1}' FROM generate_series(1, 6) n;
    INSERT INTO shop.pile_wanted SELECT 1, '{"a":  1}' FROM generate_series(1, 5);
    INSERT INTO shop.pile_wanted VALUES (1, '{"a": 1}');
"""


def test_two_tables_made_equal(pipeline: Pipeline) -> None:
    """In place, or whole where a unique value moves; as multisets; where foreign keys are checked, if they let it."""
    source = pipeline.settings.source.model_copy(update={"dsn": None})
    setup(pipeline.settings.model_copy(update={"source": source}))
    with connect(pipeline.replica_admin, name="test") as replica:
        replica.execute(BESIDE)
        known = "INSERT INTO deltasync.source_table VALUES ('p', 'shop', 'taken', 1, true, true, false)"
        replica.execute(known)
        replica.commit()

        def equal(name: str, *, ordered: bool = True) -> Difference:
            target, wanted = table(name), table(f"{name}_wanted")
            suspects = None if target.is_keyless else Suspects(replica, target)
            if suspects is not None:
                suspects.compare(wanted)
            return make_equal(replica, target, wanted, suspects, ordered=ordered)

        def table(name: str) -> Table:
            found = describe_table(replica, TableId("shop", name))
            assert found is not None
            return found

        assert equal("pile") == Difference(missing=3, surplus=3)
        assert equal("pile") == Difference()
        with pytest.raises(RefusedError, match="child_parent_fkey"):
            equal("child")
        replica.rollback()
        assert equal("parent") == Difference(missing=1, surplus=1, different=2)
        rows = "SELECT array_agg(ROW(id, code, own)::text ORDER BY id) FROM shop.parent"
        assert replica.execute(rows).fetchone() == (["(1.0,a,mine)", "(2,b,)", "(3,new,mine)", "(5,d,)"],)
        replica.rollback()
        replica.execute("INSERT INTO shop.taken VALUES (1, 4)")
        with pytest.raises(ReferencedError, match=r"shop\.taken"):
            equal("parent")
        replica.rollback()
        # A unique value that moves between two rows that stay.
        replica.execute("UPDATE shop.parent_wanted SET code = CASE id WHEN 1 THEN 'b' WHEN 2 THEN 'a' ELSE code END")
        replica.execute("SET session_replication_role = replica")
        assert equal("parent", ordered=False) == Difference(missing=1, surplus=1, different=3)
        assert equal("parent", ordered=False) == Difference()
