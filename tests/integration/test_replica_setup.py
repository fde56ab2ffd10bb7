"""`replica setup` on a real PostgreSQL, and what holds a table until it is run again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from tests.conftest import Pipeline
from tests.flow import Flow, until
from tests.servers import Addresses

from deltasync.errors import RefusedError
from deltasync.postgres.catalog import describe_tables
from deltasync.replica.engine import open_replica
from deltasync.replica.session import Replica
from deltasync.replica.setup import setup
from deltasync.replica.tables import VERSION
from deltasync.settings import Settings
from deltasync.source.setup import setup as source_setup

SHOP = """
    CREATE SCHEMA shop;
    CREATE TYPE shop.status AS ENUM ('new', 'it''s paid');
    CREATE FUNCTION shop.only_here() RETURNS text LANGUAGE sql AS 'SELECT ''x''';
    CREATE TABLE shop.customer (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(40) NOT NULL DEFAULT 'it''s', status shop.status,
      total numeric(12,2) DEFAULT 0.10, at timestamptz(3), tags text[] DEFAULT '{a}', doubled int
      GENERATED ALWAYS AS (2 * 21) STORED, "select" int, "Ünï.co""de" text);
    CREATE TABLE shop."Order Line" (order_id bigserial, line int, what text DEFAULT shop.only_here(),
      PRIMARY KEY (line, order_id));
    CREATE TABLE shop.keyless (a int);
