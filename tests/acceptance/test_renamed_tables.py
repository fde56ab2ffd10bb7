"""Tables that are renamed on the source: the replica's follows once all of its rows are in it, and is the same one."""

from __future__ import annotations

from typing import Any

import psycopg
from tests.acceptance.late_log import late_log
from tests.flow import Flow, until

from deltasync.policy import Ddl

_TABLES = """
    CREATE SCHEMA shop; CREATE SCHEMA attic;
    CREATE TABLE shop.t (id int PRIMARY KEY, a text);
    CREATE TABLE shop.empty (id int PRIMARY KEY);
    CREATE TABLE shop.other (id int PRIMARY KEY);
    INSERT INTO shop.t SELECT i, 'old' FROM generate_series(1, 100) i;
"""
_HELD = "SELECT held FROM deltasync.source_table WHERE table_name = 't' AND held IS NOT NULL"


def _oid(connection: psycopg.Connection[Any], table: str) -> object:
    return connection.execute("SELECT to_regclass(%s)::oid", [table]).fetchone()


def _two_schemas(flow: Flow) -> None:
    source = flow.settings.source.model_copy(update={"schemas": ("shop", "attic")})
    flow.settings = flow.settings.model_copy(update={"source": source})
    flow.env["DELTASYNC_SOURCE_SCHEMAS"] = '["shop", "attic"]'


def test_a_table_follows_its_name(flow: Flow) -> None:
    """By policy: rows that the worker has not read yet come first; twice in a row, to another schema; an empty one."""
    flow.env |= {"DELTASYNC_DDL_RENAME_TABLE": "apply", "DELTASYNC_DDL_DROP_TABLE": "apply"}
    _two_schemas(flow)
    flow.set_up(_TABLES)
    worker = flow.start_settled()
    flow.wait_equal("shop.t", "shop.empty")
    flow.replica.execute("CREATE VIEW shop.seen AS SELECT * FROM shop.t; CREATE INDEX by_a ON shop.t (a)")
    oid = _oid(flow.replica, "shop.t")
    assert worker.stop() == 0

    flow.source.execute("INSERT INTO shop.t SELECT i, 'before' FROM generate_series(101, 300) i")
    with flow.source.transaction():
        flow.source.execute("UPDATE shop.t SET a = 'last' WHERE id = 7; ALTER TABLE shop.t RENAME TO u")
        flow.source.execute("UPDATE shop.u SET a = 'first' WHERE id = 8; ALTER TABLE shop.u ADD n int DEFAULT 5")
    flow.source.execute("ALTER TABLE shop.u SET SCHEMA attic; DELETE FROM attic.u WHERE id = 9")
    flow.source.execute("ALTER TABLE shop.empty RENAME TO filled; INSERT INTO shop.filled VALUES (1)")
    worker = flow.start_worker(DELTASYNC_BATCH_ROWS_MAX="7")
    flow.wait_equal("attic.u", "shop.filled")

    assert _oid(flow.replica, "attic.u") == oid
    assert flow.replica.execute("SELECT count(*) FROM shop.seen").fetchone() == (299,)
    query = (
        "SELECT complete, captured, held FROM deltasync.source_table WHERE table_name IN ('u', 'filled') AND captured"
    )
    assert set(flow.replica.execute(query + " AND NOT dropped")) == {(True, True, None)}
    flow.source.execute("CREATE TABLE shop.t (id int PRIMARY KEY, x int); INSERT INTO shop.t VALUES (1, 1)")
    flow.wait_equal("shop.t")
    assert not worker.blamed()


def test_a_rename_waits_for_the_operator(flow: Flow) -> None:
    """Rows under the new name wait with it, and those of another table under the old one. Dead letters come first."""
    flow.set_up(_TABLES)
    worker = flow.start_settled()
    flow.wait_equal("shop.t")
    flow.replica.execute("ALTER TABLE shop.t ADD CONSTRAINT small CHECK (id < 102)")
    flow.source.execute("INSERT INTO shop.t VALUES (101, 'last'), (103, 'set aside'); ALTER TABLE shop.t RENAME TO u")
    flow.source.execute("INSERT INTO shop.u VALUES (102, 'first'); CREATE TABLE shop.t (id int PRIMARY KEY, x int)")
    flow.source.execute("INSERT INTO shop.t VALUES (1, 1); INSERT INTO shop.other VALUES (1)")
    flow.wait_equal("shop.other")
    until(lambda: flow.replica.execute(_HELD).fetchone(), "it is held")
    until(lambda: flow.count("shop.t") == 101, "the last row under its name")
    assert 'ALTER TABLE "shop"."t" RENAME TO "u"' in flow.cli("schema", "list")

    flow.cli("schema", "approve", "shop.u", "--reason", "release 43")
    until(lambda: "set aside" in str(flow.replica.execute(_HELD).fetchone()), "its dead letter keeps it")
    flow.replica.execute("ALTER TABLE shop.t DROP CONSTRAINT small")
    flow.cli("dead-letters", "replay", "--all")
    flow.cli("schema", "approve", "shop.u", "--reason", "release 43")
    flow.wait_equal("shop.u", "shop.t")
    assert not worker.events("partition stopped")


def test_rows_that_come_before_their_table_was_renamed(flow: Flow) -> None:
    """Another table has its name, and the schema log is late: nothing tells their rows apart: both are read again."""
    flow.set_up(_TABLES)
    flow.start_settled().stop()
    with late_log(flow, Ddl(rename_table="apply")) as log:
        flow.wait_equal("shop.t")
        log.late = True
        flow.source.execute("ALTER TABLE shop.t RENAME TO u; CREATE TABLE shop.t (id int PRIMARY KEY, a text)")
        flow.source.execute("INSERT INTO shop.t VALUES (1, 'new'); UPDATE shop.u SET a = 'u' WHERE id = 2")
        mixed = "SELECT FROM shop.t WHERE id = 1 AND a = 'new'"
        until(lambda: flow.replica.execute(mixed).fetchone() is not None, "a row of the new table among the old ones")
        log.late = False
        states = "SELECT count(*) FROM deltasync.source_table WHERE table_name IN ('t', 'u') AND complete = %s"
        until(lambda: flow.replica.execute(states, [False]).fetchone() == (2,), "both are incomplete")
        until(lambda: flow.replica.execute("SELECT FROM shop.u WHERE a = 'u'").fetchone() is not None, "it goes on")
        flow.cli("resync", "shop.t", "shop.u")
        flow.wait_equal("shop.t", "shop.u")
        assert flow.replica.execute(states, [True]).fetchone() == (2,)
