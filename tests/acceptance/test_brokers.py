"""Several brokers: they go one after the other, other leaders take over, and the same worker goes on."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.acceptance.load import SCHEMA, TABLES, Load, Witness, wait_for_work
from tests.acceptance.topics import Topics
from tests.flow import Flow, until
from tests.servers import Addresses

from deltasync.local import jars, java
from deltasync.local import state as states
from deltasync.local.kafka import KafkaServer, cluster_id

SEED = 13_000
_TOPICS = (*TABLES, "deltasync.canary", "deltasync.schema_log")


class Broker(KafkaServer):
    """One more broker of a stack's cluster; the controller is the stack's own broker."""

    def __init__(self, number: int, folder: Path, stack: Path) -> None:
        super().__init__(
            f"kafka{number}", folder, states.free_ports().kafka, states.load_or_make(stack).ports.controller
        )
        self.number = number
        data = folder / self.process.name / "data"
        data.mkdir(parents=True)
        known = re.search(r"cluster\.id=(\S+)", (stack / "kafka" / "data" / "meta.properties").read_text())
        assert known is not None
        meta = {"version": "1", "cluster.id": known[1], "node.id": str(number), "directory.id": cluster_id()}
        (data / "meta.properties").write_text(java.properties(meta))

    def begin(self) -> None:
        """Start, and return when it takes connections."""
        class_path = jars.ensure().kafka
        self.start(class_path, java.Cache("kafka", class_path))
        self.wait()

    def _settings(self) -> dict[str, str]:
        own = {"process.roles": "broker", "node.id": str(self.number), "listeners": f"PLAINTEXT://{self.bootstrap}"}
        return super()._settings() | own


@contextmanager
def _brokers(topics: Topics, folder: Path, stack: Path) -> Iterator[list[Broker]]:
    """Two more; they leave the cluster at the end, so that nobody's topics are put there."""
    found = [Broker(number, folder, stack) for number in (2, 3)]
    try:
        for broker in found:
            broker.begin()
        until(lambda: len(topics.admin.list_topics(timeout=10).brokers) == 3, "three brokers")
        yield found
    finally:
        for broker in found:
            broker.process.stop(signal.SIGTERM)
        until(lambda: len(topics.admin.list_topics(timeout=10).brokers) == 1, "one broker")


@pytest.mark.timeout(240)
def test_leaders_change(flow: Flow, servers: Addresses, tmp_path: Path) -> None:
    """One dies and comes back, then the other one leaves in good order."""
    if servers.folder is None:
        pytest.skip("the cluster is not ours to enlarge")
    topics = Topics(flow)
    with _brokers(topics, tmp_path, Path(servers.folder)) as brokers:
        for table in _TOPICS:
            topics.make(table, replicas=[broker.number for broker in brokers])
        flow.set_up(SCHEMA)
        worker = flow.start_settled()
        with Witness(flow), Load(flow, SEED, pause_s=0.1):
            for leaves, how in zip(brokers, (signal.SIGKILL, signal.SIGTERM), strict=True):
                wait_for_work(flow)
                leaves.process.stop(how)
                (stays,) = (broker.number for broker in brokers if broker is not leaves)
                until(lambda: {topics.leader(table) for table in _TOPICS} == {stays}, "another one leads")  # noqa: B023 - called at once
                wait_for_work(flow)
                leaves.begin()
                until(lambda: all(len(topics.in_sync(table)) == 2 for table in _TOPICS), "it has what came meanwhile")
            wait_for_work(flow)
        flow.wait_equal(*TABLES)
        worker.stop()
    assert not worker.blamed()
