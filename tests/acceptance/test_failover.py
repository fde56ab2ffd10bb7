"""Source or replica fail over to a standby: what was lost comes again, or somebody is told."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.acceptance.load import SCHEMA, TABLES, Load, offsets, wait_for_work
from tests.acceptance.standby import Standby, another_source, standby_of
from tests.acceptance.test_gaps import reasons
from tests.flow import Flow, until
from tests.servers import Addresses

from deltasync.local.postgres import PostgresServer

# A server is copied, and killed: that is much for a machine that does other things as well.
pytestmark = pytest.mark.timeout(240)
SEED = 1_871
# What a standby needs to keep copies of the primary's failover slots.
KEEPS_SLOTS = "sync_replication_slots = on\nhot_standby_feedback = on\n"
SHOP = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.item (id int PRIMARY KEY, name text);
    CREATE TABLE shop.quiet (id int PRIMARY KEY);
    INSERT INTO shop.item SELECT n, n FROM generate_series(1, 500) n;
"""


@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_the_replica_fails_over(flow: Flow, servers: Addresses, consistency: str) -> None:
    """To a standby that lacks what was applied last, a new column too: rows and ledger went back together."""
    flow.env["DELTASYNC_CONSISTENCY"] = consistency
    flow.settings = flow.settings.model_copy(update={"consistency": consistency})
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


def _source_is(flow: Flow, standby: Standby) -> None:
    """Name both servers wherever the source is meant, but for Connect, which takes one."""
    dsn, admin = (
        standby.beside(found, target_session_attrs="read-write")
        for found in (flow.env["DELTASYNC_SOURCE_DSN"], flow.pipeline.source_admin)
    )
    flow.env |= {"DELTASYNC_SOURCE_DSN": dsn, "DELTASYNC_SOURCE_ADMIN_DSN": admin}
    flow.pipeline = replace(flow.pipeline, source_admin=admin)
    flow.reconnect()


def _use_failover(flow: Flow) -> None:
    """Have standby servers keep copies of the slot."""
    source = flow.settings.source.model_copy(update={"failover": True})
    flow.settings = flow.settings.model_copy(update={"source": source})
    flow.env["DELTASYNC_SOURCE_FAILOVER"] = "true"


def _name_to_connect(flow: Flow, server: PostgresServer) -> None:
    flow.env |= {"DELTASYNC_CONNECT_SOURCE_HOST": "127.0.0.1", "DELTASYNC_CONNECT_SOURCE_PORT": str(server.port)}


@contextmanager
def _monitored(flow: Flow) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        flow.env["DELTASYNC_MONITOR_URL"] = f"http://127.0.0.1:{free.getsockname()[1]}"
    yield


def test_the_source_fails_over_with_its_slot(flow: Flow, servers: Addresses) -> None:
    """Nothing is lost: the connector goes on at the standby's copy, and readiness asks until it is accepted."""
    assert servers.embedded is not None
    primary = servers.embedded.source
    _use_failover(flow)
    flow.set_up(SCHEMA)
    with standby_of(servers, "source", KEEPS_SLOTS) as standby, _monitored(flow):
        assert "synchronized_standby_slots names no standby" in flow.cli("check")
        flow.source.execute("ALTER SYSTEM SET synchronized_standby_slots = 'standby'")
        flow.source.execute("SELECT pg_reload_conf()")
        _source_is(flow, standby)
        flow.start_worker()
        flow.wait_equal(*TABLES)
        until(lambda: standby.keeps(flow.settings.slot), "the slot is copied")
        with Load(flow, SEED, persists=True):
            wait_for_work(flow)
            primary.process.stop(signal.SIGQUIT)
            standby.promote()
            _name_to_connect(flow, standby.server)
            flow.cli("connectors", "apply")
            flow.reconnect()
            wait_for_work(flow)
            until(lambda: "The source failed over" in reasons(flow), "readiness asks")
        flow.wait_equal(*TABLES)
        flow.cli("ledger", "accept-source", "--reason", "its slot was synchronised")
        until(lambda: reasons(flow) == "", "ready")
        flow.source.close()


