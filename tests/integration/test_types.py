"""Types that the replica has to be given: made by itself where it may be, else held with the reason."""

from __future__ import annotations

from tests.flow import Flow, until

from deltasync.replica.setup import setup as replica_setup
from deltasync.source.setup import setup as source_setup

SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TYPE shop.mood AS ENUM ('sad');
    CREATE TYPE shop.pair AS (a int, m shop.mood);
    CREATE DOMAIN shop.couple AS shop.pair;
    CREATE TABLE shop.item (id int PRIMARY KEY, c shop.couple);
    INSERT INTO shop.item VALUES (1, '(1,sad)');
"""


def _held(flow: Flow, name: str) -> str:
    query = "SELECT held FROM deltasync.source_table WHERE table_name = %s"
    row = flow.replica.execute(query, [name]).fetchone()
    return (row[0] if row else None) or ""


def test_types_follow_as_far_as_nothing_is_guessed(flow: Flow) -> None:
    """A label deep inside is added; another attribute holds the table until the replica's type has it, too."""
    flow.set_up(SCHEMA)
    flow.start_worker()
    flow.wait_equal("shop.item")
    flow.source.execute("ALTER TYPE shop.mood ADD VALUE 'fine'")
    flow.source.execute("INSERT INTO shop.item VALUES (2, '(2,fine)')")
    flow.wait_equal("shop.item")

    flow.source.execute("ALTER TYPE shop.pair ADD ATTRIBUTE b text; INSERT INTO shop.item VALUES (3, '(3,fine,x)')")
    until(lambda: "shop.pair is another one" in _held(flow, "item"), "the table held")
    flow.replica.execute("ALTER TYPE shop.pair ADD ATTRIBUTE b text")
    assert replica_setup(flow.settings).released == ["shop.item"]
    flow.wait_equal("shop.item")


def test_a_row_that_is_ahead_of_its_label_waits(flow: Flow) -> None:
    """The schema log is another partition, and may come later; where it brings nothing, the row is set aside."""
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    flow.wait_equal("shop.item")
    flow.source.execute("ALTER EVENT TRIGGER deltasync_ddl DISABLE; ALTER TYPE shop.mood ADD VALUE 'early'")
    flow.source.execute("INSERT INTO shop.item VALUES (2, '(2,early)')")
    until(lambda: worker.metric("deltasync_partitions", state="waiting"), "the row is refused for now")
    source_setup(flow.settings)
    flow.wait_equal("shop.item")
    assert not worker.blamed()

    flow.source.execute("ALTER EVENT TRIGGER deltasync_ddl DISABLE; ALTER TYPE shop.mood ADD VALUE 'never'")
    flow.source.execute("INSERT INTO shop.item VALUES (3, '(3,never)')")
    until(worker.blamed, "it is set aside")


def test_an_extension_that_the_role_may_not_make_holds_its_table(flow: Flow) -> None:
    """The reason is the statement for a superuser; a trusted one comes by itself, in its schema."""
    flow.set_up(SCHEMA)
    flow.start_worker()
    flow.wait_equal("shop.item")
    flow.source.execute("""
        CREATE SCHEMA tools; CREATE EXTENSION citext SCHEMA tools; CREATE EXTENSION vector SCHEMA tools;
        CREATE TABLE shop.word (id int PRIMARY KEY, w tools.citext); INSERT INTO shop.word VALUES (1, 'ABC');
        CREATE TABLE shop.place (id int PRIMARY KEY, v tools.vector(2)); ALTER TABLE shop.place REPLICA IDENTITY FULL;
        INSERT INTO shop.place VALUES (1, '[1,2]');
    """)
    statement = 'CREATE EXTENSION IF NOT EXISTS "vector" SCHEMA "tools"'
    until(lambda: _held(flow, "place").endswith(statement), "the table held")
    flow.wait_equal("shop.word")

    flow.replica.execute(statement)
    assert replica_setup(flow.settings).released == ["shop.place"]
    flow.wait_equal("shop.place")
