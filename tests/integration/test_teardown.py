"""A pipeline is ended on both sides, in the one order that is safe, and may begin anew under its name."""

from __future__ import annotations

import json

import pytest
from confluent_kafka.admin import AdminClient
from psycopg.conninfo import make_conninfo
from psycopg.pq import ExecStatus, PGconn
from tests.flow import Flow, until
from tests.integration.shop import Source
from tests.servers import Addresses

from deltasync.errors import RefusedError
from deltasync.source.setup import setup
from deltasync.source.teardown import teardown

ITEMS = "CREATE SCHEMA shop; CREATE TABLE shop.item (id int PRIMARY KEY, n int); INSERT INTO shop.item VALUES (1, 1)"
# What is of a pipeline on the source: slot, publication, event triggers, schema.
LEFT = """
    SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()),
           (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_event_trigger),
           (SELECT count(*) FROM pg_namespace WHERE nspname = 'deltasync')
"""


def test_the_consistency_of_a_pipeline_changes_as_the_readme_says(flow: Flow, servers: Addresses) -> None:
    """Each step is refused as long as the one before it is to be done."""
    flow.set_up(ITEMS)
    worker = flow.start_worker()
    flow.wait_equal("shop.item")
    flow.source.execute("UPDATE shop.item SET n = 2")
    flow.wait_equal("shop.item")

    connector = f"The connector {flow.connector} is there"
    assert connector in flow.cli("source", "teardown", "--yes", code=1)
    assert connector in flow.cli("replica", "teardown", "--yes", code=1)
    flow.cli("connectors", "delete", flow.connector, "--reset-offsets")
    assert "workers that run: 1" in flow.cli("replica", "teardown", "--yes", code=1)
    assert worker.stop() == 0
    assert "kafka-topics.sh --bootstrap-server" in flow.cli("replica", "teardown", "--yes", code=1)
    _delete_topics(servers, flow.settings.topic_prefix)
    assert "knows the pipeline" in flow.cli("source", "teardown", "--yes", code=1)
    assert flow.ledger()
    assert flow.source.execute(LEFT).fetchone() == (1, 1, 2, 1)

    _end(flow)
    flow.source.execute("INSERT INTO shop.item VALUES (2, 2); DELETE FROM shop.item WHERE id = 1")
    flow.replica.execute("TRUNCATE shop.item")
    flow.env["DELTASYNC_CONSISTENCY"] = "transaction"
    flow.cli("source", "setup")
    flow.cli("replica", "setup")
    flow.cli("connectors", "apply")
    flow.start_worker()
    flow.wait_equal("shop.item")
    flow.source.execute("UPDATE shop.item SET n = 3; INSERT INTO shop.item VALUES (3, 3)")
    flow.cli("wait")
    assert flow.equal("shop.item")


def _end(flow: Flow) -> None:
    assert "Aborted" in flow.cli("replica", "teardown", code=1)  # nobody can be asked
    assert 'TRUNCATE "shop"."item";' in flow.cli("replica", "teardown", "--yes")
    assert flow.ledger() == {}
    assert f"does not know the pipeline {flow.pipeline.name}" in flow.cli("replica", "teardown")
    assert "Aborted" in flow.cli("source", "teardown", code=1)
    assert "DROP SCHEMA deltasync CASCADE;" in flow.cli("source", "teardown", "--dry-run")
    assert flow.source.execute(LEFT).fetchone() == (1, 1, 2, 1)
    said = flow.cli("source", "teardown", "--yes")
    assert f"replication slot {flow.settings.slot} dropped" in said
    assert f"the role {flow.pipeline.name} stays" in said
    assert flow.source.execute(LEFT).fetchone() == (0, 0, 0, 0)
    assert "nothing of the pipeline" in flow.cli("source", "teardown")


def _delete_topics(servers: Addresses, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers.kafka})

    def left() -> list[str]:
        return [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(f"{prefix}.")]

    for future in admin.delete_topics(left()).values():
        future.result(timeout=10)
    until(lambda: not left(), "the topics are deleted")


def test_another_pipeline_of_the_database_stays_as_it_was(source: Source) -> None:
    source.setup()
    source.admin.execute("CREATE SCHEMA crm; CREATE TABLE crm.lead (id int PRIMARY KEY)")
    section = source.settings.source.model_copy(update={"schemas": ("crm",)})
    other = source.settings.model_copy(update={"pipeline": f"{source.settings.pipeline}_2", "source": section})
    setup(other)
    source.make_slot()

    report = teardown(other)
    assert f"publication {other.publication}" in report.done
    assert report.notes == [f"event triggers and schema deltasync stay for {source.settings.pipeline}"]
    assert source.admin.execute(LEFT).fetchone() == (1, 1, 2, 1)
    assert source.published() == {"customer", "Order Line", "visit"}
    source.admin.execute("CREATE TABLE shop.later (id int PRIMARY KEY); CREATE TABLE crm.later (id int PRIMARY KEY)")
    assert "later" in source.published()
    assert teardown(other).done == []
    assert [(table.name, table.changed) for table in setup(other).tables] == [("later", True), ("lead", True)]

    teardown(other)
    teardown(source.settings)
    assert source.admin.execute(LEFT).fetchone() == (0, 0, 0, 0)


def test_a_slot_in_use_is_refused_and_nothing_is_changed(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltasync.source.teardown._SLOT_TIMEOUT_S", 0.5)
    source.setup()
    source.make_slot()
    before = source.admin.execute(LEFT).fetchone()
    admin = source.settings.source.admin_conninfo() or ""
    stream = PGconn.connect(make_conninfo(admin, replication="database").encode())
    options = f"(proto_version '1', publication_names '{source.settings.publication}')"
    begin = f"START_REPLICATION SLOT {source.settings.slot} LOGICAL 0/0 {options}"
    assert stream.exec_(begin.encode()).status == ExecStatus.COPY_BOTH
    with pytest.raises(RefusedError, match="is in use"):
        teardown(source.settings)
    stream.finish()
    assert source.admin.execute(LEFT).fetchone() == before
    monkeypatch.undo()
    teardown(source.settings)  # waits until the server has noticed
    assert source.admin.execute(LEFT).fetchone() == (0, 0, 0, 0)


def test_a_newer_deltasync_is_not_meddled_with(source: Source) -> None:
    source.setup()
    source.admin.execute("UPDATE deltasync.source_version SET version = version + 1")
    with pytest.raises(RefusedError, match="newer deltasync"):
        teardown(source.settings)


def test_the_report_is_for_programs_too(flow: Flow) -> None:
    flow.source.execute(ITEMS)
    setup(flow.settings)
    done = json.loads(flow.cli("source", "teardown", "--yes", "--json"))
    assert done["done"][-1] == "schema deltasync"
    assert json.loads(flow.cli("source", "teardown", "--json"))["done"] == []
