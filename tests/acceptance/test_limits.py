"""Limits that are met: of a record's size, and of the files that a worker may open."""

from __future__ import annotations

import json
import resource

import httpx
import pytest
from tests.acceptance.load import SCHEMA, TABLES, Load, wait_for_work
from tests.acceptance.topics import Topics
from tests.flow import Flow, Worker, until

SEED = 29_045
# No compression makes these 400,000 characters much smaller.
_LARGE = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 12500) n)"
_DOCS = "CREATE SCHEMA shop; CREATE TABLE shop.doc (id int PRIMARY KEY, body text); INSERT INTO shop.doc VALUES (0, '')"


@pytest.mark.timeout(240)
def test_a_row_that_is_larger_than_kafka_takes(flow: Flow) -> None:
    """By the producer's limit, where nothing is lost, and by the topic's: the connector fails and says what to do.

    A record that the broker refuses does not keep those behind it from being sent, and is skipped as older later.
    """
    flow.set_up(_DOCS, producer__override__max__request__size="200000")
    worker = flow.start_settled()
    flow.wait_equal("shop.doc")
    topics = Topics(flow)
    topics.configure("shop.doc", {"max.message.bytes": "200000"})
    flow.source.execute(f"INSERT INTO shop.doc VALUES (1, {_LARGE}), (2, 'behind it')")
    until(lambda: "200000, which is the value of the max.request.size" in _unready(worker), "it says why")
    assert "producer.override.max.request.size" in _unready(worker)
    flow.start_connector()
    until(
        lambda: "larger than the max message size the server will accept" in _unready(worker), "the broker refuses it"
    )
    assert "max.message.bytes of its topic" in _unready(worker)
    assert "deltasync resync" in _unready(worker)
    said = " ".join(flow.cli("check", code=1).split())
    assert f"{topics.name('shop.doc')} takes records of 200000 bytes, the connector sends up to 33554432" in said
    topics.configure("shop.doc", {"max.message.bytes": str(2**25)})
    flow.cli("connectors", "restart")
    flow.cli("resync", "shop.doc")
    flow.wait_equal("shop.doc")
    assert not worker.blamed()


def test_a_worker_without_files(flow: Flow) -> None:
    """It may open none, and has to connect anew: it ends, and the next one goes on."""
    flow.set_up(SCHEMA)
    worker = flow.start_worker(DELTASYNC_REPLICA_RETRY_S_MAX="3")
    flow.wait_equal(*TABLES)
    with Load(flow, SEED):
        wait_for_work(flow)
        _, most = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (3, most))
        flow.end_sessions()
        assert worker.process.wait(60) != 0
        assert flow.start_worker().process.poll() is None
        wait_for_work(flow)
    flow.wait_equal(*TABLES)


def _unready(worker: Worker) -> str:
    url = worker.events("monitor answers")[-1]["url"]
    return json.dumps(httpx.get(f"{url}/readyz", timeout=5).json())
