"""The loop where the replica has to equal the source at each of its commits: `consistency = "transaction"`.

Records are kept until the transaction of the source that they belong to has come whole (`transactions.py`); several
whole ones go into one transaction on the replica. What cannot be applied stops all of it, since nothing may pass it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import structlog

from deltasync import intake
from deltasync.change import Change, Partition, Record
from deltasync.debezium.schema_log import CONTROL_TABLES, SCHEMA_LOG, schema_event
from deltasync.errors import RecordError, RefusedError, StandbyError
from deltasync.failure import Verdict, describe, verdict
from deltasync.intake import Cut, Taken
from deltasync.lifecycle import APPLY_S_MAX, Lifecycle
from deltasync.monitor.health import Trouble
from deltasync.monitor.metrics import Metrics
from deltasync.ownership import PartitionState
from deltasync.pipeline import Pipeline, blamed
from deltasync.plan import StaleDescriptionError
from deltasync.ports import Batch, Consumer, Replica
from deltasync.settings import Settings
from deltasync.table import Table, TableId
from deltasync.transactions import Read, Transactions, Unit, changes_of, is_partly_applied

log = structlog.get_logger(__name__)

# So many batches are kept beside the transaction that is next; then partitions that are ahead are not read.
_BATCHES_KEPT = 4

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
        topic = Partition(f"{settings.topic_prefix}.transaction", 0)
        batch = settings.batch
        kept = (_BATCHES_KEPT * batch.rows_max, _BATCHES_KEPT * batch.bytes_max)
        self._transactions = Transactions(topic, *kept, self._description)
        self._held: set[Partition] = set()

        self._batch: list[Whole] = []
        self._batch_rows = 0

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
        """As ever, and the records that cannot be read although their partition is."""
        found = super().troubles()
        cuts = [cut for cut in self._transactions.obstacles() if cut.partition not in {one.partition for one in found}]
        return found + [Trouble(cut.partition, PartitionState.STOPPED, cut.error) for cut in cuts]

    def _work_off(self, records: Sequence[Record]) -> None:
        """Take a poll's records in, and apply all that is whole by now."""
        at = self._assignment.progress()
        self._refuse_parts()
        try:
            whole = self._transactions.take(records, at) and self._apply_ready()
        except BaseException:
            self._forget()
            raise
        if whole:
            self._balance()
        else:
            self._forget()
            self._assignment.rewind()
            if self._transactions.topic not in self._assignment.progress():
                for partition in self._assignment.progress():
                    self._assignment.hold(partition)

    def _forget(self) -> None:
        self._transactions.clear()
        self._held.clear()

    def _balance(self) -> None:
        """Stop partitions whose records cannot be read, do not read those that are ahead, and read on what is not."""
        for cut in self._transactions.cuts():
            self._assignment.block(cut, self._tables)
        ahead = self._transactions.ahead()
        for partition in ahead - self._held:
            self._assignment.hold(partition)
        for partition in self._held - ahead:
            if self._assignment.is_read(partition):
                self._assignment.read_on(partition, self._transactions.next_offset(partition))
        self._held = ahead

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
        self._batch, self._batch_rows = [], 0
        announcing = False
        try:
            for unit in self._transactions.ready():
                whole = _whole(unit)
                announces = any(one.event is not None for one in whole)
                if announces != announcing or (announces and unit.end is not None):
                    if not self._flush():
                        return False
                    announcing = announces
                if announces and unit.end is not None:
                    if not self._announce(whole):
                        return False
                    announcing, whole = False, [one._replace(event=None) for one in whole]
                # Not before: what announces its table may just have been applied.
                if self._is_read_too_early(unit):
                    self._flush()
                    return False
                if not self._add(whole):
                    return False
        except RecordError as error:
            if self._flush():
                self._assignment.stop(self._transactions.topic, error)
            return False
        return self._flush()

    def _is_read_too_early(self, unit: Unit) -> bool:
        """True where a table turned out to have no primary key since its records were read: they are read again."""
        return any(
            read.change is not None and read.by_rows != self._tables.is_keyed_by_rows(read.change.table)
            for read in unit.reads
        )

    def _add(self, whole: Whole) -> bool:
        """Put one more into the batch, and apply that when it is full; False where something stops it."""
        readable: Whole = []
        for one in whole:
            change = one.change
            if change is not None and change.table not in CONTROL_TABLES and self._tables.is_passed_over(change):
                readable.append(one._replace(change=None))
                continue
            if change is not None and self._is_spread(change):
                if self._flush():
                    self._assignment.stop(one.partition, intake.spread_without_key(change))
                return False
            obstacle = self._tables.obstacle(change.table) if change is not None else None
            if change is not None and obstacle is not None:
                if self._flush():
                    self._assignment.block(obstacle(change), self._tables)
                return False
            readable.append(one)
        self._batch.append(readable)
        self._batch_rows += len(readable)
        return self._batch_rows < self._settings.batch.rows_max or self._flush()

    def _description(self, table: TableId) -> Table | None:
        return self._tables.description(table)

    def _is_spread(self, change: Change) -> bool:
        return self._tables.is_keyed_by_rows(change.table) and change.partition.topic in self._assignment.spread()

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
            if verdict(error) is not Verdict.STOP:
                raise
            self._stop(whole, error)
            return False
        self._read_tables()
        return True

    def _apply_whole(self, batch: Sequence[Whole]) -> bool:
        """Apply; where a transaction is to blame, apply those before it and stop there. True if all was applied."""
        try:
            self._apply([one for whole in batch for one in whole])
        except StaleDescriptionError as error:
            cut = intake.stale(error.change)
            if self._apply_whole(list(takewhile(lambda whole: not _holds(whole, cut), batch))):
                self._assignment.block(cut, self._tables)
            return False
        except Exception as error:
            if verdict(error) is not Verdict.STOP:
                raise
            if len(batch) == 1:
                self._stop(batch[0], error)
                return False
            half = len(batch) // 2
            return self._apply_whole(batch[:half]) and self._apply_whole(batch[half:])
        return True

    def _stop(self, whole: Whole, error: Exception) -> None:
        """Apply nothing from here on: the invariant is the promise."""
        last = whole[-1]
        if last.partition != self._transactions.topic:
            self._assignment.stop(last.partition, blamed(last, error))
            return
        tables = sorted({str(one.change.table) for one in whole if one.change is not None})
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


def _holds(whole: Whole, cut: Cut) -> bool:
    return any(one.partition == cut.partition and one.offset == cut.offset for one in whole)
