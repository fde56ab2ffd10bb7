"""A network that is slow, loses packets, is cut, resets or forgets connections: what hangs is ended, all goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.acceptance.load import SCHEMA, TABLES, Load, Witness, wait_for_work
from tests.acceptance.obstacles import IN_COMMIT, WAITING, obstacle
from tests.flow import Flow, until
from tests.network import Network

SEED = 36_037
# Kafka's shortest session, and longer than that.
SESSION_S, CUT_S = 6, 8
# What the slowest notices: 30 s at the replica, at Kafka, and at the slot of the source, each with what follows.
NOTICED_S = 100


class Networks(NamedTuple):
    """What lies between the worker and the replica, the worker and Kafka, and Connect and the source."""

    replica: Network
    kafka: Network
    source: Network


@pytest.fixture
def networks(flow: Flow) -> Iterator[Networks]:
    """What the worker and Connect go through; tests go past it."""
    kafka = (flow.settings.kafka.bootstrap or "").split(":")
    places = (_place(flow.pipeline.replica_admin), kafka, _place(flow.pipeline.source_admin))
    with ExitStack() as stack:
        yield Networks(*(stack.enter_context(Network(host, int(port))) for host, port in places))


def _place(dsn: str) -> list[str]:
    known = conninfo_to_dict(dsn)
    return [str(known["host"]), str(known["port"])]


def _behind(flow: Flow, networks: Networks) -> None:
    place = {"source_host": networks.source.host, "source_port": networks.source.port}
    connect = flow.settings.connect.model_copy(update=place)
    flow.settings = flow.settings.model_copy(update={"connect": connect})
    flow.env |= {
        "DELTASYNC_REPLICA_DSN": make_conninfo(flow.env["DELTASYNC_REPLICA_DSN"], port=networks.replica.port),
        "DELTASYNC_KAFKA_BOOTSTRAP": f"{networks.kafka.host}:{networks.kafka.port}",
        "DELTASYNC_KAFKA_SESSION_TIMEOUT_S": str(SESSION_S),
    }


@pytest.mark.timeout(240)
def test_bad_networks(flow: Flow, networks: Networks) -> None:
    """All three at once: a COMMIT whose answer is lost, a group that was left unawares, a slot that nobody reads."""
    _behind(flow, networks)
    flow.set_up(SCHEMA)
    # The source's own patience with a reader that is gone; a minute unless somebody says so.
    flow.source.execute(f"ALTER ROLE {flow.settings.pipeline} SET wal_sender_timeout = '5s'")
    worker = flow.start_settled()
    flow.replica.execute(WAITING)
    with Witness(flow), Load(flow, SEED, pause_s=0.2):
        for network in networks:
            network.delay_s = 0.05
            network.lose(0.02)
        wait_for_work(flow)
        for network in networks:
            network.delay_s = 0
            network.heal()
            network.reset()
        wait_for_work(flow)
        for network in networks:
            network.cut()
        worker.runs_for(CUT_S)
        for network in networks:
            network.heal()
        wait_for_work(flow)
        reader = flow.streaming()
        with obstacle(flow, IN_COMMIT):
            for network in networks:
                network.forget()
        until(lambda: flow.streaming() not in {None, reader}, "Connect reads again", NOTICED_S)
        wait_for_work(flow, deadline_s=NOTICED_S)
    flow.wait_equal(*TABLES)
    assert worker.process.poll() is None
    assert not worker.blamed()
