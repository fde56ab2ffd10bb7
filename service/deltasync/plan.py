"""Turns compacted changes into what the replica has to do, table by table: pure.

A plan is carried out in this order: truncate, delete, upsert, update. Values are PostgreSQL's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from deltasync.change import Op
from deltasync.compact import Chain, Compacted
from deltasync.debezium.rows import UNAVAILABLE, Missing, Row, RowDecoder, Rows, UnknownColumnError
from deltasync.errors import RecordError
from deltasync.table import Table, TableId


class TablePlan(NamedTuple):
    """What one transaction does to one table.

    `deletes` holds keys. `upserts` holds rows, one entry per set of columns that the records had.
    `updates` holds rows of which some values did not travel: the row must be there already, and the
    columns that are not named keep their values.
    """

    table: Table
    truncate: bool
    deletes: Rows | None
    upserts: list[Rows]
    updates: list[Rows]


class StaleDescriptionError(Exception):
    """A record has a column that its table's description lacks; the newer description must come first."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.change = chain[-1]


def plan(compacted: Mapping[TableId, Compacted], decoders: Mapping[TableId, RowDecoder]) -> list[TablePlan]:
    """The plans of a batch, in the order of `compacted`.

    Raises RecordError for a record that cannot be carried exactly, StaleDescriptionError for one
    that is ahead of its table's description.
    """
    return [_table_plan(found, decoders[table]) for table, found in compacted.items()]


def _table_plan(compacted: Compacted, decoder: RowDecoder) -> TablePlan:
    deletes = [chain for chain in compacted.chains if chain[-1].row is None]
    upserts, updates = _rows([chain for chain in compacted.chains if chain[-1].row is not None], decoder)
    keys = decoder.keys([chain[-1].key or b"" for chain in deletes]) if deletes else None
    return TablePlan(decoder.table, compacted.truncated, keys, upserts, updates)


def _rows(chains: Sequence[Chain], decoder: RowDecoder) -> tuple[list[Rows], list[Rows]]:
    """Upserts and updates. Decodes all rows at once where each has all of its values, else row by row."""
    if not chains:
        return [], []
    raws = [chain[-1].row or b"" for chain in chains]
    if not any(map(decoder.may_lack_values, raws)):
        try:
            return [decoder.rows(raws)], []
        except (msgspec.MsgspecError, ValueError):
            pass  # one of them lacks a column or does not fit: row by row says which
    return _grouped([(chain, _merged(chain, decoder)) for chain in chains], decoder.table)


def _merged(chain: Chain, decoder: RowDecoder) -> Row:
    """The newest row of a key, its missing values taken from the older ones."""
    merged: Row = {}
    for change in chain:
        try:
            row = decoder.row(change.row or b"")
        except UnknownColumnError:
            raise StaleDescriptionError((change,)) from None
        for name, value in row.items():
            if not isinstance(value, Missing) or name not in merged:
                merged[name] = value
    return merged


def _grouped(merged: Sequence[tuple[Chain, Row]], table: Table) -> tuple[list[Rows], list[Rows]]:
    """Rows with the same columns together: upserts, and updates of rows that lack values."""
    upserts: dict[tuple[str, ...], list[Row]] = {}
    updates: dict[tuple[str, ...], list[Row]] = {}
    for chain, row in merged:
        lacking = [name for name, value in row.items() if value is UNAVAILABLE]
        if lacking and any(change.op is not Op.UPDATE for change in chain):
            raise _unrecoverable(chain, table, lacking)
        present = tuple(name for name, value in row.items() if not isinstance(value, Missing))
        (updates if lacking else upserts).setdefault(present, []).append(row)
    return _columnwise(upserts), _columnwise(updates)


def _columnwise(groups: Mapping[tuple[str, ...], list[Row]]) -> list[Rows]:
    return [Rows(columns, [[_text(row, name) for row in rows] for name in columns]) for columns, rows in groups.items()]


def _text(row: Row, name: str) -> str | None:
    value = row[name]
    if isinstance(value, Missing):
        message = f"{name} is {value}"
        raise TypeError(message)
    return value


def _unrecoverable(chain: Chain, table: Table, lacking: Sequence[str]) -> RecordError:
    change = chain[-1]
    return RecordError(
        f"The key of a row of {table.id} changed, and the values of {', '.join(lacking)} did not travel "
        f"({change.partition} offset {change.offset}): PostgreSQL leaves unchanged large values out.",
        remedy=f"On the source: ALTER TABLE {table.id} REPLICA IDENTITY FULL; then read the table again.",
    )
