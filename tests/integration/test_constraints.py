"""Constraints and triggers that the replica's operator adds to its tables."""

from __future__ import annotations

import pytest
from tests.flow import Flow, until

from deltasync.errors import RefusedError
from deltasync.replica import constraints
from deltasync.replica.session import Replica
from deltasync.table import TableId

MODES = ("replica-role", "ordered")
UNIQUE = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.seat (id int PRIMARY KEY, code text, n int, big text, UNIQUE (code) DEFERRABLE);
    ALTER TABLE shop.seat ALTER big SET STORAGE EXTERNAL;
    INSERT INTO shop.seat SELECT n, 'code ' || n, 0, repeat(md5(n::text), 150) FROM generate_series(1, 900) n
"""
FAMILY = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.a_line (id int PRIMARY KEY, orders int, note text);
    CREATE TABLE shop.b_orders (id int PRIMARY KEY, customer int);
    CREATE TABLE shop.c_customer (id int PRIMARY KEY, name text);
    INSERT INTO shop.c_customer SELECT n, 'x' FROM generate_series(1, 50) n;
    INSERT INTO shop.b_orders SELECT n, n FROM generate_series(1, 50) n;
    INSERT INTO shop.a_line SELECT n, n, 'x' FROM generate_series(1, 50) n
"""
FAMILY_TABLES = ("shop.a_line", "shop.b_orders", "shop.c_customer")


@pytest.mark.parametrize("mode", MODES)
def test_unique_values_move_between_rows(flow: Flow, mode: str) -> None:
    """Swaps, chains and rings within a transaction, of rows whose large values do not travel, too."""
    flow.env["DELTASYNC_REPLICA_CONSTRAINTS"] = mode
    flow.set_up(UNIQUE)
    worker = flow.start_worker()
    flow.wait_equal("shop.seat")
    assert worker.stop() == 0
    flow.replica.execute("CREATE UNIQUE INDEX ON shop.seat (code)")
    flow.source.execute("UPDATE shop.seat SET code = CASE id WHEN 1 THEN 'code 2' ELSE 'code 1' END WHERE id < 3")
    with flow.source.transaction():
        flow.source.execute("SET CONSTRAINTS ALL DEFERRED")
        flow.source.execute("UPDATE shop.seat SET code = 'code ' || ((id + 1) % 5 + 10) WHERE id BETWEEN 10 AND 14")
        flow.source.execute("DELETE FROM shop.seat WHERE id = 20; INSERT INTO shop.seat VALUES (2000, 'code 20', 1)")
        flow.source.execute("UPDATE shop.seat SET code = 'gone', big = 'y' WHERE id = 30")
        flow.source.execute("UPDATE shop.seat SET code = 'code 30', id = 3100 WHERE id = 31")
    flow.source.execute("UPDATE shop.seat SET code = 'code ' || (id + 1), big = 'z' WHERE id > 100 AND id < 2000")
    worker = flow.start_worker()
    flow.wait_equal("shop.seat")
    assert worker.stop() == 0

    # The batch ends between the two halves of a swap.
    flow.source.execute("UPDATE shop.seat SET n = 2 WHERE id IN (500, 501)")
    flow.source.execute("UPDATE shop.seat SET code = CASE id WHEN 1 THEN 'code 1' ELSE 'code 2' END WHERE id < 3")
    flow.start_worker(DELTASYNC_BATCH_ROWS_MAX="3")
    flow.wait_equal("shop.seat")

    flow.replica.execute("UPDATE shop.seat SET code = 'taken here' WHERE id = 9")
    flow.source.execute("UPDATE shop.seat SET code = 'taken here' WHERE id = 8")
    until(flow.workers[-1].blamed, "a value that only the replica has is in its way")


def _relate(flow: Flow) -> None:
    flow.replica.execute("""
        ALTER TABLE shop.a_line ADD FOREIGN KEY (orders) REFERENCES shop.b_orders;
        ALTER TABLE shop.b_orders ADD FOREIGN KEY (customer) REFERENCES shop.c_customer;
        CREATE UNIQUE INDEX ON shop.c_customer (name, id);
        CREATE TABLE public.fired (what text); GRANT INSERT ON public.fired TO PUBLIC;
        CREATE FUNCTION public.fire() RETURNS trigger LANGUAGE plpgsql AS
          'BEGIN INSERT INTO public.fired VALUES (tg_op); RETURN NULL; END';
        CREATE TRIGGER fire AFTER INSERT ON shop.a_line FOR EACH ROW EXECUTE FUNCTION public.fire()
    """)


