"""The loop where the replica has to equal the source at each of its commits: `consistency = "transaction"`.

Records are kept until the transaction of the source that they belong to has come whole (`transactions.py`); several
whole ones go into one transaction on the replica. What cannot be applied stops all of it, since nothing may pass it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import takewhile

import structlog

from deltasync.change import Change, Partition, Record
from deltasync.compact import compact
from deltasync.debezium.schema_log import SCHEMA_LOG, schema_event
from deltasync.debezium.transaction import End
from deltasync.errors import RecordError, RefusedError, StandbyError, UnreachableError
from deltasync.failure import describe, is_to_blame
from deltasync.intake import Taken
from deltasync.lifecycle import APPLY_S_MAX, Lifecycle
from deltasync.monitor.health import Trouble
from deltasync.monitor.metrics import Metrics
from deltasync.narrowing import blamed
from deltasync.ownership import PartitionState
from deltasync.pipeline import Pipeline
from deltasync.plan import StaleDescriptionError, TablePlan, plan
from deltasync.ports import Batch, Consumer, Replica
from deltasync.progress import Progress
from deltasync.readable import BlockedError, Cut, stale
from deltasync.settings import Settings
from deltasync.spool import Spool
from deltasync.steps import Steps
from deltasync.table import TableId
from deltasync.transactions import Transactions
from deltasync.whole import Large, Read, Unit, changes_of, is_partly_applied, joined, late

log = structlog.get_logger(__name__)

# So many batches are kept beside the transaction that is next; then partitions that are ahead are not read.
_BATCHES_KEPT = 4

# The records of a transaction come within moments, but for those of a topic that was just made.
_LATE_S = 10.0

# How soon a worker that stands by takes over.
_STANDBY_S = 1.0

# A unit as it is applied: records with their changes, one joined from the two halves of a key change.
Whole = list[Taken]


class TransactionalPipeline(Pipeline):
    """One worker that owns all partitions of its pipeline."""

    def __init__(
        self, settings: Settings, consumer: Consumer, replica: Replica, metrics: Metrics, lifecycle: Lifecycle
    ) -> None:
        super().__init__(settings, consumer, replica, metrics, lifecycle)
        topic = Partition(settings.transaction_topic, 0)
        batch = settings.batch
        kept = _BATCHES_KEPT * batch.rows_max, _BATCHES_KEPT * batch.bytes_max
        make_spool = partial(Spool, batch.spool_bytes_max)
        self._transactions = Transactions(topic, *kept, make_spool, self._is_keyless)
        self._held: set[Partition] = set()

        self._next: tuple[int, float] = (0, 0.0)  # where the next transaction ends, and since when it is the next
        self._late: RecordError | None = None
        self._cuts: list[Cut] = []
        self._batch: list[Whole] = []
        self._batch_rows = 0
        self._announcing = False

    def start(self) -> None:
        """As ever, but where another worker has the pipeline, stand by until it has ended."""
        told = False
        while self._lifecycle.running:
            self._lifecycle.turns()
            try:
                return super().start()
            except StandbyError as error:
                if not told:
                    log.warning("standing by", reason=error.what)
                    told = True
                self._lifecycle.wait(_STANDBY_S)
        return None

    def troubles(self) -> list[Trouble]:
        """As ever, and records that cannot be read although their partition is, and what all others wait for."""
        found = super().troubles()
        known = {one.partition for one in found}
        found += [Trouble(c.partition, PartitionState.STOPPED, c.error) for c in self._cuts if c.partition not in known]
        late = self._late
        return found + ([Trouble(self._transactions.topic, PartitionState.WAITING, late)] if late else [])

    def _work_off(self, records: Sequence[Record]) -> None:
        """Take a poll's records in, and apply all that is whole by now."""
        self._refuse_parts()
        try:
            found = self._assignment
            known = self._transactions.take(records, found.progress(), found.young(), found.several())
            whole = known and self._apply_ready() and self._wait_for_reads()
        except RecordError as error:
            self._assignment.stop(self._transactions.topic, error)
            known, whole = True, False
        except BaseException:
            self._transactions.clear()
            self._held = set()
            raise
        self._look_at_next()
        if whole:
            self._balance({record.partition for record in records})
        else:
            self._begin_again(known=known)

    def _begin_again(self, *, known: bool) -> None:
        """Read all partitions again from the ledger; where the ends are not read, when they are again."""
        self._transactions.clear()
        self._held = set()
        if known or self._transactions.topic in self._assignment.progress():
            self._assignment.rewind()
            return
        for partition in self._assignment.progress():
            self._assignment.hold(partition)

    def _balance(self, delivered: AbstractSet[Partition]) -> None:
        """Stop partitions whose records cannot be read, do not read those that are ahead, and read on what is not.

        One that was delivered is not held any more, whoever had it read on.
        """
        for cut in self._transactions.cuts():
            self._assignment.block(cut, self._tables)
        held = self._held - delivered
        ahead = self._transactions.ahead(held)
        for partition in ahead - held:
            self._assignment.hold(partition)
        for partition in held - ahead:
            if self._assignment.is_read(partition):
                self._assignment.read_on(partition, self._transactions.next_offset(partition))
        self._held = ahead

    def _look_at_next(self) -> None:
        """Notice a transaction that waits for its changes for too long: nothing passes it."""
        self._cuts = self._transactions.obstacles()
        found, now = self._transactions.missing(), self._lifecycle.clock()
        lsn = found[1].lsn if found else 0
        if lsn != self._next[0] or found is None:
            self._next, self._late = (lsn, now), None
        elif self._late is None and now - self._next[1] > _LATE_S:
            self._late = late(*found)
            log.warning("transaction waits", reason=self._late.what, do=self._late.remedy)

    def _refuse_parts(self) -> None:
        """Raises RefusedError where ends have no order, or changes were applied table by table until now."""
        topic = self._transactions.topic
        if topic.topic in self._assignment.spread():
            raise RefusedError(
                f"The topic {topic.topic} has several partitions, so that transactions have no order.",
                remedy="Begin a pipeline of another name, and let deltasync connectors apply make its topics.",
            )
        at = self._assignment.progress()
        ends = at.pop(topic, None)
        if ends is not None and is_partly_applied(ends, at.values()):
            raise RefusedError(
                'The ledger was moved with consistency = "key", so transactions may be applied in part.',
                remedy='Go on with consistency = "key", or begin a pipeline of another name with an empty replica.',
            )

    def _apply_ready(self) -> bool:
        """Apply what is whole, as many transactions at a time as a batch holds; False where something stops it."""
        self._batch, self._batch_rows, self._announcing = [], 0, False
        try:
            return all(map(self._apply_unit, self._transactions.ready())) and self._flush()
        except RecordError as error:
            if self._flush():
                self._assignment.stop(self._transactions.topic, error)
            return False

    def _wait_for_reads(self) -> bool:
        """Ask how far partitions have to be read that may hold a snapshot's reads. False as `_apply_ready`."""
        unasked = self._transactions.unasked()
        if not unasked:
            return True
        self._transactions.settle(self._assignment.end_offsets(unasked))
        return self._apply_ready()

    def _apply_unit(self, unit: Unit) -> bool:
        """Put one more into the batch; what the schema log announces is applied before what comes behind it."""
        if unit.end is not None and unit.large is not None:
            return self._flush() and self._apply_large(unit.end, unit.reads[-1], unit.large)
        whole = _whole(unit)
        announces = any(one.event is not None for one in whole)
        if (announces != self._announcing or (announces and unit.end is not None)) and not self._flush():
            return False
        self._announcing = announces and unit.end is None
        if announces and unit.end is not None:
            if not self._announce(whole):
                return False
            whole = [one._replace(event=None) for one in whole]
        # Not before: what announces its table may just have been applied.
        if any(read.change is not None and self._is_read_too_early(read.change) for read in unit.reads):
            self._flush()
            return False
        return self._add(whole)

    def _add(self, whole: Whole) -> bool:
        """Put one more into the batch, and apply that when it is full; False where something stops it."""
        try:
            readable = [one if one.change is None else one._replace(change=self._readable(one.change)) for one in whole]
        except BlockedError as blocked:
            if self._flush():
                self._assignment.block(_unparted(blocked.cut, whole), self._tables)
            return False
        self._batch.append(readable)
        self._batch_rows += len(readable)
        return self._batch_rows < self._settings.batch.rows_max or self._flush()

    def _flush(self) -> bool:
        """Apply the batch; False where something stops it."""
        batch, self._batch, self._batch_rows = self._batch, [], 0
        if not batch or not self._apply_whole(batch):
            return not batch
        if any(one.event is not None for whole in batch for one in whole):
            self._read_tables()
        return True

    def _announce(self, whole: Whole) -> bool:
        """Apply a transaction's entries of the schema log, before its rows: they may need what those create.

        The ledger stays, so that the transaction is whole if it has to be read again; entries that come again change
        nothing. False where that fails for good.
        """
        claims = {one.partition: self._assignment.claim(one.partition) for one in whole}
        events = [one.event for one in whole if one.event is not None]
        self._lifecycle.turns(within_s=APPLY_S_MAX)
        stays = {partition: claim.progress for partition, claim in claims.items()}
        try:
            self._replica.apply(Batch(claims, stays, events=events))
        except Exception as error:
            if not is_to_blame(error):
                raise
            self._stop(whole, error)
            return False
        self._read_tables()
        return True

    def _apply_whole(self, batch: Sequence[Whole]) -> bool:
        """Apply; where a transaction is to blame, apply those before it and stop there. True if all was applied."""
        if not batch:
            return True
        try:
            self._apply([one for whole in batch for one in whole])
        except StaleDescriptionError as error:
            cut = stale(error.change)
            if self._apply_whole(list(takewhile(lambda whole: not _holds(whole, cut), batch))):
                self._assignment.block(cut, self._tables)
            return False
        except Exception as error:
            if not is_to_blame(error):
                raise
            if len(batch) == 1:
                self._stop(batch[0], error)
                return False
            half = len(batch) // 2
            return self._apply_whole(batch[:half]) and self._apply_whole(batch[half:])
        return True

    def _apply_large(self, end: End, last: Read, large: Large) -> bool:
        """Apply a transaction that is on disk, step by step in one of the replica; False where something stops it."""
        to = {**large.to, last.partition: last.progress}
        whole = [_taken(last, None)]
        logged = [change for change in joined(large.spool) if change.table == SCHEMA_LOG]
        if logged and not self._announce([*map(_announcement, logged), *whole]):
            return False
        if any(self._is_read_too_early(one.change) for one in large.spool):
            return False
        claims = {partition: self._assignment.claim(partition) for partition in to}
        started = self._lifecycle.clock()
        try:
            rows = self._replica.apply(Batch(claims, to, rest=self._steps(large)))
        except (StaleDescriptionError, BlockedError) as error:
            cut = error.cut if isinstance(error, BlockedError) else stale(error.change)
            self._assignment.block(_unparted(cut, (_taken(last, one.change) for one in large.spool)), self._tables)
            return False
        except Exception as error:
            if not is_to_blame(error):
                raise
            self._stop(whole, error)
            return False
        seconds = self._lifecycle.clock() - started
        self._applied(end.changes, end.changes, {end.committed_ms * 1000}, to, rows, seconds)
        log.info("large transaction applied", changes=end.changes, rows=rows, seconds=round(seconds, 1))
        return True

    def _steps(self, large: Large) -> Steps:
        """What a large transaction does, a batch at a time. Raises BlockedError where a table has to wait."""
        rows_max = self._settings.batch.rows_max
        rows = (change for change in joined(large.spool) if change.table != SCHEMA_LOG)
        changes = filter(None, map(self._readable, rows))
        return Steps(changes, self._planned, count=rows_max, changes_max=_BATCHES_KEPT * rows_max)

    def _planned(self, step: Sequence[Change]) -> list[TablePlan]:
        self._lifecycle.turns(within_s=APPLY_S_MAX)
        if not self._lifecycle.running:
            raise UnreachableError("The worker stops within a large transaction.", remedy="It is read again.")
        return plan(compact(step, self._tables.decoders), self._tables.decoders)

    def _readable(self, change: Change) -> Change | None:
        """The change as it is applied, if it is. Raises BlockedError where its partition has to wait or stops."""
        try:
            told = self._tables.told(change, is_spread=change.partition.topic in self._assignment.spread())
            return told and self._tables.ready(told)
        except RecordError as error:
            raise BlockedError(Cut(change.partition, change.offset, error, waits=False)) from None

    def _is_keyless(self, table: TableId) -> bool:
        return self._tables.is_keyless(table)

    def _is_read_too_early(self, change: Change) -> bool:
        """True where a table turned out to have no key since its record was read: it is read again."""
        return change.run is None and self._is_keyless(change.table)

    def _stop(self, whole: Whole, error: Exception) -> None:
        """Apply nothing from here on: the invariant is the promise."""
        last = whole[-1]
        if last.partition != self._transactions.topic:
            self._assignment.stop(last.partition, blamed(last, error))
            return
        tables = sorted({str(one.change.table) for one in whole if one.change is not None}) or ["a large one"]
        self._assignment.stop(
            last.partition,
            RecordError(
                f"The transaction that ends at {last.partition} offset {last.offset} cannot be applied "
                f"({', '.join(tables)}): {describe(error).rstrip('.')}. Nothing is applied behind it.",
                remedy=getattr(error, "remedy", None)
                or "Make the replica's tables accept what the source's do, then start deltasync run again.",
            ),
        )


