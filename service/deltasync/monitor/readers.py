"""The servers as health asks them: each on a connection of its own, short queries, bounded waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg
import sqlalchemy as sa
import structlog

from deltasync.connect.status import Status
from deltasync.kafka.admin import Admin
from deltasync.monitor.metrics import Metrics
from deltasync.postgres.connect import connect
from deltasync.replica import observe as replica
from deltasync.replica.engine import open_replica
from deltasync.settings import Settings
from deltasync.source import observe as source

if TYPE_CHECKING:
    from deltasync.connect.client import ConnectClient
    from deltasync.connect.supervise import Supervisor

log = structlog.get_logger(__name__)

_STATEMENT_MS = "5000"
# A Connect that rebalances is asked again at the next turn; nothing waits for it here.
_CONNECT_RETRY_S = 2.0


class ReplicaReader:
    """Reads the canary and the tables on the replica."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: sa.Connection | None = None

    def read(self) -> replica.View:
        if self._connection is None:
            self._connection = open_replica(self._settings, name="monitor")
        with self._connection.begin():
            self._connection.execute(sa.text(f"SET LOCAL statement_timeout = {_STATEMENT_MS}"))
            return replica.view(self._connection, self._settings.pipeline)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()


class SourceReader:
    """Reads publication and slot on the source."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: psycopg.Connection | None = None

    def read(self) -> source.View:
        if self._connection is None:
            self._connection = connect(
                self._settings.source.conninfo() or "",
                name="monitor",
                autocommit=True,
                session={"statement_timeout": _STATEMENT_MS},
            )
        return source.view(self._connection, self._settings.publication, self._settings.slot)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class KafkaReader:
    """Asks whether the broker answers."""

    def __init__(self, settings: Settings) -> None:
        self._admin = Admin(settings)

    def read(self) -> None:
        self._admin.ping()

    def close(self) -> None:
        """The client connects again by itself."""


class ConnectReader:
    """Reads how the connector does, and restarts what has failed for a passing reason, or does not read its slot."""

    def __init__(self, settings: Settings, metrics: Metrics, unread_since: Callable[[], float | None]) -> None:
        self._settings = settings
        self._unread_since = unread_since
        self._metrics = metrics
        self._client: ConnectClient | None = None
        self._supervisor: Supervisor | None = None

    def read(self) -> Status | None:
        """None where Connect knows no connector of this name."""
        from deltasync.connect.client import NoConnectorError  # noqa: PLC0415 - see _open

        client, supervisor = self._open()
        try:
            status = client.status(self._settings.connector)
        except NoConnectorError:
            return None
        if self._settings.connect.restart_failed_tasks:
            self._supervise(supervisor)
        return status

    def close(self) -> None:
        """A connection for each request: there is nothing to give up."""

    def _open(self) -> tuple[ConnectClient, Supervisor]:
        # Imported here: a worker that does not watch Connect does without the HTTP client's memory.
        from deltasync.connect.client import ConnectClient  # noqa: PLC0415
        from deltasync.connect.supervise import Supervisor  # noqa: PLC0415

        if self._client is None or self._supervisor is None:
            self._client = ConnectClient(self._settings.connect.url or "", retry_s_max=_CONNECT_RETRY_S)
            self._supervisor = Supervisor(self._client, [self._settings.connector])
        return self._client, self._supervisor

    def _supervise(self, supervisor: Supervisor) -> None:
        from deltasync.connect.supervise import Verdict  # noqa: PLC0415 - see _open

        before = supervisor.restarts
        for action in supervisor.check(time.monotonic(), self._unread_since()):
            tell = log.info if action.verdict is Verdict.SETTLED else log.warning
            tell(
                "connector",
                verdict=action.verdict.value,
                connector=action.connector,
                reason=action.reason,
                do=action.remedy,
                attempt=action.attempt,
            )
        self._metrics.task_restarts.inc(supervisor.restarts - before)
