"""A replica in memory: tables, the ledger and its fence, transactions. The reference for `replica/session.py`.

A transaction does all of its work at its end, at once; what can go wrong on the way is up to `at`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import NamedTuple

from deltasync.change import Partition
from deltasync.debezium.rows import Rows, joined
from deltasync.debezium.schema_log import SchemaEvent
from deltasync.errors import GapError, RecordError, RefusedError
from deltasync.plan import Moves, TablePlan
from deltasync.ports import Batch
from deltasync.progress import Claim, Progress, anew
from deltasync.replica import evolve
from deltasync.replica.constraints import NONE, Constraints, parents_first
from deltasync.replica.ledger import fenced, recreated
from deltasync.replica.tables import CANARY
from deltasync.table import SourceTable, Table, TableId

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

    `unique` names the columns of each unique index beside the key: looked at with every row that is written.
    """

    def __init__(self, table: Table, rows: Mapping[Hashable, Row] | None = None, unique: Unique = ()) -> None:
        self.table = table
        self.rows = dict(rows or {})
        self.unique = unique
        self._numeric = frozenset(c.name for c in table.columns if c.type.name == "numeric")

    def copied(self) -> MemoryTable:
        """The table for a transaction to write into."""
        return MemoryTable(self.table, self.rows, self.unique)

    def complete(self, plan: TablePlan) -> TablePlan:
        """The plan with what its rows lack, which is read before anything is written."""
        return plan._replace(upserts=[*plan.upserts, *(self._whole(moves) for moves in plan.moves)], moves=[])

    def delete(self, plan: TablePlan) -> int:
        return sum(self._delete(row) for row in _each(plan.deletes))

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
        before = dict(self.rows)
        try:
            return self._put(plan.upserts, plan.updates)
        except NotUniqueError:
            self.rows = before
            self.delete_last(plan)
            return self._replace(plan.upserts, plan.updates)

    def widened(self, table: Table) -> MemoryTable:
        """The table with the columns that this description has and it lacks, NULL in its rows."""
        added = tuple(column for column in table.columns if self.table.column(column.name) is None)
        empty: Row = {column.name: None for column in added}
        described = Table(table.schema, table.name, self.table.columns + added, self.table.primary_key)
        return MemoryTable(described, {key: {**row, **empty} for key, row in self.rows.items()}, self.unique)

    def mend(self, before: Row, after: Row) -> None:
        """What an operator writes by hand: a row that has another key by now."""
        self._delete(before)
        self._upsert(after)

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

    def _key(self, row: Row) -> Hashable:
        return tuple(_value(row[name]) if name in self._numeric else row[name] for name in self.table.primary_key)

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

    def _keep(self, key: Hashable, row: Row) -> None:
        """Write a row, unless a unique value of it is another row's; no two NULLs are equal."""
        for columns in self.unique:
            values = [row[name] for name in columns]
            others = (other for other_key, other in self.rows.items() if other_key != key)
            if None not in values and any([other[name] for name in columns] == values for other in others):
                raise NotUniqueError
        self.rows[key] = row


class Database:
    """What outlives sessions. `source_tables`, `tables` and the ledger may be read at any time."""

    def __init__(self) -> None:
        self.tables: dict[TableId, MemoryTable] = {CANARY.id: MemoryTable(CANARY)}
        self.source_tables: dict[TableId, SourceTable] = {}
        self.ledger: dict[Partition, dict[str, Progress]] = {}
        self.audit: list[Partition] = []
        self.locks: dict[Partition, Replica] = {}
        self.foreign: list[Foreign] = []

    def place(self, partition: Partition, to: Claim, reason: str) -> None:
        """Move the ledger by hand (see `by_hand.place`)."""
        if not reason.strip():
            raise RefusedError("The ledger is not moved without a reason.", remedy="Say why: --reason TEXT.")
        of_topic = self.ledger.setdefault(partition, {})
        before = of_topic.pop(to.topic_id, None) or Progress(to.progress.next_offset - 1)
        kept = before if to.progress.next_offset > before.next_offset else anew(before)
        of_topic[to.topic_id] = kept._replace(next_offset=to.progress.next_offset)
        self.audit.append(partition)


