"""A table of the replica in memory, and what it refuses."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import msgspec

from deltasync.debezium.rows import Rows, joined
from deltasync.errors import RowError
from deltasync.plan import Moves, TablePlan, rows_to_remove_missing
from deltasync.replica.constraints import NONE, Constraints
from deltasync.table import Table, TableId

Row = Mapping[str, str | None]
Unique = Sequence[Sequence[str]]


class OperationalError(Exception):
    """What a database says where nothing is wrong with the rows; `sqlstate` as PostgreSQL's."""

    def __init__(self, sqlstate: str | None = None) -> None:
        super().__init__()
        self.sqlstate = sqlstate


class IntegrityError(OperationalError):
    """A row that the database refuses."""


class NotUniqueError(IntegrityError):
    """A unique value is another row's."""

    def __init__(self) -> None:
        super().__init__("23505")


class NoParentError(IntegrityError):
    """A row references one that is not there."""

    def __init__(self) -> None:
        super().__init__("23503")


class Foreign(NamedTuple):
    """A foreign key on a primary key of one column. `acts` tells of CASCADE and the like, which change no row here.

    What does not act and is `deferrable` is looked at when the transaction ends, all else with each statement.
    """

    child: TableId
    column: str
    parent: TableId
    deferrable: bool = False
    acts: bool = False


