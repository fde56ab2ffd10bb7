"""A Kafka Connect worker with Debezium's PostgreSQL connector."""

from __future__ import annotations

from pathlib import Path

import httpx

from deltasync.local import java
from deltasync.local.jars import Jars
from deltasync.local.process import Process

# What connectors/source-postgres.json sets as `producer.override.…`, and nothing else.
_OVERRIDABLE = ("compression.type", "linger.ms", "batch.size", "max.request.size")


class ConnectWorker:
    """One distributed worker; `url` is its REST interface. Passwords reach it through files in `secrets`.

    `extra` are settings of the worker, and `java_options` some of Java's, that go before ours.
    """

    def __init__(self, name: str, state: Path, port: int, bootstrap: str) -> None:
        self.extra: dict[str, str] = {}
        self.java_options: list[str] = []
        self.process = Process(name, state)
        self.url = f"http://127.0.0.1:{port}"
        self._bootstrap = bootstrap
        self._folder = state / name
        self._secrets = self._folder / "secrets"

    def keep_secret(self, name: str, value: str) -> str:
        """Store a password where only the worker reads it, and return what a connector says instead of it."""
        self._make_folders()
        file = self._secrets / f"{name}.properties"
        file.touch(mode=0o600)
        file.write_text(java.properties({"password": value}))
        return self.secret(name)

    def secret(self, name: str) -> str:
        """What a connector says instead of the password that was kept under this name."""
        return f"${{file:{self._secrets / name}.properties:password}}"

    def start(self, jars: Jars, cache: java.Cache, *, make_cache: bool = False) -> None:
        """Start the worker; the broker must take connections. Does not wait."""
        self._make_folders()
        settings = self._folder / "worker.properties"
        settings.write_text(java.properties(self._settings(jars.plugins) | self.extra))
        main = "org.apache.kafka.connect.cli.ConnectDistributed"
        options = [*(cache.make() if make_cache else cache.use()), *self.java_options]
        self.process.spawn(java.command(options, main, str(settings), class_path=jars.kafka, folder=self._folder))

    def wait(self) -> None:
        """Return when the worker lists its connectors. Raises PartError where it does not."""
        self.process.wait(self.is_ready)

    def is_ready(self) -> bool:
        """Whether the worker lists its connectors: it listens before that, and answers 404 for a moment."""
        try:
            return httpx.get(f"{self.url}/connectors", timeout=2).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _make_folders(self) -> None:
        for folder in (self._folder, self._secrets):
            folder.mkdir(mode=0o700, exist_ok=True)

    def _settings(self, plugins: Path) -> dict[str, str]:
        json = "org.apache.kafka.connect.json.JsonConverter"
        topics = {
            f"{kind}.storage.{what}": value
            for kind in ("config", "offset", "status")
            for what, value in (("topic", f"connect-{kind}"), ("replication.factor", "1"))
        }
        return topics | {
            "bootstrap.servers": self._bootstrap,
            "group.id": "connect",
            "listeners": self.url,
            "rest.advertised.host.name": "127.0.0.1",
            "plugin.path": str(plugins),
            "plugin.discovery": "service_load",
            "key.converter": json,
            "value.converter": json,
            "offset.storage.partitions": "5",
            "status.storage.partitions": "1",
            "offset.flush.interval.ms": "1000",
            "connector.client.config.override.policy": "Allowlist",
            "connector.client.config.override.allowlist": ",".join(_OVERRIDABLE),
            "config.providers": "file",
            "config.providers.file.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
            "config.providers.file.param.allowed.paths": str(self._secrets),
        }