class Replica:
    """A session (see `ports.Replica`).

    `at` is called with the name of each place where a transaction can fail: "begin", "fenced" (its locks are
    held, nothing is written), "committed" (all is written, the answer is on its way). What it raises, happens.
    Foreign keys are checked with `ordered` only.
    """

    def __init__(
        self, database: Database, at: Callable[[str], object] = lambda _place: None, *, ordered: bool = False
    ) -> None:
        self._database = database
        self._at = at
        self._foreign = database.foreign if ordered else ()
        self._ended = False

    def open(self, ids: Mapping[Partition, str]) -> dict[Partition, Progress | GapError]:
        self._begin()
        return {partition: self._open(partition, topic_id) for partition, topic_id in ids.items()}

    def tables(self) -> dict[TableId, SourceTable]:
        self._begin()
        return dict(self._database.source_tables)

    def moved_since(self, audited: int) -> tuple[int, set[Partition]]:
        self._begin()
        return len(self._database.audit), set(self._database.audit[audited:])

    def apply(self, batch: Batch) -> int:
        self._begin()
        try:
            self._fence(batch.claims)
            self._at("fenced")
            if self._ended:
                raise OperationalError("25P03")
            written = self._commit(batch)
        finally:
            self.close()
        self._at("committed")
        return written

    def cancel(self) -> None:
        """Nothing runs for long."""

    def close(self) -> None:
        self._ended = False
        for partition in [p for p, holder in self._database.locks.items() if holder is self]:
            del self._database.locks[partition]

    def end(self) -> None:
        """End the transaction that is under way, as the server does with one that idles: its session learns later."""
        self.close()
        self._ended = True

    def _begin(self) -> None:
        self._ended = False
        self._at("begin")

    def _open(self, partition: Partition, topic_id: str) -> Progress | GapError:
        of_topic = self._database.ledger.setdefault(partition, {topic_id: Progress()})
        return of_topic.get(topic_id) or recreated(partition)

    def _fence(self, claims: Mapping[Partition, Claim]) -> None:
        for partition, claim in claims.items():
            if self._database.locks.setdefault(partition, self) is not self:
                raise OperationalError("55P03")
            found = self._database.ledger.get(partition, {}).get(claim.topic_id)
            if found is None or found.next_offset != claim.progress.next_offset:
                raise fenced(partition, found and found.next_offset, claim)

    def _commit(self, batch: Batch) -> int:
        """All or nothing: what may raise comes before what is kept."""
        tables = dict(self._database.tables)
        source_tables = self._evolved(tables, batch.events)
        count = sum(self._write(tables, plans) for plans in chain([batch.plans], batch.rest))
        for foreign in self._foreign:
            _check(foreign, tables)
        self._database.tables, self._database.source_tables = tables, source_tables
        for partition, progress in batch.to.items():
            self._database.ledger[partition][batch.claims[partition].topic_id] = progress
        return count

    def _write(self, tables: dict[TableId, MemoryTable], plans: Iterable[TablePlan]) -> int:
        """Carry out plans in the order of `Writer.write`, looking at foreign keys behind each statement."""
        found = {plan.table.id: _fitting(tables, plan).complete(plan) for plan in plans}
        tables.update({id_: tables[id_].copied() for id_ in found})
        order = list(found)
        late: list[TableId] = []
        if self._foreign:
            order = parents_first(found, _constraints(self._foreign))
            referenced = {one.parent for one in self._foreign}
            late = [id_ for id_ in order if id_ in referenced and tables[id_].may_empty_last(found[id_])]
        count = 0

        def do(act: Callable[[MemoryTable, TablePlan], int], ids: Iterable[TableId]) -> None:
            nonlocal count
            for id_ in ids:
                count += act(tables[id_], found[id_])
                for foreign in self._foreign:
                    if foreign.acts or not foreign.deferrable:
                        _check(foreign, tables)

        soon = [id_ for id_ in reversed(order) if id_ not in late]
        do(MemoryTable.empty, soon)
        do(MemoryTable.delete, soon)
        do(MemoryTable.put, order)
        do(MemoryTable.delete_last, reversed(late))
        return count

    def _evolved(self, tables: dict[TableId, MemoryTable], events: Iterable[SchemaEvent]) -> dict[TableId, SourceTable]:
        known = self._database.source_tables
        changed = evolve.fold(events, known)
        for id_, table in changed.items():
            if table.captured and not table.dropped and table.description is not None:
                before = known.get(id_)
                was_held = table.held is not None or (before is not None and before.held is not None)
                old = before.description if before and not was_held else None
                changed[id_] = table._replace(held=_fit(tables, table.description, old, was_held=was_held))
        return {**known, **changed}


def _fit(tables: dict[TableId, MemoryTable], table: Table, before: Table | None, *, was_held: bool) -> str | None:
    """Make the table fit its description; why not, where it may not be (see `evolve.fit`)."""
    existing = tables.get(table.id)
    if existing is None:
        tables[table.id] = MemoryTable(table)
        return None
    missing = [column for column in table.columns if existing.table.column(column.name) is None]
    why = evolve.difference(existing.table, table, before) or evolve.guessed(missing)
    if was_held and missing:
        return why or f"its column {missing[0].name} is not on the replica"
    if why is None:
        tables[table.id] = existing.widened(table)
    return why


def _fitting(tables: Mapping[TableId, MemoryTable], plan: TablePlan) -> MemoryTable:
    found = tables.get(plan.table.id)
    if found is None or any(found.table.column(column.name) is None for column in plan.table.stored_columns):
        raise RecordError(f"The table {plan.table.id} does not fit on the replica.", remedy="Run replica setup.")
    return found


def _constraints(foreign: Iterable[Foreign]) -> dict[TableId, Constraints]:
    found: dict[TableId, Constraints] = {}
    for one in foreign:
        known = found.get(one.child, NONE)
        found[one.child] = known._replace(parents=known.parents | {one.parent})
    return found


def _check(foreign: Foreign, tables: Mapping[TableId, MemoryTable]) -> None:
    """Raises NoParentError where a row references one that is not there."""
    child, parent = tables.get(foreign.child), tables.get(foreign.parent)
    if child is None or parent is None:
        return
    if any(
        row[foreign.column] is not None and (row[foreign.column],) not in parent.rows for row in child.rows.values()
    ):
        raise NoParentError


def _missing(table: Table) -> RecordError:
    return RecordError(f"A row of {table.id} is not on the replica.", remedy="Read the table again.")


def _each(rows: Rows | None) -> Iterable[Row]:
    if rows is None:
        return ()
    return (dict(zip(rows.columns, values, strict=True)) for values in zip(*rows.values, strict=True))


def _value(text: str | None) -> Hashable:
    """What equal numbers have in common: 1.0 and 1.00 are one key."""
    number = Decimal(text or "NaN")
    return number if number.is_finite() else text
