"""The loop: poll, decode, compact, plan, apply with the ledger, commit offsets.

One thread, one batch at a time: a batch is small when we are caught up, because a poll takes what is
there, and as large as `[batch]` allows when we are behind. Whatever goes wrong with the replica, the
way back is the same: read the ledger, seek, go on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import structlog

from deltasync import bulk, canary, intake, parking
from deltasync.assignment import Assignment
from deltasync.bulk import Bulk
from deltasync.canary import Beat
from deltasync.change import Op, Partition, Record
from deltasync.compact import compact
from deltasync.debezium.schema_log import CANARY as CANARY_TABLE
from deltasync.debezium.schema_log import CONTROL_TABLES
from deltasync.errors import RecordError, UnreachableError
from deltasync.failure import Verdict, describe, is_to_blame, lacks_change, lacks_parent, lacks_room, verdict
from deltasync.flight import Flight
from deltasync.following import Following
from deltasync.intake import Intake, Taken
from deltasync.lifecycle import APPLY_S_MAX, Lifecycle, State
from deltasync.monitor.health import Trouble
from deltasync.monitor.metrics import Metrics
from deltasync.narrowing import blamed, narrower
from deltasync.parking import NO_ERRORS, Diverted, Parked, may_park
from deltasync.plan import StaleDescriptionError, plan
from deltasync.ports import Batch, Consumer, Replica
from deltasync.progress import Progress
from deltasync.readable import Cut, Tables, stale
from deltasync.replica.tables import CANARY
from deltasync.settings import Settings
from deltasync.table import SourceTable, TableId

log = structlog.get_logger(__name__)

# Backoff between tries of a replica that does not answer: doubles from the first to the second.
_BACKOFF_S = (0.2, 10.0)
# A poll of so many records tells that we are behind: they are applied while the next ones are read.
OVERLAP_FROM = 1000
# So often what others do is looked at in spite of that.
_LOOK_EVERY_S = 3.0
# So long a row may be ahead of the schema log's entry that gives the replica what it needs.
_EARLY_S = 15.0


class Pipeline:
    """One worker: a member of the consumer group with a session on the replica."""

    def __init__(
        self, settings: Settings, consumer: Consumer, replica: Replica, metrics: Metrics, lifecycle: Lifecycle
    ) -> None:
        settings.need("unavailable_value")
        self._settings = settings
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._replica = replica
        self._canary = f"{settings.topic_prefix}.{CANARY_TABLE}"
        self._assignment = Assignment(settings.group, consumer, replica, metrics, lifecycle.clock)
        self._following = Following(settings.topic_prefix, self._assignment, replica, lifecycle)
        self._flight = Flight(self._assignment, replica, lifecycle, self._flown)
        self._assignment.settle = self._flight.wait
        self._control = frozenset(table.topic(settings.topic_prefix) for table in CONTROL_TABLES)
        self._tables = self._known_as({})
        self._polled: Sequence[Record] = ()
        self._early: dict[Partition, tuple[int, float]] = {}  # records that the replica refuses, and since when
        # Where foreign keys are checked, rows of a batch may fit in only together.
        self._fits_together = settings.replica.constraints == "ordered"
        self._looked_at = 0.0
        self.failing: str | None = None
        self._failing_since: float | None = None
        self._failed_at = 0.0
        self._failures = 0

    def run(self) -> None:
        """Apply until the lifecycle says stop. Raises DeltasyncError for what no retry mends."""
        self._lifecycle.on_overdue(self._replica.cancel)
        try:
            self.start()
            while self._lifecycle.running:
                self.step()
            self._guarded(self._end)
        finally:
            self._flight.wait()
            self._assignment.close()
            self._replica.close()

    def start(self) -> None:
        """Read what is known of the tables, and join the group. Raises DeltasyncError where that fails."""
        self._read_tables()
        self._assignment.start()
        self._lifecycle.to(State.RUNNING)

    def troubles(self) -> list[Trouble]:
        """The partitions that wait or are stopped, and why; callable from other threads."""
        return self._assignment.troubles()

    def step(self) -> None:
        """One turn: look around, poll, apply, commit offsets. Raises what no retry mends."""
        self._lifecycle.turns()
        self._guarded(self._look_around)
        # Not guarded: a callback that fails in here leaves partitions that the group takes for read.
        records = self._assignment.poll(self._settings.batch.rows_max, self._settings.batch.bytes_max)
        self._guarded(partial(self._work_off, records))
        self._assignment.observe()

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - `verdict` raises what it does not know
            self._recover(error)

    def _look_around(self) -> None:
        now = self._lifecycle.clock()
        if self._flight.is_under_way and now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        self._land()
        is_reread = self._assignment.look_around()
        if is_reread or self._assignment.is_waiting() or self._following.may_be_approved(self._tables):
            self._read_tables()
            self._assignment.wake(self._tables)
        self._following.carry_out(self._tables, self._read_tables)

    # What a batch does to the replica

    def _work_off(self, records: Sequence[Record]) -> None:
        """Apply a poll's records: those of which there are many at once, behind others, which may tell of tables."""
        self._polled = records
        plain, others = bulk.parted(records, self._assignment.parked(), self._control)
        if others and self._fits_together:
            plain, others = {}, list(records)
        if others:
            if self._failed_before(records):
                return
            self._one_by_one(others)
        found, others = bulk.read(plain, self._flight.progress(), self._tables)
        if others and self._fits_together:
            found, others = bulk.NOTHING, list(records)
        if self._failed_before(records):
            return
        self._one_by_one(others)
        if found.records:
            self._flight.start(found)
        if len(records) < OVERLAP_FROM:
            self._land()

    def _failed_before(self, records: Sequence[Record]) -> bool:
        """Land; true where the batch failed: of what was polled since, that of other partitions is applied then."""
        void = self._land()
        if void:
            self._one_by_one([record for record in records if record.partition not in void])
        return bool(void)

    def _land(self) -> Collection[Partition]:
        """Have the batch that is under way applied, record by record where one is to blame.

        Returns the partitions of which what was polled since is void then: they are read again.
        """
        to_blame = self._flight.land()
        if to_blame is None:
            return ()
        polled, self._polled = self._polled, to_blame
        self._one_by_one(to_blame)
        self._polled = polled
        partitions = {record.partition for record in to_blame}
        self._assignment.rewind(partitions)
        return partitions

    def _end(self) -> None:
        self._land()

    def _one_by_one(self, records: Sequence[Record]) -> None:
        """Apply records in order: schema events first, since they decide how the other records are read."""
        found = self._take(records)
        announcing = {one.partition for one in found.taken if one.event is not None}
        if announcing:
            self._settle(self._take([record for record in records if record.partition in announcing]))
            self._read_tables()
            found = self._take([record for record in records if record.partition not in announcing])
        self._settle(found)

    def _take(self, records: Sequence[Record]) -> Intake:
        return intake.take(records, self._assignment.progress(), self._tables, self._assignment.spread())

    def _settle(self, found: Intake) -> None:
        """Apply what was taken, and block the partitions that were cut, unless an earlier record blocked them."""
        self._apply_or_narrow(found.taken)
        for cut in found.cuts.values():
            if self._assignment.is_read(cut.partition):
                self._assignment.block(cut, self._tables)

    def _apply_or_narrow(self, taken: Sequence[Taken]) -> None:
        """Apply; where a record is to blame, narrow down to it and block its partition there."""
        taken = [one for one in taken if self._assignment.is_read(one.partition)]
        if not taken:
            return
        try:
            self._apply(taken)
        except StaleDescriptionError as error:
            cut = stale(error.change)
            self._apply_or_narrow([one for one in taken if one.partition != cut.partition or one.offset < cut.offset])
            self._assignment.block(cut, self._tables)
        except Exception as error:
            if not is_to_blame(error):
                raise
            parts = narrower(taken)
            if len(parts) == 1:
                self._blame(taken[0], error)
            else:
                for part in parts:
                    self._apply_or_narrow(part)

    def _blame(self, taken: Taken, error: BaseException) -> None:
        """A record cannot be applied: wait for what it needs, set it aside, or read its partition no further."""
        blame = blamed(taken, error)
        if self._may_pass(taken, error):
            self._assignment.block(Cut(taken.partition, taken.offset, blame, waits=True, again=True), self._tables)
        elif verdict(error) is Verdict.PARK and may_park(taken.change) and self._has_room(taken.partition):
            self._park(taken, blame)
        else:
            self._assignment.stop(taken.partition, blame)

    def _may_pass(self, taken: Taken, error: BaseException) -> bool:
        """True where what the record needs may still come: the row that it references, a change of its table, room.

        The schema log is another partition, and gets a while. A row that is referenced may be parked itself, by
        another worker, too, and then gets no longer. Where a unique value is still another row's, a batch that ended
        here may have cut a transaction that hands it on: once more the batch begins here, and again while records of
        other partitions leave no room.
        """
        if lacks_parent(error) and self._settings.replica.constraints == "ordered":
            return not self._replica.sets_aside() or self._is_early(taken)
        if lacks_room(error):
            tried = self._assignment.waited(taken.partition, taken.offset) and not self._is_crowded(taken.partition)
            return not tried
        return lacks_change(error) and self._is_early(taken)

    def _is_early(self, taken: Taken) -> bool:
        """True for a while from when the record was first asked about."""
        offset, since = self._early.get(taken.partition, (-1, 0.0))
        if offset != taken.offset:
            since = self._lifecycle.clock()
            self._early[taken.partition] = taken.offset, since
        return self._lifecycle.clock() - since <= _EARLY_S

    def _has_room(self, partition: Partition) -> bool:
        """True where one more record may fail: a fault of the table's would else drain its topic."""
        failed = self._assignment.parked().get(partition, Parked()).failed
        return failed < self._settings.parking.failed_max

    def _park(self, taken: Taken, blame: RecordError) -> None:
        """Set a record aside, and from now on what follows of its key."""
        try:
            self._apply([taken], {(taken.partition, taken.offset): blame.what})
        except Exception as error:
            if not is_to_blame(error):
                raise
            self._assignment.stop(taken.partition, blame)
        else:
            where = {"partition": str(taken.partition), "offset": taken.offset}
            log.error("record parked", **where, reason=blame.what, do=parking.REMEDY)

    def _is_crowded(self, partition: Partition) -> bool:
        """True where the batch ended in front of more records of this partition, and held some of others."""
        mine = [record.offset for record in self._polled if record.partition == partition]
        return len(mine) < len(self._polled) and self._assignment.has_behind(partition, mine[-1])

    def _apply(self, taken: Sequence[Taken], errors: Mapping[tuple[Partition, int], str] = NO_ERRORS) -> None:
        """Apply what was taken, but for the records that fail by `errors`, and those that wait behind such."""
        diverted = self._diverted(taken, errors)
        taken = diverted.taken
        to = {one.partition: one.progress for one in taken}
        changes = [one.change for one in taken if one.change is not None]
        beats: list[Beat] = []
        if any(partition.topic == self._canary for partition in to):
            changes, beats = canary.parted(changes, self._settings.pipeline)
        plans = plan(compact(changes, self._tables.decoders), self._tables.decoders)
        claims = {partition: self._assignment.claim(partition) for partition in to}
        started = self._lifecycle.clock()
        events = [one.event for one in taken if one.event is not None]
        self._lifecycle.turns(within_s=APPLY_S_MAX)
        aside = diverted.letters, diverted.before, diverted.voids
        rows = self._replica.apply(Batch(claims, to, plans, events, None, beats, *aside))
        commits = {change.position.committed_us for change in changes if change.op is not Op.READ}
        self._assignment.parks(diverted.parked)
        self._metrics.parked.inc(len(diverted.letters))
        self._applied(len(taken), len(changes), commits, to, rows, self._lifecycle.clock() - started)

    def _diverted(self, taken: Sequence[Taken], errors: Mapping[tuple[Partition, int], str]) -> Diverted:
        """Raises RecordError where too much is set aside of a partition already."""
        found = parking.divert(taken, self._assignment.parked(), self._polled, self._tables.decoders, errors)
        for letter in found.letters:
            records = found.before.get(letter.record.partition, 0)
            if records >= self._settings.parking.records_max:
                raise parking.too_many(letter, records)
        return found

    def _flown(self, found: Bulk, to: Mapping[Partition, Progress], rows: int, seconds: float) -> None:
        self._applied(len(found.records), len(found.records), found.commits, to, rows, seconds)

    def _applied(  # noqa: PLR0913, PLR0917 - what there is to tell
        self,
        records: int,
        changes: int,
        commits: Collection[int],
        to: Mapping[Partition, Progress],
        rows: int,
        seconds: float,
    ) -> None:
        """A batch was applied: `commits` are the moments of its source commits, in microseconds since 1970."""
        now_us = time.time_ns() // 1000
        for partition, progress in to.items():
            before = self._assignment.claim(partition).progress
            if progress.skipped > before.skipped:
                self._metrics.skipped.labels(partition.topic).inc(progress.skipped - before.skipped)
        self._assignment.moved(to)
        self._failing_since, self._failures = None, 0
        self._metrics.batch(records=records, changes=changes, rows=rows, seconds=seconds)
        self._metrics.latencies((now_us - committed_us) / 1e6 for committed_us in commits)
        log.debug("applied", records=records, rows=rows, seconds=round(seconds, 4), partitions=len(to))

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
                self._assignment.reread()
                self._read_tables()  # a standby that took the replica's place may lack their last changes, too
            except Exception as again:
                what, error = verdict(again), again
                if what not in (Verdict.RETRY, Verdict.REREAD):
                    raise
            else:
                self.failing = None
                return

    def _back_off(self, error: BaseException) -> None:
        """Wait before the next try while staying in the group. Raises UnreachableError after `retry_s_max`."""
        now = self._lifecycle.clock()
        if now - self._failed_at > APPLY_S_MAX:  # it went well in between, with nothing to apply
            self._failing_since, self._failures = None, 0
        self._failed_at = now
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
        log.warning(
            "failed for a passing reason; trying again", reason=describe(error), in_s=pause_s, failures=self._failures
        )
        until = now + pause_s
        while self._lifecycle.running and self._lifecycle.clock() < until:
            self._lifecycle.turns()
            # What comes is thrown away: the next try reads the ledger and repositions every partition.
            self._assignment.poll(rows_max=1, bytes_max=1)

    def _read_tables(self) -> None:
        """Read the descriptions; `_tables` is another object if they changed."""
        known = self._replica.tables()
        if known != self._tables.known:
            self._tables = self._known_as(known)

    def _known_as(self, known: Mapping[TableId, SourceTable]) -> Tables:
        placeholder = self._settings.unavailable_value or ""
        return Tables(known, CANARY, placeholder, raw_text=self._settings.connect.raw_text)
