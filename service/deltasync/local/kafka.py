"""A Kafka broker: one KRaft node that is its own controller."""

from __future__ import annotations

import secrets
from pathlib import Path
from shlex import join

from deltasync.local import java
from deltasync.local.process import Process, answers

# Large rows: the shipped connector produces records of up to 32 MiB.
_RECORD_BYTES_MAX = 32 * 2**20


class KafkaServer:
    """One broker on two ports of 127.0.0.1; `bootstrap` is its address."""

    def __init__(self, name: str, state: Path, port: int, controller_port: int) -> None:
        self.process = Process(name, state)
        self.bootstrap = f"127.0.0.1:{port}"
        self._controller = f"127.0.0.1:{controller_port}"
        self._port = port
        self._folder = state / name

    def start(self, class_path: Path, cache: java.Cache, *, make_cache: bool = False) -> None:
        """Start the broker, on the topics that are there or on none. Does not wait."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        settings = self._folder / "server.properties"
        settings.write_text(java.properties(self._settings()))

        def run(options: list[str], main: str, *arguments: str) -> str:
            return join(java.command(options, main, *arguments, class_path=class_path, folder=self._folder))

        # `format` writes meta.properties last: where it is missing, the storage is not formatted yet.
        meta = join([str(self._folder / "data" / "meta.properties")])
        storage = run(cache.use(), "kafka.tools.StorageTool", "format", "-t", cluster_id(), "-c", str(settings))
        broker = run(cache.make() if make_cache else cache.use(), "kafka.Kafka", str(settings))
        self.process.spawn(["/bin/sh", "-c", f"[ -e {meta} ] || {storage} || exit 1; exec {broker}"])

    def wait(self) -> None:
        """Return when the broker takes connections. Raises PartError where it does not."""
        self.process.wait(self.is_ready)

    def is_ready(self) -> bool:
        """Whether the broker takes connections."""
        return answers(self._port)

    def _settings(self) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{self._controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._folder / "data"),
            "auto.create.topics.enable": "false",
            "num.partitions": "1",
            "message.max.bytes": str(_RECORD_BYTES_MAX),
            "replica.fetch.max.bytes": str(_RECORD_BYTES_MAX),
            # One node: every internal topic has one replica, and few partitions start faster.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "5",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "5",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "5",
            "group.initial.rebalance.delay.ms": "0",
        }


def cluster_id() -> str:
    """A new cluster's id: 16 bytes in Base64 that do not begin with a dash, which would be read as an option."""
    return "A" + secrets.token_urlsafe(16)[1:]
