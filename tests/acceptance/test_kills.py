"""kill -9 at any moment: nothing is lost, nothing is applied twice or late, the ledger only grows."""

from __future__ import annotations

import random
import signal

import psycopg
import pytest
from tests.acceptance.load import SCHEMA, TABLES, Load, Witness, offsets, wait_for_work
from tests.flow import Flow, until
from tests.servers import Addresses

SEED = 20_261_123
KILLS = 20
FAST = {"DELTASYNC_KAFKA_SESSION_TIMEOUT_S": "6"}


@pytest.mark.timeout(240)
def test_killed_at_random_moments(flow: Flow, servers: Addresses) -> None:
    """20 times the applier, 3 times Connect, while transactions of every kind are committed."""
    if servers.embedded is None:
        pytest.skip("Connect is not ours to kill")
    connect = servers.embedded.connect
    rng = random.Random(SEED)  # noqa: S311 - so that a failure can be repeated
    flow.set_up(SCHEMA)
    flow.start_worker(**FAST)
    flow.wait_equal(*TABLES)
    with Witness(flow), Load(flow, SEED) as load:
        for kill in range(KILLS):
            if kill % 7 == 3:
                until(lambda: _is_streaming(flow), "the connector streams again")
                connect.process.stop(signal.SIGKILL)
                servers.embedded.start()
            victim = flow.workers[-1]
            if kill % 2:
                until(lambda: victim.events("assigned"), "partitions assigned")  # noqa: B023 - called at once
            victim.runs_for(rng.uniform(0, 1.2))
            victim.kill()
            flow.start_worker(**FAST, DELTASYNC_BATCH_ROWS_MAX=rng.choice(("20", "500", "20000")))
        connect.wait()
        until(lambda: _is_streaming(flow), "the connector streams again")
        wait_for_work(flow)
    assert load.transactions > 500
    flow.wait_equal(*TABLES)


# What holds a worker up inside its transaction: at its rows, and between its rows and the ledger.
_AT_THE_ROWS = "SELECT FROM shop.account FOR UPDATE"
_AT_THE_LEDGER = "SELECT pg_advisory_xact_lock(7)"
_WAIT_AT_THE_LEDGER = """
    CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END $$;
    CREATE TRIGGER wait BEFORE UPDATE ON deltasync.ledger FOR EACH ROW
      WHEN (NEW.topic LIKE '%shop.account') EXECUTE FUNCTION public.wait();
    ALTER TABLE deltasync.ledger ENABLE ALWAYS TRIGGER wait;
"""


def test_rows_and_ledger_move_together(flow: Flow) -> None:
    """A worker killed at its rows, or between its rows and the ledger, has changed neither."""
    flow.set_up(SCHEMA)
    flow.start_worker(**FAST)
    flow.wait_equal(*TABLES)
    flow.replica.execute(_WAIT_AT_THE_LEDGER)
    for hold in (_AT_THE_ROWS, _AT_THE_LEDGER):
        ledger, rows = _account(flow)
        with psycopg.connect(flow.pipeline.replica_admin) as obstacle:
            obstacle.execute(hold)
            flow.source.execute("UPDATE shop.account SET version = version + 1")
            until(lambda: _blocks(flow, obstacle), "the worker waits inside its transaction")
            assert _account(flow) == (ledger, rows), "rows and ledger are not in one transaction"
            flow.workers[-1].kill()
        assert _account(flow) == (ledger, rows), "a worker that was killed wrote"
        flow.start_worker(**FAST)
        flow.wait_equal(*TABLES)


def _account(flow: Flow) -> tuple[int, list[str]]:
    return offsets(flow)["shop.account", 0], flow.rows(flow.replica, "shop.account")


def _blocks(flow: Flow, obstacle: psycopg.Connection) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    return flow.replica.execute(query, [obstacle.info.backend_pid]).fetchone() is not None


def _is_streaming(flow: Flow) -> bool:
    query = "SELECT FROM pg_replication_slots WHERE slot_name = %s AND active"
    return flow.source.execute(query, [flow.settings.slot]).fetchone() is not None
