"""The loop: poll, decode, compact, plan, apply with the ledger, commit offsets. The composition root.

One thread, one batch at a time: a batch is small when we are caught up, because a poll takes what is
there, and as large as `[batch]` allows when we are behind. Whatever goes wrong with the replica, the
way back is the same: read the ledger, seek, go on from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import structlog

from deltasync import intake
from deltasync.change import Log, Op, Partition, Record
from deltasync.compact import compact
from deltasync.errors import DeltasyncError, GapError, RecordError, UnreachableError
from deltasync.failure import Verdict, describe, verdict
from deltasync.intake import Cut, Intake, Tables, Taken
from deltasync.kafka.consumer import Consumer
from deltasync.lifecycle import APPLY_S_MAX, Lifecycle, State
from deltasync.monitor.health import Trouble
from deltasync.monitor.metrics import Metrics
from deltasync.ownership import Ownership
from deltasync.plan import StaleDescriptionError, plan
from deltasync.progress import Progress
from deltasync.replica.session import Batch, Replica
from deltasync.replica.tables import CANARY
from deltasync.settings import Settings

log = structlog.get_logger(__name__)

_POLL_S = 0.2
# Backoff between tries of a replica that does not answer: doubles from the first to the second.
_BACKOFF_S = (0.2, 10.0)
# How soon a worker hears that its ledger was moved by hand.
_BY_HAND_EVERY_S = 2.0
# How soon it notices that a topic was deleted and made again under it.
_RECHECK_EVERY_S = 5.0


class Pipeline:
    """One worker: a member of the consumer group with a session on the replica."""

    def __init__(self, settings: Settings, metrics: Metrics, lifecycle: Lifecycle) -> None:
        settings.need("replica.dsn", "kafka.bootstrap", "unavailable_value")
        self._settings = settings
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._replica = Replica(settings)
        self._ownership = Ownership()
        self._consumer = Consumer(settings, self)
        self._tables = Tables({}, CANARY, settings.unavailable_value or "")
        self.failing: str | None = None
        self._failing_since: float | None = None
        self._failures = 0
        self._audited = 0
        self._heard_at = 0.0
        self._rechecked_at = 0.0

    def run(self) -> None:
        """Apply until the lifecycle says stop. Raises DeltasyncError for what no retry mends."""
        self._lifecycle.on_overdue(self._replica.cancel)
        try:
            self._read_tables()
            self._audited, _ = self._replica.moved_since(0)
            self._consumer.start()
            self._lifecycle.to(State.RUNNING)
            while self._lifecycle.running:
                self.step()
        finally:
            self._consumer.close()
            self._replica.close()

    def troubles(self) -> list[Trouble]:
        """The partitions that wait or are stopped, and why; callable from other threads."""
        found = ((owned, owned.error or (owned.cut and owned.cut.error)) for owned in self._ownership.all())
        return [Trouble(o.partition, o.state, why) for o, why in found if why is not None and not o.is_reading]

    def step(self) -> None:
        """One turn: wake what waited, poll, apply, commit offsets."""
        self._lifecycle.turns()
        self._wake()
        self._hear()
        self._recheck()
        records = self._consumer.poll(
            rows_max=self._settings.batch.rows_max, bytes_max=self._settings.batch.bytes_max, wait_s=_POLL_S
        )
        self._metrics.records.inc(len(records))
        try:
            if self._ownership.unopened:
                self._reread()
            self._work_off(records)
        except Exception as error:  # noqa: BLE001 - `verdict` raises what it does not know
            self._recover(error)
        self._observe()

    # What a batch does to the replica

    def _work_off(self, records: Sequence[Record]) -> None:
        """Apply a poll's records: schema events first, since they decide how the other records are read."""
        found = self._take(records)
        announcing = {one.partition for one in found.taken if one.event is not None}
        if announcing:
            self._settle(self._take([record for record in records if record.partition in announcing]))
            self._read_tables()
            found = self._take([record for record in records if record.partition not in announcing])
        self._settle(found)

    def _take(self, records: Sequence[Record]) -> Intake:
        return intake.take(records, self._ownership.progress(), self._tables)

    def _settle(self, found: Intake) -> None:
        """Apply what was taken, and block the partitions that were cut."""
        self._apply_or_narrow(found.taken)
        for cut in found.cuts.values():
            self._block(cut)

    def _apply_or_narrow(self, taken: Sequence[Taken]) -> None:
        """Apply; where a record is to blame, narrow down to it and block its partition there."""
        taken = [one for one in taken if self._ownership.is_open(one.partition)]
        if not taken:
            return
        try:
            self._apply(taken)
        except StaleDescriptionError as error:
            cut = intake.stale(error.change)
            self._apply_or_narrow([one for one in taken if one.partition != cut.partition or one.offset < cut.offset])
            self._block(cut)
        except Exception as error:
            if verdict(error) is not Verdict.STOP:
                raise
            parts = _narrower(taken)
            if len(parts) == 1:
                self._stop(taken[0].partition, _blame(taken[0], error))
            else:
                for part in parts:
                    self._apply_or_narrow(part)

    def _apply(self, taken: Sequence[Taken]) -> None:
        changes = [one.change for one in taken if one.change is not None]
        plans = plan(compact(changes, self._tables.decoders), self._tables.decoders)
        to = {one.partition: one.progress for one in taken}
        claims = {partition: self._ownership.claim(partition) for partition in to}
        started = time.monotonic()
        events = [one.event for one in taken if one.event is not None]
        self._lifecycle.turns(within_s=APPLY_S_MAX)
        rows = self._replica.apply(Batch(claims, to, plans, events))
        self._applied(taken, to, rows, time.monotonic() - started)

    def _applied(self, taken: Sequence[Taken], to: Mapping[Partition, Progress], rows: int, seconds: float) -> None:
        now_us = time.time_ns() // 1000
        for partition, progress in to.items():
            before = self._ownership.claim(partition).progress
            if progress.skipped > before.skipped:
                self._metrics.skipped.labels(partition.topic).inc(progress.skipped - before.skipped)
        self._ownership.moved(to)
        self._consumer.commit({partition: progress.next_offset for partition, progress in to.items()})
        self._failing_since, self._failures = None, 0
        changes = [one.change for one in taken if one.change is not None]
        self._metrics.batch(records=len(taken), changes=len(changes), rows=rows, seconds=seconds)
        commits = {change.position.committed_us for change in changes if change.op is not Op.READ}
        self._metrics.latencies((now_us - committed_us) / 1e6 for committed_us in commits)
        log.debug("applied", records=len(taken), rows=rows, seconds=round(seconds, 4), partitions=len(to))

    # Partitions: the Owner of the consumer, called from inside poll

    def on_assign(self, partitions: Mapping[Partition, Log]) -> Mapping[Partition, int]:
        self._ownership.assigned(partitions)
        try:
            self._open(partitions)
            self._check(partitions)
        except Exception as error:
            if verdict(error) not in (Verdict.RETRY, Verdict.REREAD):
                raise
            log.warning("partitions not opened yet", reason=describe(error))
        log.info("assigned", partitions=len(partitions))
        open_ = {p: progress.next_offset for p, progress in self._ownership.progress().items()}
        return {p: offset for p, offset in open_.items() if p in partitions}

    def on_revoke(self, partitions: Iterable[Partition], *, lost: bool) -> None:
        revoked = list(partitions)
        self._ownership.revoked(revoked)
        for partition in revoked:
            self._metrics.forget(self._settings.group, partition)
        log.info("revoked", partitions=len(revoked), lost=lost)

    def on_missing(self, partition: Partition) -> None:
        owned = self._ownership.get(partition)
        if owned is not None and owned.error is None:
            self._stop(partition, _gap(partition, f"the log does not hold offset {owned.progress.next_offset}"))

    def _open(self, logs: Mapping[Partition, Log]) -> None:
        """Read the ledger for these partitions."""
        for partition, found in self._replica.open({p: log_.topic_id for p, log_ in logs.items()}).items():
            owned = self._ownership.get(partition)
            if owned is None:
                continue
            if isinstance(found, GapError):
                self._stop(partition, found)
            else:
                owned.opened(found)

    def _check(self, logs: Mapping[Partition, Log]) -> None:
        """Stop the partitions whose log does not reach to where the ledger is."""
        for partition, progress in self._ownership.progress().items():
            gap = _gap_between(partition, logs[partition], progress) if partition in logs else None
            if gap is not None:
                self._stop(partition, gap)

    def _reread(self) -> None:
        """Read the ledger again for all partitions and go on where it says."""
        self._open(self._ownership.logs())
        for partition, progress in self._ownership.progress().items():
            self._consumer.reposition(partition, progress.next_offset)

    def _block(self, cut: Cut) -> None:
        """Read a partition no further for now: it waits until other tables are known, or it stops for good."""
        owned = self._ownership.get(cut.partition)
        if owned is None or owned.error is not None:
            return
        if not cut.waits:
            self._stop(cut.partition, cut.error)
            return
        self._consumer.pause(cut.partition)
        if owned.waits(cut, self._tables):
            log.warning("partition waits", partition=str(cut.partition), reason=cut.error.what, do=cut.error.remedy)

    def _stop(self, partition: Partition, error: DeltasyncError) -> None:
        owned = self._ownership.get(partition)
        if owned is None:
            return
        if owned.is_reading:
            self._consumer.pause(partition)
        owned.stopped(error)
        log.error("partition stopped", partition=str(partition), reason=error.what, do=error.remedy)

    def _wake(self) -> None:
        """Look whether what is known of the tables that partitions wait for has changed."""
        if not self._ownership.due(time.monotonic()):
            return
        try:
            self._read_tables()
        except Exception as error:  # noqa: BLE001 - `verdict` raises what it does not know
            self._recover(error)
            return
        for owned in self._ownership.waiting():
            if owned.tables is not self._tables:
                owned.goes_on()
                self._consumer.reposition(owned.partition, owned.progress.next_offset)

    def _hear(self) -> None:
        """Open the partitions anew whose ledger was moved by hand, those that stopped included."""
        now = time.monotonic()
        if now - self._heard_at < _BY_HAND_EVERY_S:
            return
        self._heard_at = now
        try:
            audited, moved = self._replica.moved_since(self._audited)
            logs = self._consumer.logs([partition for partition in moved if self._ownership.get(partition)])
            self._ownership.assigned(logs)
            self._open(logs)
            self._check(logs)
        except Exception as error:  # noqa: BLE001 - `verdict` raises what it does not know
            self._recover(error)
            return
        self._audited = audited
        for partition, progress in self._ownership.progress().items():
            if partition in logs:
                log.info("moved by hand", partition=str(partition), next_offset=progress.next_offset)
                self._consumer.reposition(partition, progress.next_offset)

    def _recheck(self) -> None:
        """Open the partitions anew whose topic was replaced; the ledger knows another one, so they stop."""
        now = time.monotonic()
        if now - self._rechecked_at < _RECHECK_EVERY_S:
            return
        self._rechecked_at = now
        ids = {partition.topic: log_.topic_id for partition, log_ in self._ownership.logs().items()}
        for partition in self._ownership.replaced(self._consumer.replaced(ids)):
            self._consumer.pause(partition)

    # Trouble with the replica

    def _recover(self, error: BaseException) -> None:
        """Wait as the failure asks for, then read the ledger again. Raises what no retry mends."""
        what = verdict(error)
        if what not in (Verdict.RETRY, Verdict.REREAD):
            raise error
        while self._lifecycle.running:
            if what is Verdict.REREAD:
                self._metrics.fenced.inc()
                log.info("fenced: reading the ledger again", reason=describe(error))
            else:
                self._back_off(error)
            try:
                self._reread()
            except Exception as again:
                what, error = verdict(again), again
                if what not in (Verdict.RETRY, Verdict.REREAD):
                    raise
            else:
                self.failing = None
                return

    def _back_off(self, error: BaseException) -> None:
        """Wait before the next try while staying in the group. Raises UnreachableError after `retry_s_max`."""
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        self._failures += 1
        self.failing = describe(error)
        self._metrics.retries.inc()
        if now - self._failing_since > self._settings.replica.retry_s_max:
            raise UnreachableError(
                f"The replica has failed for {self._settings.replica.retry_s_max:.0f} s: {describe(error)}.",
                remedy="Mend the replica and start deltasync run again; nothing is lost, it goes on at the ledger.",
            ) from error
        pause_s = min(_BACKOFF_S[0] * 2 ** (self._failures - 1), _BACKOFF_S[1])
        log.warning("the replica failed; trying again", reason=describe(error), in_s=pause_s, failures=self._failures)
        until = now + pause_s
        while self._lifecycle.running and time.monotonic() < until:
            self._lifecycle.turns()
            # What comes is thrown away: the next try reads the ledger and repositions every partition.
            self._consumer.poll(rows_max=1, bytes_max=1, wait_s=_POLL_S)

    def _read_tables(self) -> None:
        """Read the descriptions; `_tables` is another object if they changed."""
        known = self._replica.tables()
        if known != self._tables.known:
            self._tables = Tables(known, CANARY, self._settings.unavailable_value or "")

    def _observe(self) -> None:
        self._metrics.ownership(self._settings.group, self._ownership, self._consumer.end_offset)


