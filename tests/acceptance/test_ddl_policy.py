"""Changes of the source's tables that are more than additions: approved or followed by policy, and no row is lost."""

from __future__ import annotations

import json
import time

import psycopg
from tests.acceptance.late_log import late_log
from tests.flow import Flow, until

from deltasync.policy import Ddl

_TABLES = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.t (id int PRIMARY KEY, a text NOT NULL, n numeric(10, 2));
    CREATE TABLE shop.other (id int PRIMARY KEY);
    INSERT INTO shop.t VALUES (1, 'one', 1.25);
"""
_HELD = "SELECT held FROM deltasync.source_table WHERE table_name = 't'"


def _columns(flow: Flow) -> list[tuple[str, str]]:
    query = """SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
                WHERE attrelid = 'shop.t'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname"""
    return [(name, type_) for name, type_ in flow.replica.execute(query)]


def test_rows_from_before_a_rename_are_applied_before_it(flow: Flow) -> None:
    """A thousand wait when it is made, in its own transaction too: they come first, and it is approved."""
    flow.set_up(_TABLES)
    flow.start_worker().events("")
    flow.wait_equal("shop.t")
    assert flow.workers[-1].stop() == 0

    flow.source.execute("INSERT INTO shop.t SELECT i, 'before', i FROM generate_series(2, 1001) i")
    with flow.source.transaction():
        flow.source.execute("UPDATE shop.t SET a = 'last' WHERE id = 500")
        flow.source.execute("ALTER TABLE shop.t RENAME a TO b")
        flow.source.execute("ALTER TABLE shop.t ALTER n TYPE numeric(10, 4)")
        flow.source.execute("INSERT INTO shop.t VALUES (2000, 'after', 1.2345)")
    flow.source.execute("DELETE FROM shop.t WHERE id = 7; INSERT INTO shop.other VALUES (1)")
    flow.start_worker()
    flow.wait_equal("shop.other")
    until(lambda: flow.count("shop.t") == 1001, "all rows from before")
    until(lambda: (flow.replica.execute(_HELD).fetchone() or [None])[0], "the table held")

    found = json.loads(flow.cli("schema", "list", "--json"))
    assert [(one["kind"], one["lock"], one["rewrites"]) for one in found] == [
        ("rename_column", "ACCESS EXCLUSIVE", False),
        ("change_type", "ACCESS EXCLUSIVE", True),
    ]
    assert "RENAME COLUMN" in flow.cli("schema", "list")
    assert flow.cli("schema", "approve", "shop.t", "--reason", "release 41").endswith("done\n")
    flow.wait_equal("shop.t")
    query = 'SELECT table_name, reason, sql LIKE \'%RENAME COLUMN "a" TO "b"%\' FROM deltasync.schema_audit'
    assert flow.replica.execute(query).fetchall() == [("t", "release 41", True)]
    assert "nothing waits" in flow.cli("schema", "list")
    flow.cli("schema", "approve", "shop.t", "--reason", "again", code=1)


def test_what_the_policy_says_is_done_by_itself(flow: Flow) -> None:
    """Each change where the rows from before it end: names that go round, a column made anew, wider types."""
    kinds = ("RENAME_COLUMN", "DROP_COLUMN", "WIDEN_TYPE", "SET_NOT_NULL")
    flow.env |= {f"DELTASYNC_DDL_{kind}": "apply" for kind in kinds}
    flow.set_up(_TABLES)
    worker = flow.start_settled()  # a restart among these changes may be too much for Debezium
    flow.wait_equal("shop.t")

    flow.source.execute("UPDATE shop.t SET n = 0; ALTER TABLE shop.t ALTER n SET NOT NULL, ALTER id TYPE bigint")
    flow.source.execute("INSERT INTO shop.t VALUES (5000000000, 'two', 2)")
    with flow.source.transaction():
        for old, new in (("a", "x"), ("n", "a"), ("x", "n")):
            flow.source.execute(f"ALTER TABLE shop.t RENAME {old} TO {new}")
        flow.source.execute("INSERT INTO shop.t VALUES (3, 'three', 3)")
    flow.source.execute(
        "ALTER TABLE shop.t DROP n, ADD n text DEFAULT 'anew'; UPDATE shop.t SET n = 'four' WHERE id = 3"
    )
    flow.source.execute("ALTER TABLE shop.t DROP a; DELETE FROM shop.t WHERE id = 1")
    flow.wait_equal("shop.t")
    assert _columns(flow) == [("id", "bigint"), ("n", "text")]
    assert not worker.events("partition stopped")


def test_the_schema_log_is_ten_seconds_late(flow: Flow) -> None:
    """What is from before a change goes on, what is from behind it waits: for a name, or for room in a type."""
    flow.set_up(_TABLES)
    flow.start_settled().stop()
    with late_log(flow, Ddl(rename_column="apply", widen_type="apply")) as log:
        flow.wait_equal("shop.t")
        log.late, began = True, time.monotonic()
        with flow.source.transaction():
            flow.source.execute("INSERT INTO shop.t VALUES (2, 'before', 2); ALTER TABLE shop.t RENAME a TO b")
            flow.source.execute("INSERT INTO shop.t VALUES (3, 'behind', 3); DELETE FROM shop.t WHERE b = 'one'")
        flow.source.execute("INSERT INTO shop.other VALUES (1); ALTER TABLE shop.other ALTER id TYPE bigint")
        flow.source.execute("INSERT INTO shop.other VALUES (5000000000); DELETE FROM shop.other WHERE id = 1")
        until(lambda: time.monotonic() - began > 11, "ten seconds pass")
        assert flow.rows(flow.replica, "shop.t") == ["(1,one,1.25)", "(2,before,2.00)"]
        assert flow.rows(flow.replica, "shop.other") == ["(1)"]

        log.late = False
        flow.wait_equal("shop.t", "shop.other")
    assert flow.replica.execute("SELECT FROM deltasync.dead_letter").fetchall() == []


def test_rows_that_came_before_their_change_was_known(flow: Flow) -> None:
    """They went into the column of before, which goes by hand: that is told, and they are read again."""
    flow.set_up(_TABLES)
    flow.start_settled().stop()
    with late_log(flow, Ddl()) as log:
        flow.wait_equal("shop.t")
        log.late = True
        with flow.source.transaction():
            flow.source.execute("ALTER TABLE shop.t DROP a; ALTER TABLE shop.t ADD a text DEFAULT 'new'")
            flow.source.execute("INSERT INTO shop.t VALUES (2, 2, 'later')")
        until(lambda: flow.count("shop.t") == 2, "the row of the new column in the old one")
        log.late = False
        until(lambda: (flow.replica.execute(_HELD).fetchone() or [None])[0], "the table held")
        flow.replica.execute("ALTER TABLE shop.t DROP a")
        assert "deltasync resync shop.t" in flow.cli("replica", "setup")
        assert not flow.equal("shop.t")
    flow.cli("resync", "shop.t")
    assert flow.equal("shop.t")


def test_a_table_that_is_read_for_long_does_not_keep_others(flow: Flow) -> None:
    """A dump has its lock: others go on, and the column comes by itself once it has ended."""
    flow.env["DELTASYNC_DDL_LOCK_TIMEOUT_S"] = "0.2"
    flow.set_up(_TABLES)
    worker = flow.start_worker()
    flow.wait_equal("shop.t")

    with psycopg.connect(flow.pipeline.replica_admin) as dump:
        dump.execute("SELECT FROM shop.t")
        flow.source.execute("INSERT INTO shop.t VALUES (2, 'old', 2); ALTER TABLE shop.t ADD b int DEFAULT 5")
        flow.source.execute("INSERT INTO shop.t VALUES (3, 'new', 3, 6)")
        until(lambda: "lock" in str(flow.replica.execute(_HELD).fetchone()), "the lock is missed")
        flow.source.execute("INSERT INTO shop.other VALUES (1)")
        flow.wait_equal("shop.other")
        until(lambda: flow.count("shop.t") == 2, "the row from before it")
        assert json.loads(flow.cli("schema", "list", "--json"))[0]["state"] == "waits for its lock"
    flow.wait_equal("shop.t")
    assert not worker.events("failed for a passing reason; trying again")


def test_what_the_policy_says_is_not_done(flow: Flow) -> None:
    """A column that is ignored stays and may be null, a table that is held is made once approved, another stops."""
    flow.env |= {"DELTASYNC_DDL_DROP_COLUMN": "ignore", "DELTASYNC_DDL_CREATE_TABLE": "hold"}
    flow.set_up(_TABLES)
    worker = flow.start_worker(DELTASYNC_DDL_RENAME_COLUMN="stop")
    flow.wait_equal("shop.t")

    flow.source.execute(
        "ALTER TABLE shop.t DROP a; INSERT INTO shop.t VALUES (2, 2); CREATE TABLE shop.new (id int PRIMARY KEY)"
    )
    flow.source.execute("INSERT INTO shop.new VALUES (1)")
    until(lambda: flow.count("shop.t") == 2, "the row without it")
    assert flow.replica.execute("SELECT id, a FROM shop.t ORDER BY id").fetchall() == [(1, "one"), (2, None)]
    until(lambda: "shop.new" in flow.cli("schema", "list"), "the new table held")
    assert "done\n" in flow.cli("schema", "approve", "shop.new", "--reason", "wanted")
    flow.wait_equal("shop.new")

    flow.source.execute("ALTER TABLE shop.t RENAME n TO m; UPDATE shop.t SET m = 3")
    until(lambda: worker.events("partition stopped"), "it stops")
    assert "renamed to m" in worker.events("partition stopped")[0]["reason"]


def test_a_table_that_nothing_is_written_to_follows(flow: Flow) -> None:
    """By policy and once approved; rows from before the change that the worker has not read yet come first."""
    flow.env["DELTASYNC_DDL_RENAME_COLUMN"] = "apply"
    flow.set_up(_TABLES)
    worker = flow.start_settled()
    flow.wait_equal("shop.t")
    flow.source.execute("ALTER TABLE shop.t RENAME a TO b")
    until(lambda: _columns(flow)[0] == ("b", "text"), "the column renamed, and no row came")

    assert worker.stop() == 0
    flow.source.execute("INSERT INTO shop.t SELECT i, 'before', i FROM generate_series(2, 301) i")
    flow.source.execute("ALTER TABLE shop.t RENAME b TO c; ALTER TABLE shop.t DROP n")
    flow.cli("wait", "--timeout", "1", code=1)
    worker = flow.start_worker(DELTASYNC_BATCH_ROWS_MAX="7")
    until(lambda: flow.replica.execute(_HELD).fetchone() != (None,), "the column dropped is held")
    assert _columns(flow)[0] == ("c", "text")
    assert flow.count("shop.t") == 301
    assert flow.cli("schema", "approve", "shop.t", "--reason", "nobody writes").endswith("done\n")
    flow.wait_equal("shop.t")
    assert not worker.blamed()