def test_the_source_fails_over_with_a_slot_that_is_behind(flow: Flow, servers: Addresses) -> None:
    """Its log ends before commits that the replica has: nothing comes, and that is told, until all is read again."""
    assert servers.embedded is not None
    _use_failover(flow)
    flow.set_up(SHOP)
    with standby_of(servers, "source", KEEPS_SLOTS) as standby, _monitored(flow):
        _source_is(flow, standby)
        flow.start_worker()
        flow.wait_equal("shop.item", "shop.quiet")
        until(lambda: standby.keeps(flow.settings.slot), "the slot is copied")
        standby.cut_off()
        flow.source.execute("INSERT INTO shop.quiet VALUES (1)")
        flow.source.execute("UPDATE shop.item SET name = repeat('lost ', 2000)")
        flow.wait_equal("shop.item", "shop.quiet")
        servers.embedded.source.process.stop(signal.SIGQUIT)
        standby.promote()
        _name_to_connect(flow, standby.server)
        flow.cli("connectors", "apply")
        flow.reconnect()
        flow.source.execute("UPDATE shop.item SET name = 'unseen' WHERE id = 2; DELETE FROM shop.item WHERE id = 3")
        until(lambda: "log ends before what was applied" in reasons(flow), "readiness tells")

        flow.cli("recover", "--reason", "failed over", "--force")
        flow.source.execute("UPDATE shop.item SET name = 'behind it' WHERE id = 4; INSERT INTO shop.quiet VALUES (2)")
        flow.source.execute("UPDATE shop.item SET id = 5000 WHERE id = 5; INSERT INTO shop.quiet VALUES (3)")
        flow.wait_equal("shop.item", "shop.quiet")
        flow.cli("ledger", "accept-source", "--reason", "all was read again")
        until(lambda: reasons(flow) == "", "ready")
        flow.source.close()


def test_another_cluster_takes_the_sources_place(flow: Flow, servers: Addresses) -> None:
    """Restored from a dump, which lacks the last commits: nothing of it is applied until it was read and accepted."""
    assert servers.embedded is not None
    flow.set_up(SHOP)
    with _monitored(flow):
        worker = flow.start_worker()
        flow.wait_equal("shop.item", "shop.quiet")
    with another_source(servers, flow.pipeline.source_admin) as other:
        flow.source.execute(
            "INSERT INTO shop.item VALUES (1000, 'lost'); UPDATE shop.item SET name = 'lost' WHERE id = 1"
        )
        flow.wait_equal("shop.item")
        servers.embedded.source.process.stop(signal.SIGQUIT)
        admin, dsn = (
            make_conninfo(found, port=other.port)
            for found in (flow.pipeline.source_admin, flow.env["DELTASYNC_SOURCE_DSN"])
        )
        flow.env |= {"DELTASYNC_SOURCE_DSN": dsn, "DELTASYNC_SOURCE_ADMIN_DSN": admin}
        flow.pipeline = replace(flow.pipeline, source_admin=admin)
        flow.reconnect()
        _name_to_connect(flow, other)
        flow.cli("source", "setup")
        assert "deltasync recover" in flow.cli("connectors", "apply", code=1)
        flow.cli("recover", "--reason", "another cluster")
        until(lambda: "its system identifier is" in reasons(flow), "it is refused")
        flow.source.execute("INSERT INTO shop.quiet VALUES (7); DELETE FROM shop.item WHERE id = 2")
        assert flow.count("shop.quiet") == 0
        flow.cli("ledger", "accept-source", "--reason", "restored from a dump, and read again")
        flow.wait_equal("shop.item", "shop.quiet")
        until(lambda: reasons(flow) == "", "ready")
        assert not worker.events("record parked")
        flow.source.close()
