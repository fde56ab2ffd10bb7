"""Tables without a key, on real parts: each row is on the replica as often as on the source."""

from __future__ import annotations

import psycopg
import pytest
from tests.conformance.bench import Bench, event, plan_of, rows_of
from tests.conftest import Pipeline
from tests.flow import Flow, until
from tests.property.postgres_store import PostgresStore
from tests.unit.make import column

from deltasync.errors import ReferencedError
from deltasync.table import Table

SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.pile (
      a int, b varchar(9), f float8, j json, n numeric, d date, c char(3), t text[], at timestamptz, big text);
    ALTER TABLE shop.pile REPLICA IDENTITY FULL;
    ALTER TABLE shop.pile ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE shop.indexed (a int, b text);
    CREATE UNIQUE INDEX partial ON shop.indexed (b) WHERE a > 1000;
    ALTER TABLE shop.indexed REPLICA IDENTITY FULL;
    CREATE TABLE shop.single (a int);
    ALTER TABLE shop.single REPLICA IDENTITY FULL;
    CREATE TABLE shop.parts (a int, b text) PARTITION BY LIST (a);
    CREATE TABLE shop.parts_1 PARTITION OF shop.parts FOR VALUES IN (1);
    CREATE TABLE shop.parts_2 PARTITION OF shop.parts DEFAULT;
    ALTER TABLE shop.parts REPLICA IDENTITY FULL;
    ALTER TABLE shop.parts_1 REPLICA IDENTITY FULL;
    ALTER TABLE shop.parts_2 REPLICA IDENTITY FULL;
    INSERT INTO shop.pile (a, b, f, j, n, d, c, t, at, big)
      SELECT n % 3, 'x', 'NaN', '{"a":  1}', 1.0, 'infinity', 'a', ARRAY['p', NULL], '2024-01-01 UTC', repeat('b', 9000)
        FROM generate_series(1, 30) n;
    INSERT INTO shop.pile SELECT FROM generate_series(1, 4);
    INSERT INTO shop.indexed SELECT n % 4, 'same' FROM generate_series(1, 40) n;
    INSERT INTO shop.single VALUES (7);
    INSERT INTO shop.parts SELECT n % 3, 'same' FROM generate_series(1, 30) n;
