"""The records behind a snapshot of the source: what of them it does not hold, and the progress of those who skip it.

Read as the worker reads them, by the same pieces, so that the ledger may go on from here; but what the snapshot holds
is left out, also where it could not be applied. Touches no server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from deltasync import intake
from deltasync import progress as rule
from deltasync.change import Change, Log, Op, Partition, Record
from deltasync.debezium import envelope
from deltasync.debezium.envelope import decode_origin
from deltasync.debezium.rows import RowDecoder, Rows
from deltasync.errors import DeltasyncError, RecordError
from deltasync.progress import Claim, Progress
from deltasync.readable import Cut, Tables
from deltasync.resync.snapshot import Snapshot
from deltasync.table import TableId


class ChangedError(Exception):
    """What is known of the table, or of its topic, is not what it was at the start: begin again."""

    def __init__(self, why: DeltasyncError) -> None:
        super().__init__()
        self.why = why


class Seen(NamedTuple):
    """What a snapshot holds: what Kafka had before it was taken (`ends`), and the transactions that it shows."""

    snapshot: Snapshot
    ends: Mapping[Partition, int]

    def holds(self, record: Record) -> bool:
        """True where a record's change is in the snapshot; reads are, or what makes them so follows in the stream."""
        if record.offset < self.ends.get(record.partition, 0):
            return True
        origin = decode_origin(record)
        if origin is None:
            return False
        return origin.op == Op.READ or (origin.transaction is not None and self.snapshot.shows(origin.transaction))


def begin(claim: Claim | None, log: Log) -> Progress:
    """Where the reading of a partition begins: at the ledger, or where the log begins if it has lost what was next."""
    if claim is None or claim.topic_id != log.topic_id:
        return Progress(log.start_offset)
    progress = claim.progress
    if log.start_offset <= progress.next_offset <= log.end_offset:
        return progress
    within = log.start_offset if progress.next_offset < log.start_offset else log.end_offset
    return rule.placed(progress, within)


class Stream:
    """The partitions of one table's topic, and how far they were taken."""

    def __init__(self, tables: Tables, seen: Seen) -> None:
        self._tables = tables
        self._seen = seen
        self._left: list[Record] = []
        self._written: dict[TableId, set[bytes]] = {}
        self.progress: dict[Partition, Progress] = {}

    def take(self, records: Iterable[Record]) -> list[Change]:
        """The changes that the snapshot does not hold; what waits for its next record is kept until that has come.

        Raises RecordError for a record that cannot be applied, and ChangedError where its table has to be known better.
        """
        left, changes = [*self._left, *records], list[Change]()
        spread = {partition.topic for partition in self.progress if partition.number > 0}
        while left:
            found = intake.take(left, self.progress, self._tables, spread)
            at = {(record.partition, record.offset): record for record in left}
            for one in found.taken:
                self.progress[one.partition] = one.progress
                if one.change is None:
                    continue
                self._written.setdefault(one.change.table, set()).update(_keys(one.change))
                if not self._seen.holds(at[one.partition, one.offset]):
                    changes.append(one.change)
            passed = [self._passed(cut, at[cut.partition, cut.offset]) for cut in found.cuts.values()]
            left = [record for record in left if record.offset >= self.progress[record.partition].next_offset]
            if not any(passed):
                break
        self._left = left
        return changes

    def keys(self) -> list[Rows]:
        """The keys that were written since this was asked last, also by what the snapshot holds.

        Without those that do not fit their table: nobody can have applied them.
        """
        written, self._written = self._written, {}
        return [rows for table, keys in written.items() for rows in _fitting(self._tables.decoders[table], keys)]

    def _passed(self, cut: Cut, record: Record) -> bool:
        """Go on behind a record that the snapshot holds, whatever is wrong with it; False where it only waits."""
        if self._seen.holds(record):
            self.progress[cut.partition] = self._behind(record, self.progress[cut.partition])
            return True
        if cut.again:
            return False
        if cut.waits:
            raise ChangedError(cut.error)
        raise cut.error

    def _behind(self, record: Record, progress: Progress) -> Progress:
        """Progress behind a record that was passed over: where it comes again it is older, if its place can be read."""
        try:
            change = envelope.decode(record)
            if change is None or self._tables.is_keyless(change.table):
                return rule.passed(progress, record.offset)
            if rule.is_older(progress, change):
                return rule.skipped(progress, change)
        except RecordError:  # nobody can read it, or its place is none in this log
            return rule.passed(progress, record.offset)
        return rule.applied(progress, change)


def _keys(change: Change) -> list[bytes]:
    return [key for key in (change.key, change.old_key) if key is not None]


def _fitting(decoder: RowDecoder, keys: Collection[bytes]) -> list[Rows]:
    """The keys that fit a table, decoded."""
    try:
        return [decoder.keys(list(keys))] if keys else []
    except RecordError:
        return [rows for key in keys for rows in _fitting(decoder, [key])] if len(keys) > 1 else []


def ends(logs: Mapping[Partition, Log]) -> dict[Partition, int]:
    """Where the logs end."""
    return {partition: log.end_offset for partition, log in logs.items()}


def within(claims: Mapping[Partition, Sequence[Claim]], logs: Mapping[Partition, Log]) -> dict[Partition, Claim]:
    """Where the ledger is in these logs; not where it knows another topic, or is behind the log's end."""
    return {
        partition: claim
        for partition, found in claims.items()
        for claim in found
        if partition in logs
        and claim.topic_id == logs[partition].topic_id
        and claim.progress.next_offset <= logs[partition].end_offset
    }


def behind(progress: Mapping[Partition, Progress], claims: Mapping[Partition, Claim]) -> int:
    """How many records the ledger is ahead of what was taken."""
    ahead = (claim.progress.next_offset - progress[partition].next_offset for partition, claim in claims.items())
    return sum(records for records in ahead if records > 0)
