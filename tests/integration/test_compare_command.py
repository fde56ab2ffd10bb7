"""`deltasync compare` on a pipeline in motion: equal, different, and not known yet."""

from __future__ import annotations

import json

from tests.flow import Flow

SHOP = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.item (id int PRIMARY KEY, n int);
    CREATE TABLE shop.file (id int PRIMARY KEY, handle refcursor);
    INSERT INTO shop.item SELECT n, n FROM generate_series(1, 500) n;
    INSERT INTO shop.file VALUES (1, 'left alone');
"""


def test_both_sides_of_a_running_pipeline_are_compared(flow: Flow) -> None:
    flow.env["DELTASYNC_TABLES"] = '{"shop.file": {"on_unsupported": "skip-column"}}'
    flow.source.execute(SHOP)
    for command in (("source", "setup"), ("replica", "setup"), ("connectors", "apply")):
        flow.cli(*command)
    worker = flow.start_worker()
    flow.source.execute("UPDATE shop.item SET n = -n WHERE id = 7")
    said = flow.cli("compare")  # no sooner than all of that has come
    assert "shop.file: equal (passed over: handle)" in said
    assert "once more" not in said

    flow.replica.execute("CREATE TABLE shop.own (id int)")
    flow.replica.execute("UPDATE shop.item SET n = 0 WHERE id = 7; DELETE FROM shop.item WHERE id = 8")
    said = flow.cli("compare", code=1)
    assert "shop.item: 1 rows differing; 1 rows missing; values of n" in said
    assert said.count("comparing 1 that differ once more") == 2
    assert "shop.own" not in said
    assert "shop.file" in flow.cli("compare", "shop.file")
    found = json.loads(flow.cli("compare", "shop.item", "--json", code=1))
    assert (found["equal"], found["tables"][0]["missing"]) == (False, 1)
    assert "Did you mean shop.item?" in flow.cli("compare", "shop.itme", code=2)

    assert worker.stop() == 0
    flow.source.execute("INSERT INTO shop.item VALUES (501, 1)")
    assert "does not hold yet" in flow.cli("compare", "--timeout", "2", code=3)
