"""Rows of large batches are found by the index of their key: the table is not read for them."""

from __future__ import annotations

from tests.conformance.bench import plan_of
from tests.flow import Flow

from deltasync.debezium.rows import Rows
from deltasync.postgres.catalog import describe_tables
from deltasync.replica.setup import setup as replica_setup
from deltasync.replica.writer import UNNEST_ROWS_MAX, Writer
from deltasync.source.setup import setup as source_setup

MANY = range(1, 20 * UNNEST_ROWS_MAX, 10)  # of the rows, which are ten times as many

READ = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relid = 'shop.seat'::regclass"


def test_deletes_and_updates_read_no_whole_table(flow: Flow) -> None:
    """Neither with statistics nor without; and what is planned behind them in the transaction is as it was."""
    flow.source.execute("CREATE SCHEMA shop")
    source_setup(flow.settings)
    replica_setup(flow.settings)
    flow.replica.execute(
        "CREATE SCHEMA IF NOT EXISTS shop; CREATE TABLE shop.seat (id bigint PRIMARY KEY, note text, big text)"
    )
    flow.replica.execute(f"INSERT INTO shop.seat SELECT n, 'a', 'b' FROM generate_series(1, {20 * UNNEST_ROWS_MAX}) n")
    (seat,) = describe_tables(flow.replica, ["shop"])
    updates = Rows(("id", "note"), [[str(n + 1) for n in MANY], ["new"] * len(MANY)])
    writer = Writer(flow.replica)
    for statistics in (False, True):
        if statistics:
            flow.replica.execute("ANALYZE shop.seat")
        with flow.replica.transaction():
            before = flow.replica.execute(READ).fetchone()
            deletes = Rows(("id",), [[str(n + 2 * statistics) for n in MANY]])
            found = writer.write([plan_of(table=seat, deletes=deletes, updates=(updates,))])
            assert found == 2 * len(MANY)
            assert flow.replica.execute("SHOW enable_hashjoin").fetchone() == ("on",)
            assert flow.replica.execute(READ).fetchone() == before
    assert flow.replica.execute("SELECT count(*) FROM shop.seat WHERE note = 'new'").fetchone() == (len(MANY),)
