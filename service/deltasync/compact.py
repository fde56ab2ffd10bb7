"""Folds a batch of changes to the last state of each key: pure.

Works on raw bytes, so that only the survivors are ever decoded. A row that may lack unchanged TOAST
values (it holds a marker of the placeholder) keeps the older rows of its key below it; the plan
takes the missing values from them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

from deltasync.change import Change, Op
from deltasync.debezium.rows import RowDecoder
from deltasync.errors import RecordError
from deltasync.table import TableId

# The changes of one key that still matter, oldest first: a delete alone, or rows of which each but
# the first may lack values.
Chain = tuple[Change, ...]


class Compacted(NamedTuple):
    """What a batch does to one table: empty it first if `truncated`, then the last state per key."""

    truncated: bool
    chains: list[Chain]


class _Fold:
    """One table's changes while they are folded."""

    def __init__(self, decoder: RowDecoder) -> None:
        self.decoder = decoder
        self.truncated = False
        self.last: dict[Hashable, Chain] = {}

    def add(self, change: Change) -> None:
        if change.op is Op.TRUNCATE:
            self.truncated = True
            self.last.clear()
            return
        if change.key is None:
            raise _keyless(change)
        key = self.decoder.identity(change.key)
        older = self.last.get(key)
        if older is None or not self._may_need(older, change):
            self.last[key] = (change,)
        else:
            self.last[key] = (*older, change)

    def _may_need(self, older: Chain, change: Change) -> bool:
        """True where the change may lack values that an older row of its key has."""
        return change.row is not None and older[-1].row is not None and self.decoder.may_lack_values(change.row)


def compact(changes: Iterable[Change], decoders: Mapping[TableId, RowDecoder]) -> dict[TableId, Compacted]:
    """The last state of each key, per table, tables in the order of their first change.

    Raises RecordError for a change of a row without a key, or with one that does not fit its table.
    """
    folds: dict[TableId, _Fold] = {}
    for change in changes:
        fold = folds.get(change.table)
        if fold is None:
            fold = folds[change.table] = _Fold(decoders[change.table])
        fold.add(change)
    return {table: Compacted(fold.truncated, list(fold.last.values())) for table, fold in folds.items()}


def _keyless(change: Change) -> RecordError:
    return RecordError(
        f"The record at {change.partition} offset {change.offset} changes a row of {change.table} without a key.",
        remedy="Give the table a primary key on the source, or leave it out with `exclude` in [source].",
    )
