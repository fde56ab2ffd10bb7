"""Dead letters: a record that cannot be applied is set aside, and what follows of its key queues up behind it. Pure.

All other keys go on. What was set aside lies on the replica, in the order of its partition, until an operator has it
replayed or discards it (`deltasync dead-letters`); a TRUNCATE of its table makes it void.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from deltasync.change import Change, Op, Partition, Record
from deltasync.debezium.rows import RowDecoder
from deltasync.errors import RecordError
from deltasync.intake import Taken
from deltasync.table import TableId


class Letter(NamedTuple):
    """A record that is set aside: it failed, and `error` says why, or it waits behind one that did.

    `key` is the raw JSON of its row's key, `old_key` that of the one it had before, where the record changes it.
    `committed_us` is its source commit, in microseconds since 1970.
    """

    record: Record
    table: TableId
    key: bytes
    old_key: bytes | None = None
    committed_us: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Parked:
    """What waits of a partition: the raw keys of rows; of each table how many records failed, and how many wait."""

    keys: frozenset[tuple[TableId, bytes]] = frozenset()
    counts: Mapping[TableId, tuple[int, int]] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(failed for failed, _ in self.counts.values())

    @property
    def records(self) -> int:
        return sum(records for _, records in self.counts.values())

    def with_letter(self, letter: Letter) -> Parked:
        """With one more."""
        keys = {(letter.table, key) for key in (letter.key, letter.old_key) if key is not None}
        failed, records = self.counts.get(letter.table, (0, 0))
        count = failed + (letter.error is not None), records + 1
        return Parked(self.keys | keys, {**self.counts, letter.table: count})

    def without(self, table: TableId) -> Parked:
        """Without what waits of a table."""
        counts = {name: count for name, count in self.counts.items() if name != table}
        return Parked(frozenset(one for one in self.keys if one[0] != table), counts)


NO_ERRORS: Mapping[tuple[Partition, int], str] = {}
REMEDY = "Mend what refuses it, then: deltasync dead-letters list, and replay."


class Void(NamedTuple):
    """A table was emptied by the record at `offset`: what was set aside of it before means nothing any more."""

    partition: Partition
    table: TableId
    offset: int


class Diverted(NamedTuple):
    """A batch without what is set aside: its records lose their changes, and keep their progress.

    `before` counts what was set aside already, of the partitions of which something was; `parked` is all of it behind.
    """

    taken: Sequence[Taken]
    letters: Sequence[Letter]
    voids: Sequence[Void]
    parked: Mapping[Partition, Parked]
    before: Mapping[Partition, int] = {}


def may_park(change: Change | None) -> bool:
    """True for a change of one row that its key tells."""
    return change is not None and change.op is not Op.TRUNCATE and change.key is not None and change.run is None


def divert(
    taken: Sequence[Taken],
    parked: Mapping[Partition, Parked],
    polled: Sequence[Record],
    decoders: Mapping[TableId, RowDecoder],
    errors: Mapping[tuple[Partition, int], str],
) -> Diverted:
    """Set aside the records that fail by `errors`, and those whose keys are `parked`.

    `polled` holds the records that were taken. A change of a key that comes from a parked one, or goes to one, parks
    both. Raises RecordError for a key that does not fit its table.
    """
    if not errors and not parked:
        return Diverted(taken, (), (), parked)
    diverting = _Diverting(parked, polled, decoders, errors)
    kept = [diverting.take(one) for one in taken]
    before = {partition: found.records for partition, found in parked.items()}
    return Diverted(kept, diverting.letters, diverting.voids, diverting.parked, before)


class _Diverting:
    """One batch on its way."""

    def __init__(
        self,
        parked: Mapping[Partition, Parked],
        polled: Sequence[Record],
        decoders: Mapping[TableId, RowDecoder],
        errors: Mapping[tuple[Partition, int], str],
    ) -> None:
        self.parked = dict(parked)
        self.letters: list[Letter] = []
        self.voids: list[Void] = []
        self._decoders = decoders
        self._errors = errors
        self._places = {(record.partition, record.offset): place for place, record in enumerate(polled)}
        self._polled = polled
        self._identities: dict[tuple[Partition, TableId], set[Hashable]] = {}

    def take(self, one: Taken) -> Taken:
        change = one.change
        if change is None or change.table not in self._decoders:
            return one
        if change.op is Op.TRUNCATE or change.begins:
            self._void(change)
        if change.op is Op.TRUNCATE:
            return one
        error = self._errors.get((one.partition, one.offset))
        if error is None and not self._waits(change):
            return one
        for record in self._records(change):
            self._park(record, change, error if record.offset == one.offset else None)
        return one._replace(change=None)

    def _waits(self, change: Change) -> bool:
        waiting = self._waiting(change)
        return bool(waiting) and any(self._identity(change, key) in waiting for key in _keys(change))

    def _waiting(self, change: Change) -> set[Hashable]:
        """What tells the parked rows of a change's table."""
        place = change.partition, change.table
        if place not in self._identities:
            known = self.parked.get(change.partition, Parked()).keys
            self._identities[place] = {self._identity(change, key) for table, key in known if table == change.table}
        return self._identities[place]

    def _identity(self, change: Change, key: bytes) -> Hashable:
        return self._decoders[change.table].identity(key)

    def _park(self, record: Record, change: Change, error: str | None) -> None:
        letter = Letter(record, change.table, change.key or b"", change.old_key, change.position.committed_us, error)
        self.letters.append(letter)
        self.parked[change.partition] = self.parked.get(change.partition, Parked()).with_letter(letter)
        self._waiting(change).update(self._identity(change, key) for key in _keys(change))

    def _records(self, change: Change) -> Iterable[Record]:
        """The record of a change; of one that gives a row another key, both halves."""
        place = self._places[change.partition, change.offset]
        if change.op is Op.CREATE and change.old_key is not None:
            behind = reversed(self._polled[:place])
            yield next(record for record in behind if record.moves and record.partition == change.partition)
        yield self._polled[place]

    def _void(self, change: Change) -> None:
        known = self.parked.get(change.partition)
        if known is None or change.table not in known.counts:
            return
        self.voids.append(Void(change.partition, change.table, change.offset))
        self.parked[change.partition] = known.without(change.table)
        self._identities.pop((change.partition, change.table), None)


def _keys(change: Change) -> list[bytes]:
    return [key for key in (change.key, change.old_key) if key is not None]


def too_many(letter: Letter, records: int) -> RecordError:
    """So much waits that setting aside more would hide a fault of the table's."""
    partition = letter.record.partition
    return RecordError(
        f"{records} records of {partition} are set aside as dead letters: that is what records_max allows.",
        remedy="See what they have in common: deltasync dead-letters list. Replay or discard them, and it goes on.",
    )
