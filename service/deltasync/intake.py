"""Takes records in: which changes of a poll are applied, and where a partition has to wait or stop. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from deltasync import progress as rule
from deltasync.change import Change, Op, Partition, Record
from deltasync.debezium import envelope, keys
from deltasync.debezium.rows import RowDecoder, row_decoder
from deltasync.debezium.schema_log import CANARY, CONTROL_TABLES, SCHEMA_LOG, SchemaEvent, schema_event
from deltasync.debezium.stock import StockForm
from deltasync.errors import DeltasyncError, RecordError
from deltasync.progress import Progress
from deltasync.table import SourceTable, Table, TableId

# The reason that the source gives where its operator left a table out.
EXCLUDED = "excluded"


class Taken(NamedTuple):
    """A record that was read: what it changes, if anything, and its partition's progress behind it."""

    partition: Partition
    offset: int
    progress: Progress
    change: Change | None = None
    event: SchemaEvent | None = None


class Cut(NamedTuple):
    """Where a partition is read no further: at `offset`. It waits until more is known of its table, or stops.

    With `again` it only waits for its next record, and is soon read again.
    """

    partition: Partition
    offset: int
    error: DeltasyncError
    waits: bool
    again: bool = False


class Intake(NamedTuple):
    """A poll's records in order, and the partitions that were cut."""

    taken: list[Taken]
    cuts: dict[Partition, Cut]


class Tables:
    """The tables whose records are applied: a decoder for each, made when its first record comes."""

    def __init__(
        self, known: Mapping[TableId, SourceTable], canary: Table, placeholder: str, *, raw_text: bool
    ) -> None:
        self.known = known
        self._decoder = partial(row_decoder, placeholder=placeholder, raw_text=raw_text)
        self.decoders: dict[TableId, RowDecoder] = {CANARY: self._decoder(canary)}
        self._stock_form = partial(StockForm, placeholder=placeholder) if raw_text else None
        self._stock_forms: dict[TableId, StockForm] = {}

    def is_passed_over(self, change: Change) -> bool:
        """True for records that the replica is not to have: of an excluded table, or reads of one not captured.

        A streamed record of a table that was not captured when last heard of means that it is by now: its
        description is on its way.
        """
        table = self.known.get(change.table)
        if table is None or table.captured:
            return False
        return change.op is Op.READ or table.reason == EXCLUDED

    def description(self, table: TableId) -> Table | None:
        """What a captured table is like, as far as it is known."""
        known = self.known.get(table)
        return known.description if known is not None and known.captured else None

    def is_keyed_by_rows(self, table: TableId) -> bool:
        """True for a table that is known to have no primary key."""
        found = self.description(table)
        return found is not None and found.is_keyed_by_rows

    def lacks_values(self, change: Change) -> bool:
        """True where a value of the row did not travel; its table must have a decoder."""
        return self.decoders[change.table].lacks_values(change.row or b"")

    def obstacle(self, table: TableId) -> Callable[[Change], Cut] | None:
        """What keeps a table's records from being applied now; None, with a decoder ready, where nothing does."""
        if table in self.decoders:
            return None
        source_table = self.known.get(table)
        if source_table is None or source_table.description is None or not source_table.captured:
            return _undescribed
        if source_table.held is not None:
            return partial(_held, error=_held_error(table, source_table.held))
        try:
            self.decoders[table] = self._decoder(source_table.description)
        except RecordError as error:
            return partial(_held, error=error)
        return None

    def converted(self, change: Change) -> Change:
        """A change of stock Debezium's as the table's decoder reads it. Raises RecordError where it is not exact."""
        if self._stock_form is None or change.raw_text:
            return change
        form = self._stock_forms.get(change.table)
        if form is None:
            form = self._stock_forms[change.table] = self._stock_form(self.decoders[change.table].table)
        return form.converted(change) if form else change


def take(
    records: Iterable[Record],
    at: Mapping[Partition, Progress],
    tables: Tables,
    spread: Collection[str] = (),
) -> Intake:
    """Read records in order. Those of partitions that are not in `at` (not ours, or blocked) are left alone.

    A record that cannot be read cuts its partition; those before it, and other partitions, go on. `spread` names
    the topics of several partitions: where their table was truncated, nobody knows which rows came before.
    """
    taking = _Taking(at, tables, spread)
    for record in records:
        taking.take(record)
    return taking.end()


