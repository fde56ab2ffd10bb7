"""Tables without a primary key, on real parts: a unique index that REPLICA IDENTITY names is their key."""

from __future__ import annotations

import pytest
from psycopg.errors import UniqueViolation
from tests.flow import Flow, until

from deltasync.verify.compare import compare

# Debezium takes the first unique index by its name: in each of these it is another one than the identity's.
SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.seat (note text, n int NOT NULL, code text NOT NULL, other int, third int NOT NULL, big text);
    CREATE UNIQUE INDEX a_nullable ON shop.seat (other);
    CREATE UNIQUE INDEX b_not_null ON shop.seat (third);
    CREATE UNIQUE INDEX z_identity ON shop.seat (code, n) INCLUDE (note);
    ALTER TABLE shop.seat REPLICA IDENTITY USING INDEX z_identity;
    ALTER TABLE shop.seat ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE shop.part (k numeric NOT NULL, what text, flag bool);
    CREATE UNIQUE INDEX a_partial ON shop.part (what) WHERE flag;
    CREATE UNIQUE INDEX z_key ON shop.part (k);
    ALTER TABLE shop.part REPLICA IDENTITY USING INDEX z_key;
    CREATE TABLE shop.plain (id int NOT NULL, what text);
    CREATE UNIQUE INDEX plain_id ON shop.plain (id);
    ALTER TABLE shop.plain REPLICA IDENTITY USING INDEX plain_id;
    INSERT INTO shop.seat SELECT 'note ' || n, n, 'c' || n % 3, nullif(n, 3), n + 100, repeat('b', 9000)
      FROM generate_series(1, 40) n;
    INSERT INTO shop.part SELECT n * 1.10, 'same', false FROM generate_series(1, 40) n;
    INSERT INTO shop.plain SELECT n, 'x' FROM generate_series(1, 40) n;
"""
TABLES = ("shop.seat", "shop.part", "shop.plain")


@pytest.mark.parametrize(("schemas", "consistency"), [("false", "key"), ("true", "key"), ("false", "transaction")])
def test_the_index_of_the_identity_is_the_key(flow: Flow, schemas: str, consistency: str) -> None:
    """Whatever key Debezium gives the records: changes, keys that change and swap, large values that stay."""
    flow.settings = flow.settings.model_copy(update={"consistency": consistency})
    flow.env["DELTASYNC_CONSISTENCY"] = consistency
    flow.set_up(SCHEMA, key__converter__schemas__enable=schemas, value__converter__schemas__enable=schemas)
    worker = flow.start_settled()  # within a key change a restart would lose a half of it
    flow.wait_equal(*TABLES)
    with pytest.raises(UniqueViolation):
        flow.replica.execute("INSERT INTO shop.seat SELECT * FROM shop.seat LIMIT 1")

    flow.source.execute("""
        UPDATE shop.seat SET note = 'new' WHERE n % 4 = 0;
        UPDATE shop.seat SET other = other + 1000 WHERE n % 5 = 0;
        UPDATE shop.seat SET third = third + 1000, note = 'third' WHERE n % 5 = 1;
        UPDATE shop.seat SET n = n + 500 WHERE n % 6 = 0;
        DELETE FROM shop.seat WHERE n % 7 = 0;
        UPDATE shop.part SET k = 2.20 WHERE k = 2.2; UPDATE shop.part SET what = 'other' WHERE k < 10;
        UPDATE shop.part SET k = 2.200, flag = true WHERE k = 2.2; DELETE FROM shop.part WHERE k > 40;
        UPDATE shop.plain SET id = id + 100 WHERE id < 10; DELETE FROM shop.plain WHERE id > 105;
        UPDATE shop.plain SET what = NULL WHERE id BETWEEN 10 AND 20;
    """)
    flow.wait_equal(*TABLES)
    assert worker.stop() == 0
    with flow.source.transaction():
        flow.source.execute("UPDATE shop.seat SET n = -1 WHERE n = 1 AND code = 'c1'")
        flow.source.execute("UPDATE shop.seat SET n = 1 WHERE n = 4 AND code = 'c1'")
        flow.source.execute("UPDATE shop.seat SET n = 4 WHERE n = -1 AND code = 'c1'")
        flow.source.execute("UPDATE shop.part SET k = -1 WHERE k = 2.2; UPDATE shop.part SET k = 2.2 WHERE k = 3.3")
        flow.source.execute("UPDATE shop.part SET k = 3.3 WHERE k = -1")
    flow.source.execute("UPDATE shop.seat SET other = NULL; DELETE FROM shop.seat WHERE n = 2")
    flow.source.execute("CREATE UNIQUE INDEX a_late ON shop.plain (what) WHERE false; UPDATE shop.plain SET what = 'y'")
    flow.source.execute("DELETE FROM shop.plain WHERE id = 15; INSERT INTO shop.plain VALUES (15, 'again')")
    flow.source.execute("TRUNCATE shop.part; INSERT INTO shop.part VALUES (1.0, 'only', true)")
    flow.env["DELTASYNC_BATCH_ROWS_MAX"] = "5"
    flow.start_worker()
    flow.wait_equal(*TABLES)
    names = {"schemas": ["shop"], "publication": flow.settings.publication}
    compared = compare(flow.pipeline.source_admin, flow.pipeline.replica_admin, **names)  # type: ignore[arg-type]
    assert [str(table) for table in compared if not table.is_equal] == []


def test_a_table_whose_index_goes_is_held_or_leaves(flow: Flow) -> None:
    """No record of a table that lost its key is applied by a key that it has no more."""
    flow.set_up(SCHEMA)
    flow.start_worker()
    flow.wait_equal(*TABLES)
    flow.source.execute("DROP INDEX shop.plain_id; UPDATE shop.plain SET what = 'unseen'")
    query = "SELECT captured FROM deltasync.source_table WHERE table_name = 'plain'"
    until(lambda: flow.replica.execute(query).fetchone() == (False,), "the table has left")
    assert flow.count("shop.plain") == 40
