"""The whole way on real parts: what is committed on the source is on the replica, row by row."""

from __future__ import annotations

import pytest
from tests.flow import Flow, until

SCHEMA = r"""
    CREATE SCHEMA shop;
    CREATE TYPE shop.status AS ENUM ('new', 'paid', 'sent');
    CREATE TABLE shop.customer (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, email varchar(80), born date,
      vip boolean NOT NULL DEFAULT false, note jsonb, tags text[], key uuid NOT NULL DEFAULT gen_random_uuid(),
      photo bytea, score double precision, small smallint, seen time,
      upper_name text GENERATED ALWAYS AS (upper(name)) STORED);
    CREATE TABLE shop.orders (
      id bigserial PRIMARY KEY, customer bigint NOT NULL, status shop.status NOT NULL DEFAULT 'new',
      total numeric(12,2), placed_at timestamptz NOT NULL DEFAULT now(), shipped_at timestamp, note text,
      lots int[], ids uuid[]);
    CREATE TABLE shop.order_line (
      orders bigint, line int, price numeric NOT NULL, doc json, PRIMARY KEY (line, orders));
    INSERT INTO shop.customer (name, email, born, note, tags, photo, score, small, seen)
      SELECT 'customer ' || n, CASE WHEN n % 3 = 0 THEN NULL ELSE 'c' || n || E'@x\\y\tz\n' END,
        date '1970-01-01' + n * 7, jsonb_build_object('n', n, 'q', E'"\n'), ARRAY['a', NULL, 'b"\' || n],
        decode(md5(n::text), 'hex'), n / 7.0, n % 100, time '00:00' + n * interval '1 second'
      FROM generate_series(1, 2000) n;
    INSERT INTO shop.orders (customer, total, shipped_at, note, lots, ids)
      SELECT n, n * 1.10, now(), repeat('x', n % 50), ARRAY[n, NULL], ARRAY[gen_random_uuid()]
      FROM generate_series(1, 2000) n;
    INSERT INTO shop.order_line SELECT n, n % 3, n * 1.5, '{"a":  1}' FROM generate_series(1, 2000) n;
"""
BIG = """
    INSERT INTO shop.customer (name, note, tags)
    SELECT 'big', jsonb_build_object('t', repeat('t', 9000)), ARRAY[repeat('x', 9000)]
"""
TABLES = ("shop.customer", "shop.orders", "shop.order_line")


@pytest.mark.parametrize("schemas", ["false", "true"])
def test_snapshot_and_changes_arrive(flow: Flow, schemas: str) -> None:
    """Rows of the initial snapshot and every kind of change end equal, with and without schemas in the JSON."""
    flow.set_up(SCHEMA, key__converter__schemas__enable=schemas, value__converter__schemas__enable=schemas)
    flow.start_worker()
    flow.wait_equal(*TABLES)

    flow.source.execute("""
        INSERT INTO shop.customer (name, born) VALUES ('BC', '0044-03-15 BC'), ('infinite', 'infinity'), ('', NULL);
        UPDATE shop.orders SET status = 'paid', total = 'NaN', shipped_at = '-infinity' WHERE id % 2 = 0;
        UPDATE shop.order_line SET line = line + 10 WHERE orders % 5 = 0;
        DELETE FROM shop.orders WHERE id % 7 = 0;
        INSERT INTO shop.orders (id, customer, placed_at) VALUES (9000001, 1, '0001-01-01 BC');
        DELETE FROM shop.orders WHERE id = 9000001;
        INSERT INTO shop.orders (id, customer, placed_at) VALUES (9000001, 2, '10000-01-01');
    """)
    flow.wait_equal(*TABLES)

    flow.source.execute("TRUNCATE shop.order_line; INSERT INTO shop.order_line VALUES (1, 1, 1.00, '[]')")
    flow.wait_equal(*TABLES)


def test_unchanged_large_values_stay(flow: Flow) -> None:
    """An update that does not carry an unchanged TOAST value leaves it alone, alone and behind other changes."""
    flow.set_up(SCHEMA)
    flow.source.execute("ALTER TABLE shop.customer ALTER note SET STORAGE EXTERNAL, ALTER tags SET STORAGE EXTERNAL")
    flow.start_worker()
    flow.source.execute(BIG)
    flow.wait_equal(*TABLES)

    flow.source.execute("UPDATE shop.customer SET email = 'new' WHERE name = 'big'")
    flow.wait_equal(*TABLES)

    with flow.source.transaction():
        flow.source.execute(BIG)
        flow.source.execute("UPDATE shop.customer SET email = 'newer' WHERE name = 'big'")
        flow.source.execute("UPDATE shop.customer SET small = 3 WHERE name = 'big'")
    flow.wait_equal(*TABLES)


