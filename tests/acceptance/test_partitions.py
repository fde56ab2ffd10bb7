"""Partitions that come and go on the source: rows once, and what no record tells of is told, and read again."""

from __future__ import annotations

from tests.flow import Flow, until

_TABLES = """
    CREATE SCHEMA shop; CREATE SCHEMA away;
    CREATE TABLE shop.root (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
    CREATE TABLE shop.p0 PARTITION OF shop.root FOR VALUES FROM (0) TO (10);
    CREATE TABLE shop.p1 PARTITION OF shop.root FOR VALUES FROM (10) TO (20);
    CREATE TABLE away.loaded (LIKE shop.root INCLUDING ALL);
    INSERT INTO shop.root SELECT i, 'old' FROM generate_series(0, 19) i;
    INSERT INTO away.loaded VALUES (20, 'loaded'), (21, 'loaded');
"""
_STATES = "SELECT table_name, complete FROM deltasync.source_table WHERE captured AND NOT dropped"


def _states(flow: Flow) -> dict[str, bool]:
    return dict(flow.replica.execute(_STATES).fetchall())


def test_rows_of_partitions(flow: Flow) -> None:
    """Through their root or past it, those of one that is made or joins empty; those that came with one are owed."""
    flow.set_up(_TABLES)
    worker = flow.start_settled()
    flow.wait_equal("shop.root")
    with flow.source.transaction():
        flow.source.execute("CREATE TABLE shop.p3 PARTITION OF shop.root FOR VALUES FROM (30) TO (40)")
        flow.source.execute("INSERT INTO shop.root VALUES (30, 'through'); INSERT INTO shop.p3 VALUES (31, 'past')")
        flow.source.execute("CREATE TABLE away.p4 (LIKE shop.root INCLUDING ALL)")
        flow.source.execute("ALTER TABLE shop.root ATTACH PARTITION away.p4 FOR VALUES FROM (40) TO (50)")
    flow.source.execute("INSERT INTO away.p4 VALUES (40, 'past'); UPDATE shop.root SET id = 41 WHERE id = 5")
    flow.wait_equal("shop.root")
    assert _states(flow) == {"root": True}

    flow.source.execute("ALTER TABLE shop.root ATTACH PARTITION away.loaded FOR VALUES FROM (20) TO (30)")
    flow.source.execute("ALTER TABLE shop.root DETACH PARTITION shop.p0; DROP TABLE shop.p1")
    flow.source.execute("INSERT INTO shop.root VALUES (22, 'new'); INSERT INTO shop.p0 VALUES (5, 'alone')")
    until(lambda: _states(flow) == {"root": False, "p0": False}, "both are to be read again")
    until(lambda: flow.count("shop.p0") == 1 and flow.count("shop.root") == 24, "what comes behind is applied")
    flow.cli("resync", "shop.root", "shop.p0")
    flow.wait_equal("shop.root", "shop.p0")
    assert _states(flow) == {"root": True, "p0": True}
    flow.source.execute("ALTER TABLE shop.root ADD n int; UPDATE shop.root SET n = 1")
    flow.wait_equal("shop.root")
    assert _states(flow) == {"root": True, "p0": True}
    assert not worker.blamed()


def test_tables_of_nearly_the_same_name(flow: Flow) -> None:
    """Temporary, unlogged, in another case: none is taken for the one that travels, whatever becomes of it."""
    flow.env["DELTASYNC_DDL_DROP_TABLE"] = "apply"
    flow.set_up(
        "CREATE SCHEMA shop; CREATE TABLE shop.t (id int PRIMARY KEY); CREATE TABLE shop.plain (id int PRIMARY KEY)"
    )
    worker = flow.start_settled()
    flow.source.execute(
        "CREATE TEMP TABLE t (id int PRIMARY KEY, x text); INSERT INTO pg_temp.t VALUES (1, 'temporary')"
    )
    flow.source.execute(
        'CREATE UNLOGGED TABLE shop.u (id int PRIMARY KEY); CREATE TABLE shop."T" (id int PRIMARY KEY, x text)'
    )
    flow.source.execute(
        "INSERT INTO shop.u VALUES (1); INSERT INTO shop.\"T\" VALUES (1, 'capital'); INSERT INTO shop.t VALUES (2)"
    )
    flow.wait_equal("shop.t", 'shop."T"')
    flow.source.execute(
        'ALTER TABLE pg_temp.t RENAME TO plain; DROP TABLE pg_temp.plain; DROP TABLE shop."T"; DROP TABLE shop.u'
    )
    flow.source.execute("INSERT INTO shop.t VALUES (3); INSERT INTO shop.plain VALUES (1)")
    flow.wait_equal("shop.t", "shop.plain")
    until(
        lambda: flow.replica.execute("SELECT to_regclass('shop.\"T\"')").fetchone() == (None,), "the other one is gone"
    )
    assert flow.rows(flow.replica, "shop.t") == ["(2)", "(3)"]
    assert not worker.blamed()