"""


@pytest.fixture
def admin(pipeline: Pipeline) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(pipeline.replica_admin, autocommit=True) as connection:
        yield connection


@pytest.fixture
def settings(pipeline: Pipeline) -> Settings:
    """A source with a shop, set up."""
    with psycopg.connect(pipeline.source_admin, autocommit=True) as source:
        source.execute(SHOP)
    source_setup(pipeline.settings)
    return pipeline.settings


def test_missing_tables_are_made_like_the_sources(settings: Settings, pipeline: Pipeline) -> None:
    """Columns, types, NOT NULL, key, generated columns and defaults, but those that only the source knows."""
    report = setup(settings)

    assert report.created == ["shop.Order Line", "shop.customer"]
    with psycopg.connect(pipeline.source_admin) as source, psycopg.connect(pipeline.replica_admin) as replica:
        for connection in (source, replica):
            connection.execute("SET search_path = pg_catalog")
        wanted, made = ({t.id.name: t for t in describe_tables(c, ["shop"])} for c in (source, replica))
    assert [(c.name, c.sql_type, c.not_null, c.generated) for c in made["customer"].columns] == [
        (c.name, c.sql_type, c.not_null, c.generated) for c in wanted["customer"].columns
    ]
    assert made["customer"].column("name").default == wanted["customer"].column("name").default  # type: ignore[union-attr]
    assert made["Order Line"].primary_key == ("line", "order_id")
    assert made["Order Line"].column("what").default is None  # type: ignore[union-attr]
    assert "keyless" not in made


def test_it_may_be_run_again(settings: Settings) -> None:
    """The second run finds nothing to do."""
    assert setup(settings).role is not None
    again = setup(settings)

    assert (again.role, again.created) == (None, [])


def test_the_service_is_no_superuser_and_owns_what_it_makes(settings: Settings, admin: psycopg.Connection[Any]) -> None:
    """Its role may make tables and nothing beyond the database."""
    setup(settings)

    role = admin.execute(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = %s",
        [settings.pipeline],
    ).fetchone()
    owners = admin.execute(
        "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('shop', 'deltasync')"
    ).fetchall()
    assert role == (False,) * 5
    assert owners == [(settings.pipeline,)]


def test_another_database_may_be_set_up_at_the_same_time(
    settings: Settings, admin: psycopg.Connection[Any], servers: Addresses
) -> None:
    """The right to set a parameter is granted in one row that all databases of a server share."""
    with psycopg.connect(servers.replica_admin) as other, ThreadPoolExecutor(1) as pool:
        other.execute("CREATE ROLE setup_elsewhere")
        other.execute("GRANT SET ON PARAMETER session_replication_role TO setup_elsewhere")
        replica = settings.replica.model_copy(update={"constraints": "replica-role"})
        done = pool.submit(setup, settings.model_copy(update={"replica": replica}))
        waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        until(lambda: admin.execute(waits).fetchone(), "it waits for the other")
        other.commit()
        try:
            done.result(30)
        finally:
            other.execute("DROP OWNED BY setup_elsewhere; DROP ROLE setup_elsewhere")
    may = "SELECT has_parameter_privilege(%s, 'session_replication_role', 'SET')"
    assert admin.execute(may, [settings.pipeline]).fetchone() == (True,)


def test_tables_that_others_own_are_granted(settings: Settings, admin: psycopg.Connection[Any]) -> None:
    """They are left as they are."""
    admin.execute("CREATE SCHEMA shop; CREATE TABLE shop.customer (id bigint PRIMARY KEY)")
    report = setup(settings)

    assert report.created == ["shop.Order Line"]
    row = admin.execute(
        "SELECT has_table_privilege(%s, 'shop.customer', 'INSERT, UPDATE, DELETE, TRUNCATE')", [settings.pipeline]
    )
    assert row.fetchone() == (True,)


def test_versions_are_checked(settings: Settings, admin: psycopg.Connection[Any]) -> None:
    """No tables: set up. A newer version: refused by both. An older one: the service says what to run."""
    setup(settings)
    admin.execute("DROP SCHEMA deltasync CASCADE")
    with pytest.raises(RefusedError, match="has no schema deltasync") as missing:
        Replica(settings).tables()
    assert "replica setup" in missing.value.remedy

    setup(settings)
    with open_replica(settings, name="test") as connection, connection.begin():
        assert connection.execute(sa.text("SELECT version FROM deltasync.version")).scalar_one() == VERSION
    admin.execute("UPDATE deltasync.version SET version = version + 1")
    for attempt in (lambda: setup(settings), lambda: Replica(settings).tables()):
        with pytest.raises(RefusedError, match="newer deltasync"):
            attempt()
    admin.execute("UPDATE deltasync.version SET version = 0")
    with pytest.raises(RefusedError, match="version 0"):
        Replica(settings).tables()


def test_tables_of_an_older_version_are_migrated(settings: Settings, admin: psycopg.Connection[Any]) -> None:
    """They end like new ones, and what they hold stays."""
    columns = """SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
                  WHERE table_schema = 'deltasync' ORDER BY 1, 2"""
    setup(settings)
    new = admin.execute(columns).fetchall()
    admin.execute(
        "ALTER TABLE deltasync.ledger DROP COLUMN tied, DROP COLUMN floor_seq0, DROP COLUMN floor_committed_at"
    )
    admin.execute(
        "ALTER TABLE deltasync.source_table DROP COLUMN missing, DROP COLUMN gone_lsn, DROP COLUMN gone_at_us"
    )
    admin.execute("ALTER TABLE deltasync.source_canary DROP COLUMN refused, DROP COLUMN doubt, DROP COLUMN settled_xid")
    admin.execute("ALTER TABLE deltasync.source_table DROP COLUMN pending; DROP TABLE deltasync.schema_audit")
    admin.execute("UPDATE deltasync.version SET version = 1")
    admin.execute(
        "INSERT INTO deltasync.ledger (pipeline, topic, topic_id, partition, next_offset) VALUES ('p','t','i',0,7)"
    )
    with pytest.raises(RefusedError, match="version 1"):
        open_replica(settings, name="test")
    setup(settings)

    assert admin.execute(columns).fetchall() == new
    assert admin.execute("SELECT next_offset, tied FROM deltasync.ledger").fetchall() == [(7, [])]
    open_replica(settings, name="test").close()


def test_a_rename_holds_its_table_until_the_replica_was_made_to_fit(flow: Flow) -> None:
    """Nothing is guessed, other tables go on, and nothing of the held one is lost."""
    flow.set_up("""
        CREATE SCHEMA shop;
        CREATE TABLE shop.held (id int PRIMARY KEY, old_name text);
        CREATE TABLE shop.other (id int PRIMARY KEY);
        INSERT INTO shop.held VALUES (1, 'before');
    """)
    flow.start_worker()
    flow.wait_equal("shop.held")

    flow.source.execute("ALTER TABLE shop.held RENAME old_name TO new_name; INSERT INTO shop.held VALUES (2, 'after')")
    flow.source.execute("INSERT INTO shop.other VALUES (1)")
    flow.wait_equal("shop.other")
    query = "SELECT held FROM deltasync.source_table WHERE table_name = 'held' AND held IS NOT NULL"
    until(lambda: flow.replica.execute(query).fetchone(), "the table held")
    assert flow.count("shop.held") == 1

    flow.source.execute("ALTER TABLE shop.held ADD COLUMN more int; CREATE TABLE shop.later (id int PRIMARY KEY)")
    flow.source.execute("INSERT INTO shop.later VALUES (1)")
    flow.wait_equal("shop.later")
    assert flow.replica.execute(query).fetchone() is not None

    flow.replica.execute("ALTER TABLE shop.held RENAME old_name TO new_name; ALTER TABLE shop.held ADD more int")
    report = setup(flow.settings)
    assert report.released == ["shop.held"]
    flow.wait_equal("shop.held", "shop.other")


def test_a_change_that_the_replica_refuses_holds_its_table_only(flow: Flow) -> None:
    """A type that is another one on the replica, a default that differs per row, a table made again with rows here."""
    flow.set_up("""
        CREATE SCHEMA shop;
        CREATE DOMAIN shop.code AS numeric;
        CREATE TABLE shop.typed (id int PRIMARY KEY);
        CREATE TABLE shop.random (id int PRIMARY KEY);
        CREATE TABLE shop.again (id int PRIMARY KEY);
        CREATE TABLE shop.other (id int PRIMARY KEY);
        INSERT INTO shop.again VALUES (1);
        INSERT INTO shop.random VALUES (1);
    """)
    flow.start_worker()
    flow.wait_equal("shop.again", "shop.random")
    flow.replica.execute("CREATE DOMAIN shop.code AS numeric(5,1)")
    flow.source.execute("ALTER TABLE shop.typed ADD COLUMN code shop.code")
    flow.source.execute("ALTER TABLE shop.random ADD COLUMN key uuid DEFAULT gen_random_uuid()")
    flow.source.execute("DROP TABLE shop.again")
    flow.source.execute("CREATE TABLE shop.again (id int PRIMARY KEY)")
    flow.source.execute("INSERT INTO shop.other VALUES (1)")

    flow.wait_equal("shop.other")
    query = "SELECT table_name FROM deltasync.source_table WHERE held IS NOT NULL ORDER BY 1"
    until(lambda: [n for (n,) in flow.replica.execute(query)] == ["again", "random", "typed"], "the three held")

    assert setup(flow.settings).held["shop.again"].endswith("deltasync schema approve shop.again")
    flow.cli("schema", "approve", "shop.again", "--reason", "it was made again")
    flow.source.execute("INSERT INTO shop.again VALUES (2)")
    flow.wait_equal("shop.again")