@pytest.mark.parametrize("mode", MODES)
def test_foreign_keys_and_triggers(flow: Flow, mode: str) -> None:
    """Tables are applied in any order of their topics, and none of their rows is lost or stopped at a foreign key."""
    flow.env["DELTASYNC_REPLICA_CONSTRAINTS"] = mode
    flow.set_up(FAMILY)
    worker = flow.start_worker()
    flow.wait_equal(*FAMILY_TABLES)
    assert worker.stop() == 0
    _relate(flow)
    for n in range(51, 60):
        with flow.source.transaction():
            flow.source.execute("INSERT INTO shop.c_customer VALUES (%s, 'y')", [n])
            flow.source.execute("INSERT INTO shop.b_orders VALUES (%s, %s)", [n, n])
            flow.source.execute("INSERT INTO shop.a_line VALUES (%s, %s, 'y')", [n, n])
    with flow.source.transaction():
        for table in FAMILY_TABLES:
            flow.source.execute(f"DELETE FROM {table} WHERE id % 7 = 0")
    worker = flow.start_worker(DELTASYNC_BATCH_ROWS_MAX="2")
    flow.wait_equal(*FAMILY_TABLES)
    assert flow.replica.execute("SELECT count(*) FROM public.fired").fetchone() == (9 if mode == "ordered" else 0,)

    flow.source.execute(f"TRUNCATE {', '.join(FAMILY_TABLES)}")
    flow.wait_equal(*FAMILY_TABLES)
    flow.source.execute("INSERT INTO shop.c_customer VALUES (1, 'new')")
    flow.source.execute("INSERT INTO shop.b_orders VALUES (1, 1); INSERT INTO shop.a_line VALUES (1, 1, 'new')")
    flow.wait_equal(*FAMILY_TABLES)
    assert not worker.blamed()


def test_a_row_waits_for_the_one_that_it_references(flow: Flow) -> None:
    """As long as it takes, and readiness says so; all other tables go on."""
    flow.env["DELTASYNC_REPLICA_CONSTRAINTS"] = "ordered"
    flow.set_up(FAMILY)
    worker = flow.start_worker()
    flow.wait_equal(*FAMILY_TABLES)
    _relate(flow)
    flow.replica.execute("DELETE FROM shop.a_line WHERE orders = 50; DELETE FROM shop.b_orders WHERE id = 50")
    flow.source.execute(
        "INSERT INTO shop.a_line VALUES (500, 50, 'waits'); UPDATE shop.c_customer SET name = 'goes on'"
    )
    flow.wait_equal("shop.c_customer")
    until(lambda: worker.metric("deltasync_partitions", state="waiting") == 1, "the child's partition waits")

    flow.source.execute("UPDATE shop.b_orders SET customer = customer WHERE id = 50")
    flow.source.execute("UPDATE shop.a_line SET note = 'again' WHERE orders = 50")
    flow.wait_equal(*FAMILY_TABLES)


def test_who_may_not_pass_them_by_is_told_what_to_do(flow: Flow) -> None:
    """On servers where no superuser is to be had, for one."""
    flow.set_up(FAMILY)
    role = flow.settings.pipeline
    flow.replica.execute(f"REVOKE SET ON PARAMETER session_replication_role FROM {role}")
    with pytest.raises(RefusedError, match="may not set session_replication_role") as refused:
        Replica(flow.settings).tables()
    assert 'constraints = "ordered"' in refused.value.remedy


def test_foreign_key_between_schemas(flow: Flow) -> None:
    """Each schema tells all of its own tables, and nothing of another's, which may be known already."""
    flow.replica.execute(
        "CREATE SCHEMA crm; CREATE SCHEMA shop; CREATE TABLE crm.customer (id int PRIMARY KEY, mail text UNIQUE);"
        "CREATE TABLE shop.orders (id int PRIMARY KEY, customer int REFERENCES crm.customer ON DELETE CASCADE)"
    )
    customer, orders = TableId("crm", "customer"), TableId("shop", "orders")
    assert constraints.load(flow.replica, ["shop"]) == {orders: constraints.Constraints(parents=frozenset({customer}))}
    assert constraints.load(flow.replica, ["crm"]) == {
        customer: constraints.Constraints(
            referenced=True, acting=frozenset({constraints.Acting(orders, ("customer",), ("id",))}), unique=True
        )
    }
