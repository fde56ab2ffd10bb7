"""Tables that are dropped on the source, and made again under their names: nothing goes by itself, no row is mixed."""

from __future__ import annotations

import json

import httpx
from tests.acceptance.late_log import late_log
from tests.flow import Flow, until

from deltasync.policy import Ddl

_TABLES = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.t (id int PRIMARY KEY, a text);
    CREATE TABLE shop.seen (id int PRIMARY KEY, a text);
    CREATE TABLE shop.kept (id int PRIMARY KEY, a text);
    CREATE TABLE shop.other (id int PRIMARY KEY);
    INSERT INTO shop.t SELECT i, 'old' FROM generate_series(1, 100) i;
    INSERT INTO shop.seen VALUES (1, 'one');
"""
_ENDS = "SELECT outcome, reason FROM deltasync.dead_letter_audit"


def _gone(flow: Flow, table: str) -> bool:
    return flow.replica.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,)


def test_a_table_that_is_dropped_waits_for_the_operator(flow: Flow) -> None:
    """Its last rows are applied, those of another one under its name wait; then that one has its rows and no others."""
    flow.set_up(_TABLES)
    worker = flow.start_settled()
    flow.wait_equal("shop.t", "shop.kept")
    flow.source.execute("INSERT INTO shop.t VALUES (101, 'last'); DROP TABLE shop.t; DROP TABLE shop.kept")
    dropped = "SELECT count(*) FROM deltasync.source_table WHERE dropped"
    until(lambda: flow.replica.execute(dropped).fetchone() == (2,), "the drops are known")
    until(lambda: flow.count("shop.t") == 101, "its last rows, which come in another partition, are applied")
    url = worker.events("monitor answers")[-1]["url"]
    until(lambda: httpx.get(f"{url}/readyz", timeout=5).status_code == 200, "nothing keeps the worker from its work")

    with flow.source.transaction():
        flow.source.execute("CREATE TABLE shop.t (id int PRIMARY KEY, a text); INSERT INTO shop.t VALUES (1, 'new')")
        flow.source.execute("ALTER TABLE shop.t RENAME a TO b; INSERT INTO shop.t VALUES (2, 'newer')")
    flow.source.execute("INSERT INTO shop.other VALUES (1)")
    flow.wait_equal("shop.other")
    until(lambda: worker.metric("deltasync_partitions", state="waiting") == 1, "its rows wait")
    assert flow.count("shop.t") == 101
    first, *_ = found = json.loads(flow.cli("schema", "list", "--json"))
    assert [(one["table"], one["kind"]) for one in found] == [
        ("shop.kept", "drop_table"),
        ("shop.t", "drop_table"),
        ("shop.t", "create_table"),
        ("shop.t", "rename_column"),
    ]
    assert (first["sql"], first["lock"]) == (['DROP TABLE IF EXISTS "shop"."kept"'], "ACCESS EXCLUSIVE")

    assert flow.cli("schema", "approve", "shop.t", "shop.kept", "--reason", "release 42").endswith("done\n")
    flow.wait_equal("shop.t")
    assert _gone(flow, "shop.kept")
    assert not worker.blamed()


def test_what_the_policy_drops(flow: Flow) -> None:
    """What is set aside of it is void; a table that something depends on stays, and says so."""
    flow.env["DELTASYNC_DDL_DROP_TABLE"] = "apply"
    flow.set_up(_TABLES)
    flow.start_settled()
    flow.wait_equal("shop.t", "shop.seen")
    flow.replica.execute("CREATE VIEW shop.view AS SELECT * FROM shop.seen")
    flow.replica.execute("ALTER TABLE shop.t ADD CONSTRAINT short CHECK (length(a) < 9)")
    flow.source.execute("UPDATE shop.t SET a = 'longer than that' WHERE id = 7")
    until(lambda: flow.replica.execute("SELECT FROM deltasync.dead_letter").fetchone() is not None, "a dead letter")

    with flow.source.transaction():
        for round_ in range(2):
            flow.source.execute("DELETE FROM shop.t WHERE id > 7; DROP TABLE shop.t")
            flow.source.execute("CREATE TABLE shop.t (id int PRIMARY KEY, n int)")
            flow.source.execute("INSERT INTO shop.t VALUES (7, %s)", [round_])
    flow.source.execute("UPDATE shop.t SET n = 8; DROP TABLE shop.seen; INSERT INTO shop.other VALUES (1)")
    flow.wait_equal("shop.t", "shop.other")
    assert set(flow.replica.execute(_ENDS)) == {("void", "the table shop.t was dropped on the source")}
    until(lambda: "DependentObjectsStillExist" in flow.cli("schema", "list"), "what depends on it is told")
    assert flow.count("shop.seen") == 1

    flow.replica.execute("DROP VIEW shop.view")
    assert flow.cli("schema", "approve", "shop.seen", "--reason", "nobody looks").endswith("done\n")
    assert _gone(flow, "shop.seen")


def test_rows_that_come_before_their_table_was_dropped(flow: Flow) -> None:
    """The schema log is late: they went into the old table, or were set aside, and are read again into the new one."""
    flow.set_up(_TABLES)
    flow.start_settled().stop()
    with late_log(flow, Ddl(drop_table="apply")) as log:
        flow.wait_equal("shop.t", "shop.seen")
        log.late = True
        flow.source.execute("DROP TABLE shop.t, shop.seen; CREATE TABLE shop.t (id int PRIMARY KEY, a text)")
        flow.source.execute("CREATE TABLE shop.seen (id int PRIMARY KEY, a int[])")
        flow.source.execute("INSERT INTO shop.t VALUES (3, 'new'), (500, 'new'); DELETE FROM shop.t WHERE id = 3")
        flow.source.execute("INSERT INTO shop.seen VALUES (1, '{1}'); UPDATE shop.seen SET a = '{2}'")
        until(lambda: flow.count("shop.t") == 100, "a row of the new table among the old ones")
        late = "SELECT FROM deltasync.ledger WHERE topic LIKE '%%.seen' AND next_offset = %s"
        until(lambda: flow.replica.execute(late, [3]).fetchone() is not None, "the row of another type")

        log.late = False
        flow.wait_equal("shop.t", "shop.seen")
        assert flow.rows(flow.replica, "shop.t") == ["(500,new)"]
        assert flow.replica.execute("SELECT FROM deltasync.dead_letter").fetchall() == []
        query = "SELECT complete, captured FROM deltasync.source_table WHERE table_name IN ('t', 'seen')"
        assert flow.replica.execute(query).fetchall() == [(True, True)] * 2