def _whole(unit: Unit) -> Whole:
    """A unit's records with what each changes, or announces."""
    return [_taken(read, change) for read, change in zip(unit.reads, changes_of(unit.reads), strict=True)]


def _taken(read: Read, change: Change | None) -> Taken:
    if change is not None and change.table == SCHEMA_LOG:
        return Taken(read.partition, read.offset, read.progress, event=schema_event(change))
    return Taken(read.partition, read.offset, read.progress, change)


def _announcement(change: Change) -> Taken:
    return Taken(change.partition, change.offset, Progress(), event=schema_event(change))


def _unparted(cut: Cut, whole: Iterable[Taken]) -> Cut:
    """The cut; it waits for an operator where rows of before the change of its table are in the same transaction."""
    table = cut.due and cut.due.table
    if not any(one.change is not None and one.change.table == table and one.offset < cut.offset for one in whole):
        return cut
    error = RecordError(
        f"A transaction changed rows of {table}, and then the table itself ({cut.partition} offset {cut.offset}).",
        remedy='Such a change can be followed with consistency = "key" alone: begin the pipeline anew.',
    )
    return cut._replace(due=None, error=error)


def _holds(whole: Whole, cut: Cut) -> bool:
    return any(one.partition == cut.partition and one.offset == cut.offset for one in whole)