def test_large_values_stay_with_rows_whose_keys_change(flow: Flow) -> None:
    """The new key's record does not carry them: alone, in a chain, and where two rows of one transaction swap keys."""
    flow.set_up("CREATE SCHEMA shop; CREATE TABLE shop.doc (id numeric PRIMARY KEY, n int, big text, tags text[])")
    flow.source.execute("ALTER TABLE shop.doc ALTER big SET STORAGE EXTERNAL, ALTER tags SET STORAGE EXTERNAL")
    worker = flow.start_worker()
    row = "SELECT id, 0, repeat(id::text, 9000), ARRAY[repeat('x', 9000 + id)] FROM generate_series(1, 40) id"
    flow.source.execute(f"INSERT INTO shop.doc {row}")
    flow.wait_equal("shop.doc")

    flow.source.execute("UPDATE shop.doc SET id = 101 WHERE id = 1; UPDATE shop.doc SET id = 2.00, n = 5 WHERE id = 2")
    flow.wait_equal("shop.doc")
    assert worker.stop() == 0
    with flow.source.transaction():
        flow.source.execute("UPDATE shop.doc SET id = 100 WHERE id = 3; UPDATE shop.doc SET id = 3 WHERE id = 4")
        flow.source.execute("UPDATE shop.doc SET id = 4, n = 1 WHERE id = 100; UPDATE shop.doc SET n = 2 WHERE id = 3")
    flow.source.execute("UPDATE shop.doc SET id = id + 1000 WHERE id BETWEEN 10 AND 30")
    flow.source.execute(f"INSERT INTO shop.doc {row} WHERE id IN (12, 14)".replace("9000", "9001", 1))
    flow.source.execute(
        "UPDATE shop.doc SET id = id + 1000 WHERE id BETWEEN 1010 AND 1015; DELETE FROM shop.doc WHERE id = 1020"
    )
    flow.env["DELTASYNC_BATCH_ROWS_MAX"] = "7"
    flow.start_worker()
    flow.wait_equal("shop.doc")


def test_new_table_is_captured_from_its_first_row(flow: Flow) -> None:
    """A table created while everything runs appears on the replica, rows of its own transaction included."""
    flow.set_up(SCHEMA)
    flow.start_worker()
    flow.wait_equal(*TABLES)
    with flow.source.transaction():
        flow.source.execute("CREATE TABLE shop.late (id int PRIMARY KEY, what text DEFAULT 'x', status shop.status)")
        flow.source.execute("INSERT INTO shop.late VALUES (1, 'same transaction', 'new')")
    flow.source.execute("INSERT INTO shop.late (id) VALUES (2)")
    flow.wait_equal("shop.late")

    flow.source.execute("ALTER TABLE shop.late ADD COLUMN more numeric DEFAULT 1.50; INSERT INTO shop.late VALUES (3)")
    flow.wait_equal("shop.late")


def test_what_is_not_captured_is_not_read(flow: Flow) -> None:
    """Partitions come once, under their root; a keyless table comes when it has got a key, and is owed its rows."""
    flow.set_up(
        SCHEMA
        + """
        CREATE TABLE shop.keyless (id int, what text);
        INSERT INTO shop.keyless VALUES (1, 'before');
        CREATE TABLE shop.visit (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE shop.visit_1 PARTITION OF shop.visit FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
        CREATE TABLE shop.visit_2 PARTITION OF shop.visit FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
        INSERT INTO shop.visit SELECT n, date '2020-06-01' + n FROM generate_series(1, 500) n;
        """
    )
    flow.start_worker()
    flow.wait_equal(*TABLES, "shop.visit")
    flow.source.execute("UPDATE shop.visit SET day = day + 50 WHERE id % 2 = 0")
    flow.source.execute("ALTER TABLE shop.keyless ADD PRIMARY KEY (id); INSERT INTO shop.keyless VALUES (2, 'after')")

    until(lambda: flow.count("shop.keyless") == 1, "the row behind the key")
    assert "shop.visit_1" not in flow.ledger()
    assert flow.replica.execute(
        "SELECT complete FROM deltasync.source_table WHERE table_name = 'keyless'"
    ).fetchone() == (False,)


def test_schema_events_and_rows_of_known_tables_in_one_poll(flow: Flow) -> None:
    """A worker that finds both when it starts applies both."""
    flow.set_up(
        "CREATE SCHEMA shop; CREATE TABLE shop.a (id int PRIMARY KEY); CREATE TABLE shop.b (id int PRIMARY KEY)"
    )
    worker = flow.start_worker()
    flow.source.execute("INSERT INTO shop.a VALUES (1)")
    flow.wait_equal("shop.a")
    assert worker.stop() == 0

    flow.source.execute("INSERT INTO shop.a VALUES (2)")
    flow.source.execute("ALTER TABLE shop.b ADD COLUMN what text DEFAULT 'x'; INSERT INTO shop.b VALUES (1)")
    flow.source.execute("INSERT INTO shop.a VALUES (3)")
    flow.cli("wait", "--timeout", "1", code=1)
    flow.start_worker()
    flow.wait_equal("shop.a", "shop.b")
