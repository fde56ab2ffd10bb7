"""`source setup` on a real PostgreSQL: what it makes, what it refuses, and that it may run again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import psycopg
import pytest
from tests.conftest import Pipeline
from tests.integration.shop import Source

from deltasync.environment import child_environment
from deltasync.errors import RefusedError
from deltasync.postgres.catalog import describe_tables
from deltasync.postgres.connect import connect
from deltasync.source import position
from deltasync.source.setup import setup
from deltasync.source.statements import VERSION
from deltasync.table import Table


def test_it_captures_what_has_a_key_and_says_why_not_of_the_rest(source: Source) -> None:
    report = source.setup()

    assert {t.name: t.reason for t in report.tables} == {
        "customer": None,
        "Order Line": None,
        "visit": None,
        "keyless": "no primary key: add one, or set REPLICA IDENTITY FULL, or USING INDEX a unique index of NOT NULL "
        "columns",
        "cache": "unlogged",
    }
    assert source.published() == {"customer", "Order Line", "visit"}
    assert report.notes == []
    (description,) = source.admin.execute(
        "SELECT description::text FROM deltasync.schema_log WHERE table_name = 'customer'"
    ).fetchone() or ("",)
    with connect(source.settings.source.conninfo() or "", name="test") as reader:
        described = {table.name: table for table in describe_tables(reader, ["shop"])}
    assert Table.from_json(description) == described["customer"]
    columns = {c.name: c for c in described["customer"].columns}
    assert columns["name"].sql_type == "character varying(40)"
    assert [(type_.name, type_.labels) for type_ in described["customer"].types] == [("status", ("new", "paid"))]
    assert columns["tags"].element is not None
    assert columns["id"].identity == "a"
    assert columns["lower_name"].generated == "s"
    assert described["Order Line"].primary_key == ("line", "order_id")
    assert described["visit"].kind == "p"
    assert described["visit_2020"].parent == "shop.visit"


def test_the_command_reports_as_json_or_in_words(source: Source, pipeline: Pipeline) -> None:
    def run(*options: str) -> str:
        command = [sys.executable, "-m", "deltasync.cli.main", "source", "setup", *options]
        environment = child_environment(pipeline.env)
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    assert "CREATE PUBLICATION" in run("--dry-run")
    report = json.loads(run("--json"))
    assert {table["name"] for table in report["tables"] if table["captured"]} == source.published()
    assert "3 of 5 tables captured, 0 announced" in run()


def test_run_again_it_announces_only_what_changed(source: Source) -> None:
    source.setup()
    again = source.setup()
    source.admin.execute("ALTER EVENT TRIGGER deltasync_ddl DISABLE")
    source.admin.execute("ALTER TABLE shop.customer ADD COLUMN born date")
    third = source.setup()

    assert [t.name for t in again.tables if t.changed] == []
    assert [t.name for t in third.tables if t.changed] == ["customer"]
    assert [event for event, *_ in source.log("customer")] == ["announce", "announce"]
    source.admin.execute("ALTER TABLE shop.customer DROP COLUMN born")
    assert source.newest("customer")[0] == "ddl"  # the disabled trigger was put back


def test_a_dry_run_changes_nothing_and_masks_the_password(source: Source) -> None:
    report = setup(source.settings, dry_run=True)

    text = "\n".join(report.sql)
    assert "PASSWORD '***'" in text
    assert "CREATE PUBLICATION" in text
    assert "SCRAM" not in text
    assert source.admin.execute("SELECT to_regnamespace('deltasync') IS NULL").fetchone() == (True,)
    assert source.admin.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
    query = "SELECT count(*) FROM pg_roles WHERE rolname = %s"
    assert source.admin.execute(query, [source.settings.pipeline]).fetchone() == (0,)


def test_the_role_may_read_and_beat_and_no_more(source: Source) -> None:
    source.admin.execute(f"REVOKE ALL ON DATABASE {source.admin.info.dbname} FROM PUBLIC")
    source.setup()
    source.admin.execute("CREATE TABLE shop.later (id int PRIMARY KEY)")
    names = source.settings.pipeline, source.settings.publication, source.settings.slot

    with psycopg.connect(source.settings.source.conninfo() or "", autocommit=True) as reader:
        assert reader.execute("SHOW TimeZone").fetchone() == ("UTC",)
        for allowed in ("TABLE shop.customer", "TABLE shop.later", "TABLE deltasync.schema_log"):
            reader.execute(allowed)
        assert position.beat(reader, *names) == 2
        assert position.beat(reader, *names) == 3
        forbidden = (
            "INSERT INTO shop.later VALUES (1)",
            "UPDATE deltasync.canary SET beat = 0",
            "SELECT * FROM shop.keyless",
            "SELECT deltasync.announce('x')",
            "CREATE TABLE deltasync.x (a int)",
        )
        for statement in forbidden:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)


def test_what_cannot_be_carried_is_refused_before_anything_changes(source: Source) -> None:
    source.admin.execute("CREATE TABLE shop.price (id int PRIMARY KEY, amount refcursor, amounts money[])")

    with pytest.raises(RefusedError) as refused:
        source.setup()

    assert "shop.price: column amount: the type refcursor is not carried exactly" in refused.value.what
    assert "exclude" in refused.value.remedy
    assert source.admin.execute("SELECT to_regnamespace('deltasync') IS NULL").fetchone() == (True,)
    report = source.setup(exclude=("shop.price",))
    assert [t.reason for t in report.tables if t.name == "price"] == ["excluded"]


def test_a_source_of_version_1_is_migrated(source: Source) -> None:
    """It knows then whether the connector has the converter, and refuses by it."""
    source.setup()
    source.admin.execute("""
        ALTER TABLE deltasync.pipeline DROP COLUMN raw_text, DROP COLUMN keyless,
          DROP COLUMN mark_xid, DROP COLUMN mark_lsn, DROP COLUMN settled_xid;
        ALTER TABLE deltasync.canary DROP COLUMN settled_xid; ALTER TABLE deltasync.schema_log DROP COLUMN xid,
          DROP COLUMN former_schema, DROP COLUMN former_table;
        ALTER TABLE deltasync.carried_type DROP COLUMN needs;
        DROP TABLE deltasync.skipping_table, deltasync.signal, deltasync.known_leaf;
        UPDATE deltasync.source_version SET version = 1
    """)
    with_converter = source.settings.connect.model_copy(update={"raw_text": True})
    Source(source.admin, source.settings.model_copy(update={"connect": with_converter})).setup()

    assert source.admin.execute("SELECT version FROM deltasync.source_version").fetchone() == (VERSION,)
    assert source.admin.execute("SELECT raw_text FROM deltasync.pipeline").fetchone() == (True,)
    signals = "SELECT rowfilter FROM pg_publication_tables WHERE tablename = 'signal'"
    assert source.settings.pipeline in str(source.admin.execute(signals).fetchone())
    source.admin.execute("CREATE TABLE shop.opening (id int PRIMARY KEY, at timetz, on_days bool[])")
    assert source.newest("opening") == ("ddl", True, True, None)


def test_a_table_that_is_excluded_or_whose_schema_is_dropped_from_the_settings_leaves(source: Source) -> None:
    source.admin.execute("CREATE SCHEMA other; CREATE TABLE other.thing (id int PRIMARY KEY)")
    source.setup(schemas=("shop", "other"))
    assert "thing" in source.published()
    source.setup(schemas=("shop",), exclude=("shop.customer",))

    assert source.published() == {"Order Line", "visit"}
    assert source.newest("thing")[0] == "drop"
    assert source.newest("customer")[:2] == ("announce", False)


def test_the_canary_tells_of_publication_and_slot(source: Source) -> None:
    source.setup()
    source.make_slot()
    names = source.settings.pipeline, source.settings.publication, source.settings.slot
    position.beat(source.admin, *names)
    query = "SELECT publication_digest, publication_tables, slot_wal_status FROM deltasync.canary"
    whole = source.admin.execute(query).fetchone()

    assert whole == (position.publication_digest(source.admin, names[1]), 5, "reserved")
    source.admin.execute(f"DROP PUBLICATION {names[1]}")
    position.beat(source.admin, *names)
    assert source.admin.execute(query).fetchone() == ("d41d8cd98f00b204e9800998ecf8427e", 0, "reserved")


def test_an_hourly_beat_prunes_what_is_old_and_superseded(source: Source) -> None:
    source.setup()
    source.admin.execute("ALTER TABLE shop.customer ADD COLUMN a int; DROP TABLE shop.keyless")
    source.admin.execute("UPDATE deltasync.schema_log SET logged_at = now() - interval '31 days'")
    names = source.settings.pipeline, source.settings.publication, source.settings.slot
    source.admin.execute("INSERT INTO deltasync.signal VALUES ('a-open', ''), ('b-close', ''), ('p:1', 'stop')")
    position.beat(source.admin, *names)
    assert len(source.log("customer")) == 2
    source.admin.execute("UPDATE deltasync.canary SET beat_at = now() - interval '2 hours'")
    position.beat(source.admin, *names)

    assert source.log("customer") == [("ddl", True, True, None)]
    assert source.log("keyless") == []
    assert source.admin.execute("SELECT id FROM deltasync.signal").fetchall() == [("p:1",)]
    assert source.log("visit") == [("announce", True, True, None)]


def test_the_slot_tells_how_far_it_has_come(source: Source) -> None:
    assert position.slot_state(source.admin, source.settings.slot) is None
    source.make_slot()
    before = position.current_lsn(source.admin)
    state = position.slot_state(source.admin, source.settings.slot)

    assert state is not None
    assert state.confirmed_flush_lsn is not None
    assert 0 < state.confirmed_flush_lsn <= before
    assert (state.wal_status, state.active, state.invalidation_reason) == ("reserved", False, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schemas": ("shop", "nowhere")}, "no schema nowhere"),
        ({"schemas": ("deltasync",)}, "not for capturing"),
    ],
)
def test_wrong_settings_are_refused(source: Source, changes: dict[str, object], says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        source.setup(**changes)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda name: f"CREATE PUBLICATION {name} FOR ALL TABLES", "not a list of tables"),
        (lambda name: f"CREATE PUBLICATION {name} FOR TABLES IN SCHEMA shop", "not a list of tables"),
    ],
)
def test_a_publication_of_more_than_a_list_is_refused(source: Source, prepare: Callable[[str], str], says: str) -> None:
    source.admin.execute(prepare(source.settings.publication))
    with pytest.raises(RefusedError, match=says):
        source.setup()


def test_a_newer_setup_and_another_pipelines_schema_are_refused(source: Source) -> None:
    source.setup()
    with pytest.raises(RefusedError, match="Another pipeline captures the schema shop"):
        setup(source.settings.model_copy(update={"pipeline": f"{source.settings.pipeline}_b"}))
    source.admin.execute("UPDATE deltasync.source_version SET version = 99")
    with pytest.raises(RefusedError, match="newer deltasync"):
        source.setup()


def test_an_administrator_who_is_no_superuser_gets_all_but_event_triggers(source: Source) -> None:
    owner = f"{source.settings.pipeline}_owner"
    database = source.admin.info.dbname
    source.admin.execute(f"CREATE ROLE {owner} LOGIN PASSWORD '{owner}' CREATEROLE")
    source.admin.execute(f"GRANT CREATE ON DATABASE {database} TO {owner}; ALTER SCHEMA shop OWNER TO {owner}")
    for name in ("customer", '"Order Line"', "keyless", "cache", "visit", "visit_2020"):
        source.admin.execute(f"ALTER TABLE shop.{name} OWNER TO {owner}")
    source.admin.execute(f"CREATE ROLE {source.settings.pipeline} LOGIN REPLICATION PASSWORD 'p' NOINHERIT")
    for key, value in (("bytea_output", "hex"), ("extra_float_digits", "1"), ("IntervalStyle", "postgres")):
        source.admin.execute(f"ALTER ROLE {source.settings.pipeline} SET {key} = '{value}'")
    source.admin.execute(f"ALTER ROLE {source.settings.pipeline} SET TimeZone = 'UTC'")
    source.admin.execute(f"ALTER ROLE {source.settings.pipeline} SET lc_monetary = 'C'")
    dsn = psycopg.conninfo.make_conninfo(source.settings.source.admin_conninfo() or "", user=owner, password=owner)
    section = source.settings.source.model_validate({**source.settings.source.model_dump(), "admin_dsn": dsn})
    report = setup(source.settings.model_copy(update={"source": section}))

    assert "No event triggers" in report.notes[0]
    assert source.published() == {"customer", "Order Line", "visit"}
    source.admin.execute(f"DROP SCHEMA deltasync CASCADE; DROP OWNED BY {owner} CASCADE; DROP ROLE {owner}")