def _narrower(taken: Sequence[Taken]) -> list[Sequence[Taken]]:
    """The same records in smaller parts: by partition, then by halves; one part if there is only one record."""
    by_partition: dict[Partition, list[Taken]] = {}
    for one in taken:
        by_partition.setdefault(one.partition, []).append(one)
    if len(by_partition) > 1:
        return list(by_partition.values())
    if len(taken) == 1:
        return [taken]
    half = len(taken) // 2
    return [taken[:half], taken[half:]]


def _blame(taken: Taken, error: BaseException) -> RecordError:
    """The error of one record, with its place and without its values."""
    where = f"{taken.partition} offset {taken.offset}"
    table = taken.change.table if taken.change else "the schema log"
    if isinstance(error, DeltasyncError):
        return RecordError(f"{error.what} ({where})", remedy=error.remedy)
    return RecordError(
        f"The replica refuses a record of {table} ({where}): {describe(error)}.",
        remedy="Make the replica's table accept what the source's does, then start deltasync run again.",
    )


def _gap_between(partition: Partition, log_: Log, progress: Progress) -> GapError | None:
    if progress.next_offset < log_.start_offset:
        return _gap(partition, f"the log begins at offset {log_.start_offset}, the ledger is at {progress.next_offset}")
    if progress.next_offset > log_.end_offset:
        return _gap(partition, f"the log ends at offset {log_.end_offset}, the ledger is at {progress.next_offset}")
    return None


def _gap(partition: Partition, what: str) -> GapError:
    return GapError(
        f"Records of {partition} are missing: {what}.",
        remedy=(
            "Read its table again from the source; when it is known that nothing is missing: deltasync ledger set "
            f"{partition.topic} {partition.number} OFFSET --reason …"
        ),
    )