class _Taking:
    """One poll's records on their way in."""

    def __init__(self, at: Mapping[Partition, Progress], tables: Tables, spread: Collection[str]) -> None:
        self._now = dict(at)
        self._tables = tables
        self._spread = spread
        self._taken: list[Taken] = []
        self._cuts: dict[Partition, Cut] = {}
        # Deletes whose rows go on under another key, and have not come yet.
        self._halves: dict[Partition, Change] = {}
        # An incremental snapshot's reads behind them, which do not tell whether the other half is still to come.
        self._reads: dict[Partition, list[Record]] = {}

    def take(self, record: Record) -> None:
        progress = self._now.get(record.partition)
        if progress is None or record.offset < progress.next_offset:
            return
        if record.value is None and record.partition in self._halves:
            return  # the tombstone of a delete
        half = self._halves.pop(record.partition, None)
        result: Taken | Cut | None
        try:
            result = _take_one(record, progress, self._tables, self._spread)
            if half is not None and isinstance(result, Taken):
                if result.change is not None and result.change.op is Op.READ:
                    self._halves[record.partition] = half
                    self._reads.setdefault(record.partition, []).append(record)
                    return
                result = self._behind(half, result, record, progress)
        except RecordError as error:
            result = Cut(record.partition, record.offset, error, waits=False)
        if result is None:
            return
        if isinstance(result, Cut):
            self._cut(result)
        elif record.moves and result.change is not None and record.partition.topic not in self._spread:
            self._halves[record.partition] = result.change
        else:
            self._add(result)

    def end(self) -> Intake:
        for half in self._halves.values():
            self._cut(_half_come(half))
        return Intake(self._taken, self._cuts)

    def _behind(self, half: Change, one: Taken, record: Record, progress: Progress) -> Taken | Cut | None:
        """What becomes of a record behind a half; None where it was taken, behind reads that were put off."""
        result = _joined(half, one, progress, self._tables)
        reads = self._reads.pop(half.partition, [])
        if not reads or isinstance(result, Cut):
            return result
        if result is not one:  # reads come between two transactions
            return Cut(half.partition, half.offset, half_lost(half), waits=False)
        for each in (*reads, record):
            self.take(each)
        return None

    def _add(self, one: Taken) -> None:
        self._now[one.partition] = one.progress
        self._taken.append(one)

    def _cut(self, cut: Cut) -> None:
        self._cuts[cut.partition] = cut
        self._now.pop(cut.partition, None)


def _joined(half: Change, one: Taken, before: Progress, tables: Tables) -> Taken | Cut:
    """The row under its new key, told which one it had: one change, with the progress behind both.

    What else follows the first half is a connector that died between the two. Where it goes on before the half, it
    sends both again, and the half is passed over; where it goes on behind it, the second half is lost. Raises
    RecordError where the row's large values may be another row's by now.
    """
    change = one.change
    if change is not None and is_behind(change, half):
        return Cut(half.partition, half.offset, half_lost(half), waits=False)
    if change is None or change.op is not Op.CREATE or change.position != half.position:
        return one
    if rule.may_be_again(before, half) and tables.lacks_values(change):
        raise _moved_again(change)
    progress = rule.applied(rule.applied(before, half), change)
    return one._replace(progress=progress, change=change._replace(old_key=half.key))


def is_behind(change: Change, half: Change) -> bool:
    """True for a streamed change that the source's log has behind the half; false where positions began anew."""
    here, there = change.position, half.position
    if (
        change.op is Op.READ
        or here.seq1 is None
        or there.seq1 is None
        or (here.seq0 is None and there.seq0 is not None)
    ):
        return False
    return (here.seq0 or 0, here.seq1) > (there.seq0 or 0, there.seq1)


def _take_one(record: Record, progress: Progress, tables: Tables, spread: Collection[str]) -> Taken | Cut:
    partition, offset = record.partition, record.offset
    change = envelope.decode(record)
    if change is None or (change.table not in CONTROL_TABLES and tables.is_passed_over(change)):
        return Taken(partition, offset, rule.passed(progress, offset))
    if change.table == SCHEMA_LOG:
        return Taken(partition, offset, rule.applied(progress, change), event=schema_event(change))
    is_spread = partition.topic in spread
    table = tables.description(change.table)
    if table is not None and table.is_keyed_by_rows:
        if is_spread:
            raise spread_without_key(change)
        change = keys.keyed_by_rows(change, record, table)
    return _take_keyed(change, progress, tables, is_spread=is_spread)


