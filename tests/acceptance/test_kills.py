"""kill -9 at any moment: nothing is lost, nothing is applied twice or late, the ledger only grows."""

from __future__ import annotations

import random
import signal

import psycopg
import pytest
from tests.acceptance.load import SCHEMA, TABLES, Load, Witness, offsets, wait_for_work
from tests.acceptance.obstacles import AT_THE_LEDGER, AT_THE_ROWS, WAITING, obstacle
from tests.acceptance.topics import Topics
from tests.flow import Flow, until
from tests.servers import Addresses

from deltasync.local.servers import Servers

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


@pytest.mark.timeout(240)
def test_connect_is_killed_while_transactions_overlap(flow: Flow, servers: Addresses) -> None:
    """While a long one is open, and when some of it has come: others begin and end before, within and behind it."""
    if servers.embedded is None:
        pytest.skip("Connect is not ours to kill")
    flow.set_up(SCHEMA)
    worker = flow.start_settled()
    topics = Topics(flow)
    with Witness(flow), Load(flow, SEED), psycopg.connect(flow.pipeline.source_admin) as long:
        long.execute("INSERT INTO shop.item (id, name) SELECT n, 'long' FROM generate_series(1000, 20999) n")
        wait_for_work(flow)
        _kill_connect(flow, servers.embedded)
        wait_for_work(flow)
        long.execute("UPDATE shop.item SET name = 'longer' WHERE id BETWEEN 1000 AND 9999")
        came = topics.ends("shop.item")[0]
        long.commit()
        until(lambda: topics.ends("shop.item")[0] > came + 5_000, "Connect is within it")
        _kill_connect(flow, servers.embedded)
        wait_for_work(flow)
    flow.wait_equal(*TABLES)
    assert not worker.blamed()


def _kill_connect(flow: Flow, embedded: Servers) -> None:
    """Return when the connector streams again."""
    embedded.connect.process.stop(signal.SIGKILL)
    embedded.start()
    embedded.connect.wait()
    until(lambda: _is_streaming(flow), "the connector streams again")


def test_rows_and_ledger_move_together(flow: Flow) -> None:
    """A worker killed at its rows, or between its rows and the ledger, has changed neither."""
    flow.set_up(SCHEMA)
    flow.start_worker(**FAST)
    flow.wait_equal(*TABLES)
    flow.replica.execute(WAITING)
    for hold in (AT_THE_ROWS, AT_THE_LEDGER):
        ledger, rows = _account(flow)
        with obstacle(flow, hold):
            assert _account(flow) == (ledger, rows), "rows and ledger are not in one transaction"
            flow.workers[-1].kill()
        assert _account(flow) == (ledger, rows), "a worker that was killed wrote"
        flow.start_worker(**FAST)
        flow.wait_equal(*TABLES)


def _account(flow: Flow) -> tuple[int, list[str]]:
    return offsets(flow)["shop.account", 0], flow.rows(flow.replica, "shop.account")


def _is_streaming(flow: Flow) -> bool:
    query = "SELECT FROM pg_replication_slots WHERE slot_name = %s AND active"
    return flow.source.execute(query, [flow.settings.slot]).fetchone() is not None
