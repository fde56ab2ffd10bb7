"""Turns compacted changes into what the replica has to do, table by table: pure.

A plan is carried out in this order: read what moves, truncate, delete, remove, upsert, update, insert. Values are
PostgreSQL's text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from deltasync.change import Change, Op
from deltasync.compact import Chain, Compacted, Counted
from deltasync.debezium.rows import ABSENT, UNAVAILABLE, Missing, Row, RowDecoder, Rows, UnknownColumnError
from deltasync.errors import RecordError, RowError
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

    Of a table without a key there are only `removes`, each of which is one of the rows that are equal to it and must be
    there, and `inserts`.
    """

    table: Table
    truncate: bool
    deletes: Rows | None
    upserts: list[Rows]
    updates: list[Rows]
    moves: list[Moves]
    removes: Rows | None = None
    inserts: Rows | None = None


class StaleDescriptionError(Exception):
    """A record has a column that its table's description lacks; the newer description must come first."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change


def plan(compacted: Mapping[TableId, Compacted], decoders: Mapping[TableId, RowDecoder]) -> list[TablePlan]:
    """The plans of a batch, in the order of `compacted`.

    Raises RecordError for a record that cannot be carried exactly, StaleDescriptionError for one
    that is ahead of its table's description.
    """
    return [_table_plan(found, decoders[table]) for table, found in compacted.items()]


def _table_plan(compacted: Compacted, decoder: RowDecoder) -> TablePlan:
    if decoder.table.is_keyless:
        return _counted_plan(compacted, decoder)
    deletes = [chain for chain in compacted.chains if chain.newest.row is None]
    upserts, updates, moves = _rows([chain for chain in compacted.chains if chain.newest.row is not None], decoder)
    keys = decoder.keys([chain.newest.key or b"" for chain in deletes]) if deletes else None
    return TablePlan(decoder.table, compacted.truncated, keys, upserts, updates, moves)


def _counted_plan(compacted: Compacted, decoder: RowDecoder) -> TablePlan:
    """How many of each row go and come, told by what they hold: one row may have more than one JSON."""
    columns: tuple[str, ...] = ()
    counts: Counter[tuple[str | None, ...]] = Counter()
    if compacted.counted:
        rows = _whole([found.row for found in compacted.counted], compacted.counted, decoder)
        columns = rows.columns
        for row, found in zip(zip(*rows.values, strict=True), compacted.counted, strict=True):
            counts[row] += found.copies
    removes, inserts = (
        _repeated(columns, {row: count * sign for row, count in counts.items() if count * sign > 0}) for sign in (-1, 1)
    )
    if compacted.truncated and removes is not None:
        raise rows_to_remove_missing(decoder.table, removes.count)
    return TablePlan(decoder.table, compacted.truncated, None, [], [], [], removes, inserts)


def _whole(raws: Sequence[bytes], counted: Sequence[Counted], decoder: RowDecoder) -> Rows:
    """Rows that have all of their values. Raises RecordError where one lacks a column that another has."""
    whole = _if_whole(raws, decoder)
    if whole is not None:
        return whole
    rows = []
    for found in counted:
        try:
            rows.append(decoder.row(found.row))
        except UnknownColumnError:
            raise StaleDescriptionError(found.newest) from None
    present = {tuple(name for name, value in row.items() if value is not ABSENT) for row in rows}
    if len(present) > 1 or any(value is UNAVAILABLE for row in rows for value in row.values()):
        raise _not_alike(counted[-1].newest)
    return _columnwise(present.pop(), rows)


def _if_whole(raws: Sequence[bytes], decoder: RowDecoder) -> Rows | None:
    """The rows, where each has all of its columns and values, and fits; else row by row says which has not."""
    try:
        return decoder.rows(raws)
    except (msgspec.MsgspecError, ValueError):
        return None


def _repeated(columns: tuple[str, ...], counts: Mapping[tuple[str | None, ...], int]) -> Rows | None:
    """Rows, each as often as it counts; None where there is none."""
    rows = [row for row, count in counts.items() for _ in range(count)]
    return Rows(columns, [list(values) for values in zip(*rows, strict=True)]) if rows else None


def rows_to_remove_missing(table: Table, count: int) -> RecordError:
    """Rows that go, but are not on the replica: which other ones to take would be a guess."""
    return RecordError(
        f"{count} rows of {table.id} that were changed or deleted on the source are not on the replica, and the table "
        "has no key by which others could stand for them.",
        remedy=(
            f"See who writes to {table.id} on the replica, and whether it held rows before it was captured (deltasync "
            "check); make it equal by hand, and move the ledger: deltasync ledger set …"
        ),
    )


def _rows(chains: Sequence[Chain], decoder: RowDecoder) -> tuple[list[Rows], list[Rows], list[Moves]]:
    """Upserts, updates and moves. Decodes all rows at once where each has all of its values, else row by row."""
    if not chains:
        return [], [], []
    whole = _if_whole([chain.newest.row or b"" for chain in chains], decoder)
    if whole is not None:
        return [whole], [], []
    return _grouped([(chain, _merged(chain, decoder)) for chain in chains], decoder)


def _merged(chain: Chain, decoder: RowDecoder) -> Row:
    """The newest row of a key, its missing values taken from the older ones."""
    merged: Row = {}
    for change in chain.changes:
        try:
            row = decoder.row(change.row or b"")
        except UnknownColumnError:
            raise StaleDescriptionError(change) from None
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


def _not_alike(change: Change) -> RecordError:
    return RecordError(
        f"A row of {change.table}, which has no key, lacks columns or values that others have "
        f"({change.partition} offset {change.offset}).",
        remedy="See whether its REPLICA IDENTITY was changed on the source: it is to be FULL.",
    )


def _unrecoverable(chain: Chain, table: Table, lacking: Sequence[str]) -> RowError:
    change = chain.newest
    return RowError(
        f"A row of {table.id} came without the values of {', '.join(lacking)}, and which row had them is not known "
        f"({change.partition} offset {change.offset}): its topic has several partitions, or records were left out.",
        remedy=f"On the source: ALTER TABLE {table.id} REPLICA IDENTITY FULL; then read the table again.",
    )
