"""Takes records in: which changes of a poll are applied, and where a partition has to wait or stop. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from deltasync import keyless
from deltasync import progress as rule
from deltasync.change import Change, Op, Partition, Record
from deltasync.debezium import envelope
from deltasync.debezium.schema_log import CONTROL_TABLES, SCHEMA_LOG, SchemaEvent, schema_event
from deltasync.errors import RecordError
from deltasync.progress import Progress
from deltasync.readable import BlockedError, Cut, Tables


class Taken(NamedTuple):
    """A record that was read: what it changes, if anything, and its partition's progress behind it."""

    partition: Partition
    offset: int
    progress: Progress
    change: Change | None = None
    event: SchemaEvent | None = None


class Intake(NamedTuple):
    """A poll's records in order, and the partitions that were cut."""

    taken: list[Taken]
    cuts: dict[Partition, Cut]


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
        self._halves: dict[Partition, Taken] = {}
        # An incremental snapshot's reads behind them, which do not tell whether the other half is still to come.
        self._reads: dict[Partition, list[Record]] = {}

    def take(self, record: Record) -> None:
        progress = self._now.get(record.partition)
        if progress is None or record.offset < progress.next_offset:
            return
        if record.value is None and record.partition in self._halves:
            return  # the tombstone of a delete
        half = self._halves.pop(record.partition, None)
        try:
            if half is None:
                one: Taken | None = _take_one(record, progress, self._tables, self._spread)
            else:
                one = self._behind(half, record, progress)
        except BlockedError as blocked:
            self._cut(blocked.cut)
        except RecordError as error:
            self._cut(Cut(record.partition, record.offset, error, waits=False))
        else:
            self._keep(record, one)

    def _joined(self, half: Taken, record: Record, before: Progress) -> Taken | None:
        """The row under its new key, told which one it had: one change, with the progress behind both.

        None for what else follows the first half: a connector that died between the two. Where it goes on before the
        half, it sends both again, and the half is passed over; where it goes on behind it, the second half is lost.
        Raises BlockedError at the half then, and RecordError where the row's large values may be another row's by now.
        """
        try:
            one = _take_one(record, half.progress, self._tables, self._spread)
        except RecordError:
            return None
        first, change = half.change, one.change
        if first is None or change is None:
            return None
        if is_behind(change, first):
            raise BlockedError(Cut(half.partition, half.offset, half_lost(first), waits=False))
        if change.op is not Op.CREATE or change.position != first.position:
            return None
        if rule.may_be_again(before, first) and self._tables.lacks_values(change):
            raise _moved_again(change)
        return one._replace(change=change._replace(old_key=first.key, before=first.before))

    def end(self) -> Intake:
        for half in self._halves.values():
            if half.change is not None:
                self._cut(_half_come(half.change))
        return Intake(self._taken, self._cuts)

    def _behind(self, half: Taken, record: Record, progress: Progress) -> Taken | None:
        """What becomes of a record behind a half; None where it was put off, or taken behind reads that were."""
        joined = self._joined(half, record, progress)
        one = joined or _take_one(record, progress, self._tables, self._spread)
        if one.change is not None and one.change.op is Op.READ:
            self._halves[record.partition] = half
            self._reads.setdefault(record.partition, []).append(record)
            return None
        reads = self._reads.pop(half.partition, [])
        if not reads:
            return one
        if joined is not None and half.change is not None:  # reads come between two transactions
            raise BlockedError(Cut(half.partition, half.offset, half_lost(half.change), waits=False))
        for each in (*reads, record):
            self.take(each)
        return None

    def _keep(self, record: Record, one: Taken | None) -> None:
        if one is None:
            return
        if record.moves and one.change is not None and record.partition.topic not in self._spread:
            self._halves[record.partition] = one
        else:
            self._add(one)

    def _add(self, one: Taken) -> None:
        self._now[one.partition] = one.progress
        self._taken.append(one)

    def _cut(self, cut: Cut) -> None:
        self._cuts[cut.partition] = cut
        self._now.pop(cut.partition, None)


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


def _take_one(record: Record, progress: Progress, tables: Tables, spread: Collection[str]) -> Taken:
    partition, offset = record.partition, record.offset
    is_spread = partition.topic in spread
    found = envelope.decode(record)
    try:
        change = found and tables.told(found, is_spread=is_spread, run=record.run)
    except BlockedError:
        if found is None or tables.is_keyless(found.table) or not rule.is_older(progress, found):
            raise
        return Taken(partition, offset, rule.skipped(progress, found))  # its key may have another name by now
    if change is None:
        return Taken(partition, offset, rule.passed(progress, offset))
    if change.table == SCHEMA_LOG:
        return Taken(partition, offset, rule.applied(progress, change), event=schema_event(change))
    if change.run is not None:
        return _take_keyless(change, progress, tables)
    return _take_keyed(change, progress, tables, is_spread=is_spread)


def _take_keyed(change: Change, progress: Progress, tables: Tables, *, is_spread: bool) -> Taken:
    """A change of a row that its key tells."""
    if rule.is_older(progress, change):
        return Taken(change.partition, change.offset, rule.skipped(progress, change))
    if change.op is Op.TRUNCATE and is_spread:
        raise _truncated(change)
    ready = tables.ready(change)
    # Among several partitions the rows of others are in the table, too; and each pipeline has its row of the canary's.
    if rule.begins_again(progress, change) and not is_spread and change.table not in CONTROL_TABLES:
        ready = ready._replace(begins=True)
    if is_spread and not tables.decoders[change.table].exact_keys:
        raise _astray(change)
    if change.old_key is not None and rule.may_be_again(progress, change) and tables.lacks_values(change):
        raise _moved_again(change)
    return Taken(change.partition, change.offset, rule.applied(progress, change), ready)


def _take_keyless(change: Change, progress: Progress, tables: Tables) -> Taken:
    """A change of a table without a key, which is applied once or not at all."""
    if keyless.is_again(progress, change):
        return Taken(change.partition, change.offset, keyless.skipped(progress, change))
    change = change._replace(begins=keyless.begins(progress, change))
    return Taken(change.partition, change.offset, keyless.applied(progress, change), tables.ready(change))


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


def _at(change: Change) -> str:
    return f"{change.partition} offset {change.offset}"