"""
TABLES = ("shop.pile", "shop.indexed", "shop.single", "shop.parts")


@pytest.fixture
def keyless(flow: Flow) -> Flow:
    flow.use_keyless()
    return flow


@pytest.mark.parametrize(
    ("schemas", "consistency", "converter"),
    [("false", "key", False), ("true", "key", False), ("false", "transaction", False), ("false", "key", True)],
)
def test_each_row_is_there_as_often(keyless: Flow, schemas: str, consistency: str, *, converter: bool) -> None:
    """Equal rows change one by one; what they hold has no equality, is NULL, NaN, infinite, or large and unchanged.

    Which run of the connector sent a record is told with and without the jar of connectors/raw-text.
    """
    keyless.use_converter(converter)
    keyless.settings = keyless.settings.model_copy(update={"consistency": consistency})
    keyless.env["DELTASYNC_CONSISTENCY"] = consistency
    keyless.set_up(SCHEMA, key__converter__schemas__enable=schemas, value__converter__schemas__enable=schemas)
    worker = keyless.start_worker()
    keyless.wait_equal(*TABLES)
    first = "ctid = (SELECT min(ctid) FROM shop.{0} WHERE {1})"
    keyless.source.execute(f"""
        UPDATE shop.pile SET b = 'y' WHERE {first.format("pile", "a = 1")};
        UPDATE shop.pile SET n = 1.00, at = 'infinity' WHERE {first.format("pile", "a = 1 AND b = 'x'")};
        DELETE FROM shop.pile WHERE {first.format("pile", "a = 2")};
        DELETE FROM shop.pile WHERE {first.format("pile", "a IS NULL")};
        UPDATE shop.pile SET a = 5 WHERE {first.format("pile", "a IS NULL")};
        UPDATE shop.pile SET f = '-0', j = '{{"a":1}}' WHERE a = 0;
        UPDATE shop.indexed SET b = 'other' WHERE {first.format("indexed", "a = 1")};
        UPDATE shop.indexed SET a = 2 WHERE a = 3; DELETE FROM shop.indexed WHERE {first.format("indexed", "a = 2")};
        UPDATE shop.single SET a = NULL; INSERT INTO shop.single VALUES (NULL), (NULL);
        DELETE FROM shop.single WHERE {first.format("single", "true")};
        UPDATE shop.parts SET a = 2 WHERE {first.format("parts_1", "true").replace("ctid =", "a = 1 AND ctid =")};
        DELETE FROM shop.parts WHERE a = 0; INSERT INTO shop.parts VALUES (1, NULL), (1, NULL);
    """)
    keyless.copy("shop.indexed", "1\tsame\n", 50)
    keyless.wait_equal(*TABLES)
    assert worker.stop() == 0

    with keyless.source.transaction():
        keyless.source.execute("DELETE FROM shop.indexed WHERE a = 1; INSERT INTO shop.indexed VALUES (1, 'again')")
        keyless.source.execute("TRUNCATE shop.single; INSERT INTO shop.single VALUES (1), (1), (1)")
        keyless.source.execute(f"DELETE FROM shop.single WHERE {first.format('single', 'true')}")
    keyless.source.execute("ALTER TABLE shop.parts ADD COLUMN more int; UPDATE shop.parts SET more = 1 WHERE a = 1")
    keyless.source.execute("INSERT INTO shop.parts VALUES (1, 'same', NULL); DELETE FROM shop.parts WHERE a = 2")
    keyless.env["DELTASYNC_BATCH_ROWS_MAX"] = "7"
    keyless.start_worker()
    keyless.wait_equal(*TABLES)
    assert ("transaction" in keyless.ledger()) == (consistency == "transaction")
    keyless.cli("wait")


def test_what_cannot_be_exact_stops(keyless: Flow) -> None:
    """Records without their numbers, and a row to delete that somebody else has deleted."""
    keyless.set_up("CREATE SCHEMA shop; CREATE TABLE shop.pile (a int); ALTER TABLE shop.pile REPLICA IDENTITY FULL")
    worker = keyless.start_worker()
    keyless.source.execute("INSERT INTO shop.pile VALUES (1), (1)")
    keyless.wait_equal("shop.pile")
    keyless.replica.execute("DELETE FROM shop.pile WHERE ctid = (SELECT min(ctid) FROM shop.pile)")
    keyless.source.execute("DELETE FROM shop.pile")
    until(lambda: worker.said("1 rows of shop.pile that were changed or deleted on the source"), "it stops")
    assert keyless.count("shop.pile") == 0  # the first of the two was there


def test_records_without_their_numbers_stop(keyless: Flow) -> None:
    """The remedy names the setting of the connector."""
    keyless.source.execute("CREATE SCHEMA shop; CREATE TABLE shop.pile (a int); INSERT INTO shop.pile VALUES (1)")
    keyless.set_up("ALTER TABLE shop.pile REPLICA IDENTITY FULL", provide__transaction__metadata="false")
    worker = keyless.start_worker()
    keyless.wait_equal("shop.pile")
    keyless.source.execute("INSERT INTO shop.pile VALUES (1)")
    until(lambda: worker.said("provide.transaction.metadata = true"), "it stops")
    assert keyless.count("shop.pile") == 1


def test_without_the_setting_they_are_left_out(flow: Flow) -> None:
    flow.set_up(SCHEMA)
    query = "SELECT DISTINCT reason FROM deltasync.schema_log WHERE schema_name = 'shop'"
    assert flow.source.execute(query).fetchall() == [("no primary key: add one, or set DELTASYNC_SOURCE_KEYLESS",)]
    query = "SELECT count(*) FROM pg_publication_tables WHERE pubname = %s AND schemaname = 'shop'"
    assert flow.source.execute(query, [flow.settings.publication]).fetchone() == (0,)


SPOT = Table("shop", "spot", (column("code", "text"), column("n", "int4")), (), "f")
CAR = Table("shop", "car", (column("id", "int8", not_null=True), column("spot", "text")), ("id",))


@pytest.mark.parametrize("acts", [True, False], ids=["acts", "does not act"])
def test_rows_without_a_key_that_others_reference(pipeline: Pipeline, *, acts: bool) -> None:
    """A row that changes is deleted and inserted: no foreign key may act on that; one that is deferred lets it be."""
    store = PostgresStore(pipeline.settings, pipeline.replica_admin)
    store.constrain(SPOT, (("code",),))
    store.constrain(CAR, ())
    with psycopg.connect(pipeline.replica_admin, autocommit=True) as admin:
        action = "ON DELETE CASCADE" if acts else "DEFERRABLE"
        admin.execute(f"ALTER TABLE shop.car ADD FOREIGN KEY (spot) REFERENCES shop.spot (code) {action}")
    bench = Bench(store, store.session(ordered=True))
    bench.do(events=(event(1, SPOT), event(2, CAR)))
    bench.do(
        plan_of(table=CAR, upserts=(rows_of({"id": "1", "spot": "a"}),)),
        plan_of(
            table=SPOT, inserts=rows_of({"code": "a", "n": "1"}, {"code": "b", "n": "1"}, {"code": None, "n": "1"})
        ),
    )
    bench.do(plan_of(table=SPOT, removes=rows_of({"code": "b", "n": "1"}), inserts=rows_of({"code": "b", "n": "2"})))
    for plan in (
        plan_of(table=SPOT, removes=rows_of({"code": "a", "n": "1"}), inserts=rows_of({"code": "a", "n": "2"})),
        plan_of(table=SPOT, truncate=True, inserts=rows_of({"code": "a", "n": "3"})),
    ):
        if acts:
            with pytest.raises(ReferencedError):
                bench.do(plan)
        else:
            bench.do(plan)
    bench.session.close()
    cars, spots = (
        store.rows("car", ["id", "spot"]),
        {(row["code"], row["n"]) for row in store.rows("spot", ["code", "n"])},
    )
    store.close()

    assert cars == [{"id": "1", "spot": "a"}]
    assert spots == ({("a", "1"), ("b", "2"), (None, "1")} if acts else {("a", "3")})