class MemoryTable:
    """One table: what it is, and its rows by their keys. A transaction writes into a copy.

    `unique` names the columns of each unique index beside the key: looked at with every row that is written, and so
    are the values in `refused`, as a CHECK would.
    """

    def __init__(
        self,
        table: Table,
        rows: Mapping[Hashable, Row] | None = None,
        unique: Unique = (),
        refused: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.table = table
        self.rows = dict(rows or {})
        self.unique = unique
        self.refused = refused
        self._numeric = frozenset(c.name for c in table.columns if c.type.name == "numeric")

    def copied(self) -> MemoryTable:
        """The table for a transaction to write into."""
        return MemoryTable(self.table, self.rows, self.unique, self.refused)

    def complete(self, plan: TablePlan) -> TablePlan:
        """The plan with what its rows lack, which is read before anything is written."""
        return plan._replace(upserts=[*plan.upserts, *(self._whole(moves) for moves in plan.moves)], moves=[])

    def delete(self, plan: TablePlan) -> int:
        removed = [self._remove(row) for row in _each(plan.removes)]
        if not all(removed):
            raise rows_to_remove_missing(self.table, removed.count(False))
        return len(removed) + sum(self._delete(row) for row in _each(plan.deletes))

    def empty(self, plan: TablePlan) -> int:
        if plan.truncate:
            self.rows = {}
        return 0

    def may_empty_last(self, plan: TablePlan) -> bool:
        """True where no row that is written behind TRUNCATE could keep a value from before."""
        columns = {column.name for column in self.table.stored_columns}
        return not plan.truncate or not (plan.updates or any(columns - {*rows.columns} for rows in plan.upserts))

    def delete_last(self, plan: TablePlan) -> int:
        """Delete when all is written: behind TRUNCATE what was not."""
        if plan.truncate:
            kept = {self._key(row) for rows in plan.upserts for row in _each(rows)}
            self.rows = {key: row for key, row in self.rows.items() if key in kept}
        return self.delete(plan)

    def put(self, plan: TablePlan) -> int:
        if plan.inserts is not None:
            return sum(self._insert(row) for row in _each(plan.inserts))
        before = dict(self.rows)
        try:
            return self._put(plan.upserts, plan.updates)
        except NotUniqueError:
            self.rows = before
            self.delete_last(plan)
            return self._replace(plan.upserts, plan.updates)

    def widened(self, table: Table) -> MemoryTable:
        """The table with the columns that this description has and it lacks, which hold what the source's rows held."""
        added = tuple(column for column in table.columns if self.table.column(column.name) is None)
        return self.changed(msgspec.structs.replace(self.table, columns=self.table.columns + added), {})

    def changed(self, table: Table, names: Mapping[str, str | None]) -> MemoryTable:
        """The table behind DDL: as described, with what else it had.

        `names` are what columns are called now, where they have another name, or none: those are gone. What is new
        holds what the source's rows held then. Raises IntegrityError for a row with NULL where that is not allowed.
        """
        now = {column.name: names.get(column.name, column.name) for column in self.table.columns}
        old = {new: name for name, new in now.items() if new is not None}
        mine = {column.name for column in table.columns}
        others = tuple(column for column in self.table.columns if (new := now[column.name]) and new not in mine)
        described = msgspec.structs.replace(table, columns=(*table.columns, *others))
        missing = {column.name: column.missing for column in described.columns}
        rows = {
            key: {name: row[old[name]] if name in old else missing[name] for name in missing}
            for key, row in self.rows.items()
        }
        if any(column.not_null and row[column.name] is None for column in table.columns for row in rows.values()):
            raise IntegrityError("23502")
        unique = [[now.get(name) or name for name in columns] for columns in self.unique]
        refused = frozenset((new, text) for column, text in self.refused if (new := now.get(column)) is not None)
        return MemoryTable(described, rows, unique, refused)

    def mend(self, before: Row, after: Row) -> None:
        """What an operator writes by hand: a row that has another key by now."""
        self._delete(before)
        self._upsert(after)

    def fill(self, rows: Iterable[Row]) -> None:
        """Hold these rows alone, which somebody wrote by hand."""
        self.rows = {self._key(row) if self.table.primary_key else object(): dict(row) for row in rows}

    def replaced(self, rows: Mapping[Hashable, Row]) -> MemoryTable:
        """The table with these rows, which keep what it has beside their columns. Raises IntegrityError."""
        empty: Row = dict.fromkeys(column.name for column in self.table.columns)
        found = MemoryTable(self.table, {}, self.unique, self.refused)
        for key, row in rows.items():
            found._keep(key, {**self.rows.get(key, empty), **row})
        return found

    def _put(self, upserts: Iterable[Rows], updates: Iterable[Rows]) -> int:
        count = 0
        for rows in upserts:
            self._once(rows)
            count += sum(self._upsert(row) for row in _each(rows))
        for rows in updates:
            self._once(rows)
            count += sum(self._update(row) for row in _each(rows))
        return count

    def _replace(self, upserts: Iterable[Rows], updates: Iterable[Rows]) -> int:
        """Write rows among which a unique value moves: whole, after those under their keys are gone."""
        groups = joined([*upserts, *(self._completed(rows) for rows in updates)])
        for rows in groups:
            for row in _each(rows):
                self._delete(row)
        return self._put(groups, ())

    def _completed(self, rows: Rows) -> Rows:
        """Rows that lack values, whole: what did not travel is there under their keys."""
        lacking = tuple(column.name for column in self.table.columns if column.name not in rows.columns)
        return self._whole(Moves(rows, lacking, rows.only(self.table.primary_key)))

    def _whole(self, moves: Moves) -> Rows:
        """Rows that change their key, with what did not travel."""
        before = [self.rows.get(self._key(origin)) for origin in _each(moves.origins)]
        found = [row for row in before if row is not None]
        if len(found) < len(before):
            raise _missing(self.table)
        lacking = [[row[name] for row in found] for name in moves.lacking]
        return Rows((*moves.rows.columns, *moves.lacking), [*moves.rows.values, *lacking])

    def keys(self, keys: Iterable[Rows]) -> set[Hashable]:
        """What the rows of these keys are known by."""
        return {self._key(row) for some in keys for row in _each(some)}

    def _key(self, row: Row) -> Hashable:
        return tuple(value_of(row[name]) if name in self._numeric else row[name] for name in self.table.primary_key)

    def _once(self, rows: Rows) -> None:
        """One statement changes a row once."""
        if len({self._key(row) for row in _each(rows)}) < rows.count:
            raise IntegrityError("21000")

    def _delete(self, row: Row) -> bool:
        return self.rows.pop(self._key(row), None) is not None

    def _upsert(self, row: Row) -> bool:
        key = self._key(row)
        before = self.rows.get(key)
        after = {**(before or dict.fromkeys(column.name for column in self.table.columns)), **row}
        for column in self.table.columns:
            if column.not_null and after[column.name] is None:
                raise IntegrityError("23502")
        self._keep(key, after)
        return before != after

    def _update(self, row: Row) -> bool:
        key = self._key(row)
        before = self.rows.get(key)
        if before is None:
            raise _missing(self.table)
        kept = {name: value for name, value in row.items() if name not in self.table.primary_key}
        self._keep(key, {**before, **kept})
        return True

    def _remove(self, row: Row) -> bool:
        """Take one of the rows that hold these values."""
        found = next((key for key, there in self.rows.items() if row.items() <= there.items()), None)
        return found is not None and self.rows.pop(found) is not None

    def _insert(self, row: Row) -> bool:
        self.rows[object()] = {**dict.fromkeys(column.name for column in self.table.columns), **row}
        return True

    def _keep(self, key: Hashable, row: Row) -> None:
        """Write a row, unless it is refused, or a unique value of it is another row's; no two NULLs are equal."""
        if any(row.get(column) == text for column, text in self.refused):
            raise IntegrityError("23514")
        for columns in self.unique:
            values = [row[name] for name in columns]
            others = (other for other_key, other in self.rows.items() if other_key != key)
            if None not in values and any([other[name] for name in columns] == values for other in others):
                raise NotUniqueError
        self.rows[key] = row


def _missing(table: Table) -> RowError:
    return RowError(f"A row of {table.id} is not on the replica.", remedy="Read the table again.")


def _each(rows: Rows | None) -> Iterable[Row]:
    if rows is None:
        return ()
    return (dict(zip(rows.columns, values, strict=True)) for values in zip(*rows.values, strict=True))


def value_of(text: str | None) -> Hashable:
    """What equal numbers have in common: 1.0 and 1.00 are one key."""
    number = Decimal(text or "NaN")
    return number if number.is_finite() else text


def constraints_of(foreign: Iterable[Foreign]) -> dict[TableId, Constraints]:
    """What each child references."""
    found: dict[TableId, Constraints] = {}
    for one in foreign:
        known = found.get(one.child, NONE)
        found[one.child] = known._replace(parents=known.parents | {one.parent})
    return found


def check(foreign: Foreign, tables: Mapping[TableId, MemoryTable]) -> None:
    """Raises NoParentError where a row references one that is not there."""
    child, parent = tables.get(foreign.child), tables.get(foreign.parent)
    if child is None or parent is None:
        return
    if any(
        row[foreign.column] is not None and (row[foreign.column],) not in parent.rows for row in child.rows.values()
    ):
        raise NoParentError
