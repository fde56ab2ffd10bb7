"""Turns compacted changes into what the replica has to do, table by table: pure.

A plan is carried out in this order: read what moves, truncate, delete, upsert, update. Values are PostgreSQL's text.
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


class Moves(NamedTuple):
    """Rows that got another key, while values of theirs did not travel: `rows` lacks the columns `lacking`.

    The replica has them still, under the keys `origins`, row by row.
    """

    rows: Rows
    lacking: tuple[str, ...]
    origins: Rows


class TablePlan(NamedTuple):
    """What one transaction does to one table.

    `deletes` holds keys. `upserts` holds rows, one entry per set of columns that the records had.
    `updates` holds rows of which some values did not travel: the row must be there already, and the
    columns that are not named keep their values. `moves` are rows like those of `upserts`, once the values that
    they lack were read on the replica.
    """

    table: Table
    truncate: bool
    deletes: Rows | None
    upserts: list[Rows]
    updates: list[Rows]
    moves: list[Moves]


class StaleDescriptionError(Exception):
    """A record has a column that its table's description lacks; the newer description must come first."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.change = chain.newest


def plan(compacted: Mapping[TableId, Compacted], decoders: Mapping[TableId, RowDecoder]) -> list[TablePlan]:
    """The plans of a batch, in the order of `compacted`.

    Raises RecordError for a record that cannot be carried exactly, StaleDescriptionError for one
    that is ahead of its table's description.
    """
    return [_table_plan(found, decoders[table]) for table, found in compacted.items()]


def _table_plan(compacted: Compacted, decoder: RowDecoder) -> TablePlan:
    deletes = [chain for chain in compacted.chains if chain.newest.row is None]
    upserts, updates, moves = _rows([chain for chain in compacted.chains if chain.newest.row is not None], decoder)
    keys = decoder.keys([chain.newest.key or b"" for chain in deletes]) if deletes else None
    return TablePlan(decoder.table, compacted.truncated, keys, upserts, updates, moves)


def _rows(chains: Sequence[Chain], decoder: RowDecoder) -> tuple[list[Rows], list[Rows], list[Moves]]:
    """Upserts, updates and moves. Decodes all rows at once where each has all of its values, else row by row."""
    if not chains:
        return [], [], []
    raws = [chain.newest.row or b"" for chain in chains]
    if not any(map(decoder.may_lack_values, raws)):
        try:
            return [decoder.rows(raws)], [], []
        except (msgspec.MsgspecError, ValueError):
            pass  # one of them lacks a column or does not fit: row by row says which
    return _grouped([(chain, _merged(chain, decoder)) for chain in chains], decoder)


def _merged(chain: Chain, decoder: RowDecoder) -> Row:
    """The newest row of a key, its missing values taken from the older ones."""
    merged: Row = {}
    for change in chain.changes:
        try:
            row = decoder.row(change.row or b"")
        except UnknownColumnError:
            raise StaleDescriptionError(Chain((change,))) from None
        for name, value in row.items():
            if not isinstance(value, Missing) or name not in merged:
                merged[name] = value
    return merged


def _grouped(merged: Sequence[tuple[Chain, Row]], decoder: RowDecoder) -> tuple[list[Rows], list[Rows], list[Moves]]:
    """Rows with the same columns together: upserts, and what is done with rows that lack values."""
    upserts: dict[tuple[str, ...], list[Row]] = {}
    updates: dict[tuple[str, ...], list[Row]] = {}
    moves: dict[tuple[tuple[str, ...], tuple[str, ...]], list[tuple[bytes, Row]]] = {}
    for chain, row in merged:
        lacking = tuple(name for name, value in row.items() if value is UNAVAILABLE)
        present = tuple(name for name, value in row.items() if not isinstance(value, Missing))
        if lacking and chain.origin is not None:
            moves.setdefault((present, lacking), []).append((chain.origin, row))
        elif lacking and any(change.op is not Op.UPDATE for change in chain.changes):
            raise _unrecoverable(chain, decoder.table, lacking)
        else:
            (updates if lacking else upserts).setdefault(present, []).append(row)
    moved = [
        Moves(_columnwise(present, [row for _, row in found]), lacking, decoder.keys([origin for origin, _ in found]))
        for (present, lacking), found in moves.items()
    ]
    return _all_columnwise(upserts), _all_columnwise(updates), moved


def _all_columnwise(groups: Mapping[tuple[str, ...], list[Row]]) -> list[Rows]:
    return [_columnwise(columns, rows) for columns, rows in groups.items()]


def _columnwise(columns: tuple[str, ...], rows: Sequence[Row]) -> Rows:
    return Rows(columns, [[_text(row, name) for row in rows] for name in columns])


def _text(row: Row, name: str) -> str | None:
    value = row[name]
    if isinstance(value, Missing):
        message = f"{name} is {value}"
        raise TypeError(message)
    return value


def _unrecoverable(chain: Chain, table: Table, lacking: Sequence[str]) -> RecordError:
    change = chain.newest
    return RecordError(
        f"A row of {table.id} came without the values of {', '.join(lacking)}, and which row had them is not known "
        f"({change.partition} offset {change.offset}): its topic has several partitions, or records were left out.",
        remedy=f"On the source: ALTER TABLE {table.id} REPLICA IDENTITY FULL; then read the table again.",
    )
