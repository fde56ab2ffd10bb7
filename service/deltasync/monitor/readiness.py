"""A worker's readiness: watches the servers, remembers what takes time to judge, and answers `/readyz`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import structlog

from deltasync.connect.status import Status
from deltasync.lifecycle import Lifecycle
from deltasync.monitor.freshness import Freshness
from deltasync.monitor.health import Facts, Trouble, judge
from deltasync.monitor.metrics import Metrics
from deltasync.monitor.readers import ConnectReader, KafkaReader, ReplicaReader, SourceReader
from deltasync.monitor.reason import Reason
from deltasync.monitor.watch import Watch
from deltasync.replica import observe as replica
from deltasync.settings import Settings
from deltasync.source import observe as source

log = structlog.get_logger(__name__)

_REPLICA_EVERY_S = 2.0
_OTHERS_EVERY_S = 5.0


class Worker(Protocol):
    """What the pipeline tells; called from other threads."""

    failing: str | None

    def troubles(self) -> Sequence[Trouble]:
        """The partitions that are not read now."""


class Readiness:
    """Watches from `__enter__` to `__exit__`; `reasons` may be called at any time, from any thread."""

    def __init__(self, settings: Settings, metrics: Metrics, lifecycle: Lifecycle, worker: Worker) -> None:
        self._age_s_max = settings.monitor.canary_age_s_max
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._worker = worker
        self._freshness = Freshness()
        self._differs_since: float | None = None
        self._unread: float | None = None  # since when nobody reads the slot
        self._applied_to: int | None = None
        self._lacks_commits = False
        self._replica = Watch("the replica", _REPLICA_EVERY_S, ReplicaReader(settings), self._saw_replica)
        self._kafka = Watch("Kafka", _OTHERS_EVERY_S, KafkaReader(settings))
        self._source = (
            Watch("the source", _OTHERS_EVERY_S, SourceReader(settings), self._saw_source)
            if settings.source.dsn
            else None
        )
        self._connect = (
            Watch("Connect", _OTHERS_EVERY_S, ConnectReader(settings, metrics, self._unread_since))
            if settings.connect.url
            else None
        )
        metrics.canary_age_seconds.set_function(self.canary_age_s)
        metrics.ready.set_function(lambda: not self.reasons())

    def reasons(self) -> list[Reason]:
        """Why the worker is not ready; none if it is. Does not block."""
        now = time.monotonic()
        since = self._differs_since
        facts = Facts(
            state=self._lifecycle.state,
            failing=self._worker.failing,
            troubles=self._worker.troubles(),
            age_s=self._freshness.age_s(now),
            proven=self._freshness.proven,
            differs_s=0.0 if since is None else now - since,
            replica=self._replica.latest,
            kafka=self._kafka.latest,
            source=self._source.latest if self._source else None,
            connector=self._connect.latest if self._connect else None,
            lacks_commits=self._lacks_commits,
        )
        return judge(facts, age_s_max=self._age_s_max, now=now)

    def canary_age_s(self) -> float:
        """Not a number before the first canary."""
        age_s = self._freshness.age_s(time.monotonic())
        return float("nan") if age_s is None else age_s

    def __enter__(self) -> Self:
        for watch in self._watches():
            watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for watch in self._watches():
            watch.stop()

    def _watches(self) -> list[Watch[replica.View] | Watch[None] | Watch[source.View] | Watch[Status | None]]:
        return [watch for watch in (self._replica, self._kafka, self._source, self._connect) if watch is not None]

    def _saw_replica(self, view: replica.View) -> None:
        self._metrics.known_tables(view.tables)
        self._metrics.letters(view.letters)
        if view.canary is None:
            return
        now = time.monotonic()
        self._freshness.saw(view.canary.beat, view.canary.beat_at_us / 1e6, clock_s=time.time(), now=now)
        if view.canary.publication_digest == view.digest:
            self._differs_since = None
        elif self._differs_since is None:
            self._differs_since = now

    def _unread_since(self) -> float | None:
        """Since when nobody reads the slot; None where somebody does, the source does not tell, or beats come."""
        now = time.monotonic()
        told = self._source is not None and self._source.latest.trouble(now) is None
        late = (self._freshness.age_s(now) or 0.0) > self._age_s_max
        return self._unread if told and late else None

    def _saw_source(self, view: source.View) -> None:
        unread = view.slot is not None and view.slot.is_unread
        self._unread = (self._unread or time.monotonic()) if unread else None
        self._freshness.measured(time.time() - view.clock_us / 1e6)
        # What was applied by the reading before this one was in the log then.
        self._lacks_commits = (self._applied_to or 0) > view.log_end
        self._applied_to = self._replica.latest.value.applied_to if self._replica.latest.value else None
