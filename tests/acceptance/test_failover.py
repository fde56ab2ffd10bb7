"""Source or replica fail over to a standby: what was lost comes again, or somebody is told."""

from __future__ import annotations

import signal

import psycopg
from tests.acceptance.load import SCHEMA, TABLES, Load, offsets, wait_for_work
from tests.acceptance.standby import standby_of
from tests.flow import Flow, until
from tests.servers import Addresses

SEED = 1_871


def test_the_replica_fails_over(flow: Flow, servers: Addresses) -> None:
    """To a standby that lacks what was applied last, a new column too: rows and ledger went back together."""
    flow.set_up(SCHEMA)
    with standby_of(servers, "replica") as standby:
        worker = flow.start_worker(DELTASYNC_REPLICA_DSN=standby.beside(flow.env["DELTASYNC_REPLICA_DSN"]))
        flow.wait_equal(*TABLES)
        with Load(flow, SEED):
            wait_for_work(flow, 5)
            standby.cut_off()
            flow.source.execute("ALTER TABLE shop.item ADD more int DEFAULT 7")
            wait_for_work(flow)
            flow.source.execute("UPDATE shop.item SET more = 8 WHERE id = -1")
            lost = "SELECT FROM shop.item t WHERE to_jsonb(t) ->> 'more' = '8'"
            until(lambda: flow.replica.execute(lost).rowcount, "all that is lost")
            before = offsets(flow)
            assert servers.embedded is not None
            servers.embedded.replica.process.stop(signal.SIGQUIT)
            flow.replica.close()
            flow.replica = psycopg.connect(standby.at(flow.pipeline.replica_admin), autocommit=True)
            assert offsets(flow)["shop.item", 0] < before["shop.item", 0]
            standby.promote()
            wait_for_work(flow)
        flow.wait_equal(*TABLES)
        assert worker.process.poll() is None
        assert not worker.blamed()
