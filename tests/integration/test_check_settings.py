"""`deltasync check` on settings that do not fit what is there."""

from __future__ import annotations

import json

import pytest
from tests.flow import Flow
from tests.integration.reports import Expected, expect, only

from deltasync.check.examine import examine
from deltasync.settings import Settings


def test_names_in_the_settings_that_are_of_no_table_are_told(flow: Flow) -> None:
    """A slip in a name would have no effect, and nobody would know why."""
    flow.source.execute("CREATE SCHEMA shop; CREATE TABLE shop.place (id int PRIMARY KEY)")
    flow.env["DELTASYNC_TABLES"] = json.dumps({"shop.plaec": {"on_unsupported": "skip-column"}, "shop.place": {}})
    flow.env["DELTASYNC_SOURCE_EXCLUDE"] = json.dumps(["shop.gone"])
    del flow.env["DELTASYNC_CONNECT_URL"]  # without its role it cannot reach the source yet
    said = flow.cli("check")

    assert "warning   [tables] names shop.plaec, and the captured schemas have no such table." in said
    assert "do: Did you mean shop.place?" in said
    assert "note      `exclude` in [source] names shop.gone, " in said
    assert "names shop.place," not in said


@pytest.mark.timeout(240)
def test_whole_transactions_that_the_worker_would_refuse_are_told(flow: Flow) -> None:
    """Not before the pipeline has begun, and not where nobody asks for whole transactions."""
    flow.set_up("CREATE SCHEMA shop; CREATE TABLE shop.item (id int PRIMARY KEY); INSERT INTO shop.item VALUES (1)")
    whole = flow.settings.model_copy(update={"consistency": "transaction"})
    in_parts = ('applied with consistency = "key"', "refused", 'Go on with consistency = "key"')
    assert not _told(whole, in_parts)
    worker = flow.start_worker()
    flow.wait_equal("shop.item")
    flow.source.execute("INSERT INTO shop.item VALUES (2)")
    flow.wait_equal("shop.item")
    assert worker.stop() == 0

    expect(examine(only(whole, "replica")), [in_parts])
    assert not _told(flow.settings, in_parts)
    flow.env["DELTASYNC_CONSISTENCY"] = "transaction"
    flow.cli("connectors", "apply")
    refusing = flow.start_worker()
    assert refusing.process.wait(60) == 1
    assert refusing.said("transactions may be applied in part")

    flow.replica.execute("UPDATE deltasync.ledger SET seq0 = NULL, seq1 = NULL")
    assert not _told(whole, in_parts)


def _told(settings: Settings, finding: Expected) -> bool:
    return any(finding[0] in one.what for one in examine(only(settings, "replica")).findings)
