"""`on_unsupported = "skip-column"`: the rest of the table is equal, and nobody forgets what is not."""

from __future__ import annotations

import json
from functools import partial

import pytest
from tests.flow import Flow, until

from deltasync.errors import RefusedError
from deltasync.postgres.types import skipping
from deltasync.settings import TableRules
from deltasync.source.setup import setup as source_setup
from deltasync.verify.compare import How, compare

TABLES = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.place (id int PRIMARY KEY, name text, area polygon NOT NULL, prices money[], day date);
    INSERT INTO shop.place SELECT n, 'a', '((0,0),(1,1))', '{$1.50,NULL}', '0044-03-15 BC' FROM generate_series(1, 3) n;
"""
TRAVELS = "SELECT id, name, day::text FROM shop.place ORDER BY id"
LEFT_ALONE = "SELECT count(*) FROM shop.place WHERE area IS NOT NULL OR prices IS NOT NULL"


def _skip(flow: Flow) -> None:
    rules = {"shop.place": TableRules(on_unsupported="skip-column")}
    flow.settings = flow.settings.model_copy(update={"tables": rules})
    flow.env["DELTASYNC_TABLES"] = '{"shop.place": {"on_unsupported": "skip-column"}}'


def _alike(flow: Flow) -> bool:
    return flow.source.execute(TRAVELS).fetchall() == flow.replica.execute(TRAVELS).fetchall()


@pytest.mark.timeout(300)
def test_a_column_that_cannot_be_carried_is_left_alone_and_named_for_ever(flow: Flow) -> None:
    """Refused without the setting; with it neither read nor written, and told by check, lag, metrics and comparison."""
    with pytest.raises(RefusedError, match=r"shop\.place: column area: the type polygon") as refused:
        flow.set_up(TABLES)
    assert '`on_unsupported = "skip-column"` in [tables."schema.table"]' in refused.value.remedy
    _skip(flow)
    flow.set_up("")
    worker = flow.start_worker()
    until(lambda: flow.count("shop.place") == 3, "the snapshot")
    flow.source.execute(
        "INSERT INTO shop.place VALUES (4, 'b', '((1,1))', '{NULL}'); DELETE FROM shop.place WHERE id = 1"
    )
    flow.source.execute(
        "UPDATE shop.place SET name = 'c', area = '((2,2))' WHERE id = 2; UPDATE shop.place SET id = 9 WHERE id = 3"
    )
    until(lambda: _alike(flow), "the rest is equal")
    assert flow.replica.execute(LEFT_ALONE).fetchone() == (0,)

    # One that is added later comes in the records until the connector is applied anew.
    flow.source.execute("ALTER TABLE shop.place ADD COLUMN mask varbit; UPDATE shop.place SET mask = '01', name = 'd'")
    until(lambda: _alike(flow), "equal still")
    assert flow.replica.execute("SELECT count(mask) FROM shop.place").fetchone() == (0,)
    assert "column.exclude.list" in flow.cli("connectors", "plan", code=1)
    flow.cli("connectors", "apply")
    assert "unchanged" in flow.cli("connectors", "plan")
    flow.source.execute("UPDATE shop.place SET mask = '001', name = 'e'")
    until(lambda: _alike(flow), "equal without it")

    _told(flow)
    until(lambda: worker.metric("deltasync_skipped_columns", table="shop.place") == 3, "told in metrics")
    _taken_up_again(flow)


def _told(flow: Flow) -> None:
    findings = json.loads(flow.cli("check", "--json"))["findings"]
    told = {found["what"]: found["gravity"] for found in findings if "shop.place: column" in found["what"]}
    assert sorted(what.split(":")[1] for what in told) == [" column area", " column mask", " column prices"]
    assert set(told.values()) == {"note"}
    assert "left alone: area, prices, mask" in flow.cli("lag")
    lag = json.loads(flow.cli("lag", "--json"))
    assert [one["skipped"] for one in lag["tables"]] == [["area", "prices", "mask"]]
    skip = partial(skipping, skip=flow.settings.skipping, raw_text=False)
    names = {"schemas": ["shop"], "publication": flow.settings.publication}
    (found,) = compare(flow.pipeline.source_admin, flow.pipeline.replica_admin, **names, how=How(skip))  # type: ignore[arg-type]
    assert str(found) == "shop.place: equal (passed over: area, prices, mask)"


def _taken_up_again(flow: Flow) -> None:
    """What did not come so far is owed, however it can come by now."""
    flow.use_converter(True)  # noqa: FBT003 - what it sets
    (place,) = source_setup(flow.settings).tables
    assert (place.captured, place.complete) == (True, False)
    lag = "SELECT complete, jsonb_path_exists(description, '$.columns[*].skipped') FROM deltasync.source_table"
    until(lambda: flow.replica.execute(lag).fetchall() == [(False, False)], "owed")