def _take_keyed(change: Change, progress: Progress, tables: Tables, *, is_spread: bool) -> Taken | Cut:
    """A change of a row that its key tells."""
    if rule.is_older(progress, change):
        return Taken(change.partition, change.offset, rule.skipped(progress, change))
    if change.op is Op.TRUNCATE and is_spread:
        raise _truncated(change)
    obstacle = tables.obstacle(change.table)
    if obstacle is not None:
        return obstacle(change)
    if is_spread and not tables.decoders[change.table].exact_keys:
        raise _astray(change)
    if change.old_key is not None and rule.may_be_again(progress, change) and tables.lacks_values(change):
        raise _moved_again(change)
    return Taken(change.partition, change.offset, rule.applied(progress, change), tables.converted(change))


def _moved_again(change: Change) -> RecordError:
    return RecordError(
        f"The key of a row of {change.table} changed ({_at(change)}), its large values did not travel, and the "
        "connector began anew: if this was applied before, the row under the old key is another one.",
        remedy=(
            "Make the row right by hand (delete the old key, write the new one as the source has it), then: deltasync "
            f"ledger set {change.partition.topic} {change.partition.number} {change.offset + 1} --reason …"
        ),
    )


def half_lost(half: Change) -> RecordError:
    """The first half of a key change whose second one is not to come."""
    return RecordError(
        f"The key of a row of {half.table} changed ({_at(half)}), and the row under its new key was never sent: the "
        "connector was restarted between the two records.",
        remedy=(
            "Make the row right by hand (delete the old key, write the new one as the source has it), then: deltasync "
            f"ledger set {half.partition.topic} {half.partition.number} {half.offset + 1} --reason …"
        ),
    )


def _half_come(half: Change) -> Cut:
    error = RecordError(
        f"The key of a row of {half.table} changed ({_at(half)}), and the row under its new key has not come yet.",
        remedy="It follows in a moment. If it does not, see whether the connector runs: deltasync connectors status.",
    )
    return Cut(half.partition, half.offset, error, waits=True, again=True)


def _truncated(change: Change) -> RecordError:
    return RecordError(
        f"The table {change.table} was truncated ({_at(change)}), and its topic has several partitions: which rows of "
        "the others came before is not known.",
        remedy=(
            "Let the other partitions become level (deltasync lag), delete on the replica what the source no longer "
            f"has, then: deltasync ledger set {change.partition.topic} {change.partition.number} {change.offset + 1} "
            "--reason …; one partition for each table avoids it."
        ),
    )


def _astray(change: Change) -> RecordError:
    return RecordError(
        f"Equal keys of {change.table} may be written in several ways ({_at(change)}), and its topic has several "
        "partitions: those of one row may be in any of them, without an order.",
        remedy=f"Make the topic {change.partition.topic} anew with one partition, while nothing runs.",
    )


def spread_without_key(change: Change) -> RecordError:
    """Records of a table without a primary key have no order across partitions."""
    return RecordError(
        f"The table {change.table} has no primary key, and its topic has several partitions: Debezium spreads its "
        f"records by a key that is not the table's ({_at(change)}).",
        remedy=(
            "Give the table a primary key on the source, or leave it out with `exclude` in [source]; one partition "
            "for its topic avoids it."
        ),
    )


def stale(change: Change) -> Cut:
    """The cut at a record that has a column which its table's description lacks."""
    return Cut(
        change.partition,
        change.offset,
        RecordError(
            f"The records of {change.table} have a column that its description lacks ({_at(change)}).",
            remedy="Run deltasync source setup again: it announces the table as it is now.",
        ),
        waits=True,
    )


def _undescribed(change: Change) -> Cut:
    error = RecordError(
        f"The table {change.table} was never announced ({_at(change)}).",
        remedy="Run deltasync source setup: it announces every captured table in-stream.",
    )
    return Cut(change.partition, change.offset, error, waits=True)


def _held(change: Change, error: RecordError) -> Cut:
    return Cut(change.partition, change.offset, error, waits=True)


def _held_error(table: TableId, why: str) -> RecordError:
    return RecordError(
        f"The table {table} is held: {why}.",
        remedy="Make the replica's table fit the source's, then run deltasync replica setup: it goes on by itself.",
    )


def _at(change: Change) -> str:
    return f"{change.partition} offset {change.offset}"
