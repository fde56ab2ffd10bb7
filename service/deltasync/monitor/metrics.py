"""Every metric of the service, with its name, unit and labels: the registry behind `/metrics`."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from deltasync import __version__
from deltasync.change import Partition
from deltasync.monitor.durations import Durations
from deltasync.ownership import Ownership, PartitionState
from deltasync.progress import Progress
from deltasync.replica.observe import Known
from deltasync.table import TableId

# From 1 ms to 10 min in steps of about a fifth: quantiles read from them err by less than that.
_LATENCY_BUCKETS_S = tuple(round(0.001 * 1.2**n, 6) for n in range(74))


class Metrics:
    """Counters and gauges of one worker; thread-safe. `registry` is what `/metrics` prints."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        by_partition = ["group", "topic", "partition"]
        self.records = counter("deltasync_records", "Records polled from Kafka.")
        self.changes = counter("deltasync_changes_applied", "Row changes applied to the replica.")
        self.rows = counter("deltasync_rows_written", "Rows written after compaction.")
        self.skipped = counter(
            "deltasync_records_skipped", "Records that were older than what was applied, by position.", ["topic"]
        )
        self.passed_over = counter(
            "deltasync_records_passed_over",
            "Records without a change of a captured table: tombstones, heartbeats, tables that are not captured.",
        )
        self.parked = counter(
            "deltasync_records_parked",
            "Records that were set aside as dead letters, or waited behind one.",
        )
        self.dead_letters = gauge("deltasync_dead_letters", "Records of a table that are set aside now.", ["table"])
        self.batches = counter("deltasync_batches", "Transactions committed on the replica.")
        self.retries = counter("deltasync_retries", "Batches that failed for a passing reason.")
        self.fenced = counter("deltasync_fenced_batches", "Batches that another worker had taken over.")
        self.apply_seconds = histogram("deltasync_apply_seconds", "Time of one transaction on the replica.")
        self.latency_seconds = Durations(
            "deltasync_latency_seconds",
            "From the source's commit of a change to its commit on the replica.",
            _LATENCY_BUCKETS_S,
        )
        registry.register(self.latency_seconds)
        self.lag = gauge(
            "kafka_consumergroup_group_lag", "Records of a partition that are not applied yet.", by_partition
        )
        self.next_offset = gauge(
            "kafka_consumergroup_group_offset", "The next offset that will be applied.", by_partition
        )
        self.lag_seconds = gauge(
            "kafka_consumergroup_group_lag_seconds",
            "How long ago the source committed the newest applied change of a partition that is behind; else 0.",
            by_partition,
        )
        self.partitions = gauge("deltasync_partitions", "Partitions that this worker owns, by state.", ["state"])
        self.skipped_columns = gauge(
            "deltasync_skipped_columns",
            "Columns that are left alone on the replica, since they cannot be carried exactly.",
            ["table"],
        )
        self.task_restarts = counter("deltasync_connector_task_restarts", "Failed connector tasks that were restarted.")
        self.canary_age_seconds = gauge(
            "deltasync_canary_age_seconds",
            "How long ago the source wrote the newest canary that is visible on the replica; NaN before the first.",
        )
        self.ready = gauge("deltasync_ready", "1 if /readyz answers 200, else 0.")
        self.build_info = gauge("deltasync_build_info", "Always 1; says which version.", ["version"])
        self.build_info.labels(__version__).set(1)
        self._level_at: dict[Partition, float] = {}

    def batch(self, *, records: int, changes: int, rows: int, seconds: float) -> None:
        """A transaction was committed on the replica."""
        self.batches.inc()
        self.changes.inc(changes)
        self.rows.inc(rows)
        self.passed_over.inc(records - changes)
        self.apply_seconds.observe(seconds)

    def latencies(self, seconds: Iterable[float]) -> None:
        """From source commit to visible; clocks that disagree make it negative, which counts as 0."""
        self.latency_seconds.observe_all(max(0.0, one) for one in seconds)

    def ownership(self, group: str, ownership: Ownership, end_offset: Callable[[Partition], int | None]) -> None:
        """How far each partition of this worker is."""
        states = Tally(owned.state for owned in ownership.all())
        for state in PartitionState:
            self.partitions.labels(state.value).set(states[state])
        now = time.time()
        for owned in ownership.all():
            labels = (group, owned.partition.topic, str(owned.partition.number))
            self.next_offset.labels(*labels).set(owned.progress.next_offset)
            end = end_offset(owned.partition)
            if end is not None:
                records = max(0, end - owned.progress.next_offset)
                self.lag.labels(*labels).set(records)
                self.lag_seconds.labels(*labels).set(self._behind_s(owned.partition, owned.progress, records, now))

    def known_tables(self, tables: Iterable[Known]) -> None:
        """What of the source's tables is left alone."""
        self.skipped_columns.clear()
        for known in tables:
            if known.captured and known.skipped:
                self.skipped_columns.labels(str(known.table)).set(len(known.skipped))

    def letters(self, letters: Mapping[TableId, tuple[int, int]]) -> None:
        """What is set aside, by table: what failed, and all."""
        self.dead_letters.clear()
        for table, (_, records) in letters.items():
            self.dead_letters.labels(str(table)).set(records)

    def _behind_s(self, partition: Partition, progress: Progress, records: int, now: float) -> float:
        """Seconds since nothing was left of a partition, or since its newest applied commit, whichever is later."""
        if records == 0:
            self._level_at[partition] = now
            return 0.0
        if progress.committed_us is None:
            return now - self._level_at.setdefault(partition, now)
        return max(0.0, now - max(self._level_at.get(partition, 0.0), progress.committed_us / 1e6))

    def forget(self, group: str, partition: Partition) -> None:
        """Another worker reports this partition from now on."""
        self._level_at.pop(partition, None)
        for gauge in (self.lag, self.lag_seconds, self.next_offset):
            try:
                gauge.remove(group, partition.topic, str(partition.number))
            except KeyError:
                continue
