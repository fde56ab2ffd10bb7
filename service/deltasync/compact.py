"""Folds a batch of changes to the last state of each key: pure.

Works on raw bytes, so that only the survivors are ever decoded. A row that may lack unchanged TOAST
values (it holds a marker of the placeholder) keeps the older rows of its key below it; the plan
takes the missing values from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from deltasync.change import Change, Op
from deltasync.debezium.rows import RowDecoder
from deltasync.errors import RecordError
from deltasync.table import TableId


class Chain(NamedTuple):
    """The changes of one key that still matter, oldest first: a delete alone, or rows that may lack values.

    Only the first of them may have all of its values. `origin` is the key under which the replica holds what they
    lack, where the key was changed since.
    """

    changes: tuple[Change, ...]
    origin: bytes | None = None

    @property
    def newest(self) -> Change:
        return self.changes[-1]


class Counted(NamedTuple):
    """A row as raw JSON, how many of its like a batch adds (or takes away, below zero), and the last change of one."""

    row: bytes
    copies: int
    newest: Change


class Compacted(NamedTuple):
    """What a batch does to one table: empty it first if `truncated`, then the last state per key.

    Of a table without a key, `counted` tells the rows.
    """

    truncated: bool
    chains: list[Chain]
    counted: Sequence[Counted] = ()


class _Fold:
    """One table's changes while they are folded."""

    def __init__(self, decoder: RowDecoder) -> None:
        self.decoder = decoder
        self.truncated = False
        self.last: dict[Hashable, Chain] = {}

    def add(self, change: Change) -> None:
        if change.op is Op.TRUNCATE or change.begins:
            self.truncated = True
            self.last.clear()
        if change.op is Op.TRUNCATE:
            return
        if change.key is None:
            raise _keyless(change)
        key = self.decoder.identity(change.key)
        older = self.last.get(key) if change.old_key is None else self._moved(change, change.old_key)
        if older is None or not self._may_need(older, change):
            self.last[key] = Chain((change,))
        else:
            self.last[key] = Chain((*older.changes, change), older.origin)

    def end(self) -> Compacted:
        return Compacted(self.truncated, list(self.last.values()))

    def _moved(self, change: Change, old_key: bytes) -> Chain:
        """What is known of the row under the key that it has left, which is a deleted one now."""
        key = self.decoder.identity(old_key)
        older = self.last.get(key)
        self.last[key] = Chain((change._replace(op=Op.DELETE, key=old_key, row=None, old_key=None),))
        if older is None or older.newest.row is None:
            return Chain((), old_key)
        return older if older.origin is not None else Chain(older.changes, old_key)

    def _may_need(self, older: Chain, change: Change) -> bool:
        """True where the change may lack values that an older row has."""
        known = older.origin is not None or older.newest.row is not None
        return known and change.row is not None and self.decoder.may_lack_values(change.row)


class _Count:
    """The changes of a table without a key: the order of equal rows does not matter, their number does."""

    def __init__(self) -> None:
        self.truncated = False
        self.counts: Counter[bytes] = Counter()
        self.newest: dict[bytes, Change] = {}

    def add(self, change: Change) -> None:
        if change.op is Op.TRUNCATE or change.begins:
            self.truncated = True
            self.counts.clear()
        for row, count in ((change.before, -1), (change.row, 1)):
            if row is not None:
                self.counts[row] += count
                self.newest[row] = change

    def end(self) -> Compacted:
        counted = [Counted(row, count, self.newest[row]) for row, count in self.counts.items() if count]
        return Compacted(self.truncated, [], counted)


def compact(changes: Iterable[Change], decoders: Mapping[TableId, RowDecoder]) -> dict[TableId, Compacted]:
    """The last state of each key, or the number of each row, per table, tables in the order of their first change.

    Raises RecordError for a change of a row without a key, or with one that does not fit its table.
    """
    folds: dict[TableId, _Fold | _Count] = {}
    for change in changes:
        fold = folds.get(change.table)
        if fold is None:
            decoder = decoders[change.table]
            fold = folds[change.table] = _Count() if decoder.table.is_keyless else _Fold(decoder)
        fold.add(change)
    return {table: fold.end() for table, fold in folds.items()}


def _keyless(change: Change) -> RecordError:
    return RecordError(
        f"The record at {change.partition} offset {change.offset} changes a row of {change.table} without a key.",
        remedy="Give the table a primary key on the source, or leave it out with `exclude` in [source].",
    )
