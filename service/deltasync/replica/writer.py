"""Carries out table plans on one connection, inside the transaction that the caller holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from deltasync.debezium.rows import Rows, joined
from deltasync.errors import ReferencedError, RowError
from deltasync.plan import Moves, TablePlan, rows_to_remove_missing
from deltasync.postgres.catalog import describe_tables
from deltasync.replica import catalog, constraints, statements
from deltasync.replica.constraints import NONE, Constraints, parents_first
from deltasync.replica.misfit import misfit, table_missing
from deltasync.table import Table, TableId

# Up to here one round trip with arrays is faster than filling a temporary table.
UNNEST_ROWS_MAX = 500
# Temporary tables are emptied one by one at each COMMIT: more of them would cost more than making one anew.
_STAGES_MAX = 64

# Of rows that should be new, one was there; or the table takes no COPY: it has row security, or is a view.
_NOT_COPIED = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.ExclusionViolation,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.WrongObjectType,
)
# What was copied in vain leaves as many dead rows: so many batches pass before it is tried again.
_COPIES_AGAIN_AFTER = 50
# Told of each statement before it is sent, with its parameters: a column's texts each.
Teller = Callable[[sql.Composable, Sequence[Sequence[str | None]]], object]
# Makes the statement that writes the rows of a source (a FROM item) with these columns.
_Statement = Callable[[Table, Sequence[str], sql.Composable], sql.Composed]


# Statements that follow from a table and columns alone.
_KEPT = frozenset({statements.upsert, statements.delete, statements.update, statements.insert, statements.remove})
# Statements that look rows up by their key.
_BY_KEY = frozenset({statements.delete, statements.update, statements.replace})


def untold(_query: sql.Composable, _parameters: Sequence[Sequence[str | None]]) -> None:
    """Nobody looks on."""


class _Work(NamedTuple):
    """A plan on the replica's own table: `upserts` are whole, `updates` leave columns alone."""

    target: Table
    truncate: bool
    deletes: Rows | None
    upserts: list[Rows]
    updates: list[Rows]
    removes: Rows | None = None
    inserts: Rows | None = None


class Writer:
    """Writes rows; remembers the replica's tables and the temporary tables of its connection.

    After a failed transaction make a new one with a new connection: what it remembers may be gone.
    `tell` is for those who look on.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        *,
        ordered: bool = False,
        tell: Teller = untold,
    ) -> None:
        self._connection = connection
        self._ordered = ordered
        self._tell = tell
        self._targets: dict[TableId, Table] = {}
        self._constraints: dict[TableId, Constraints] = {}
        self._replicated: frozenset[TableId] = frozenset()
        self._stages: dict[tuple[str, TableId, tuple[str, ...]], str] = {}
        self._filled: set[str] = set()  # in this transaction
        self._made = 0
        self._texts: dict[tuple[_Statement, TableId, tuple[str, ...]], sql.SQL] = {}
        self._written = 0  # batches
        self._copies_from: dict[TableId, int] = {}

    def write_step(self, plans: Iterable[TablePlan]) -> int:
        """As `write`, in a transaction that has written before; where it fails, only this step is undone."""
        stages, filled = dict(self._stages), set(self._filled)
        try:
            with self._connection.transaction():
                return self._write(plans)
        except psycopg.Error:
            self._stages, self._filled = stages, filled  # what was made meanwhile went with the savepoint
            raise

    def write(self, plans: Iterable[TablePlan]) -> int:
        """Carry out the plans; returns how many rows were written.

        Where foreign keys are checked, rows are written behind those that they reference, and what is referenced is
        deleted last, when no row references it any more.
        Raises RecordError where a table is missing or a row that must be there is not, and psycopg.Error for
        what the database refuses.
        """
        self._filled.clear()
        self._written += 1
        return self._write(plans)

    def _write(self, plans: Iterable[TablePlan]) -> int:
        works = {plan.table.id: self._work(plan) for plan in plans}
        order = list(works.values())
        late: set[TableId] = set()
        if self._ordered:
            self._run(sql.SQL("SET CONSTRAINTS ALL DEFERRED"))
            order = [works[table] for table in parents_first(works, self._constraints)]
            late = {work.target.id for work in order if self._is_deleted_last(work)}
        soon = [work for work in reversed(order) if work.target.id not in late]
        for work in soon:
            self._empty(work)
        count = sum(map(self._delete, soon)) + sum(map(self._put, order))
        return count + sum(self._delete_last(work) for work in reversed(order) if work.target.id in late)

    def forget(self, schemas: Iterable[str]) -> None:
        """Read the tables of these schemas again: they were changed."""
        gone = set(schemas)
        self._texts.clear()
        self._targets = {id_: table for id_, table in self._targets.items() if id_.schema not in gone}
        self._constraints = {id_: found for id_, found in self._constraints.items() if id_.schema not in gone}
        for key in [key for key in self._stages if key[1].schema in gone]:
            self._connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("pg_temp", self._stages.pop(key))))

    def _work(self, plan: TablePlan) -> _Work:
        """What is to be done to a table, with all that has to be read before anything is written."""
        target = self._target(plan.table)
        moved = [self._fetched(target, moves) for moves in plan.moves]
        upserts = joined([*plan.upserts, *moved])
        return _Work(target, plan.truncate, plan.deletes, upserts, plan.updates, plan.removes, plan.inserts)

    def _is_deleted_last(self, work: _Work) -> bool:
        """True where rows are referenced; not where a key may be another text of one that is written.

        Nor where a row that is written behind TRUNCATE could keep a value from before, nor where rows have no key.
        """
        known = self._constraints.get(work.target.id, NONE)
        columns = {column.name for column in work.target.stored_columns}
        is_whole = all(columns.issubset(rows.columns) for rows in work.upserts) and not work.updates
        is_told = not work.target.is_keyless and statements.has_one_text(work.target)
        return known.referenced and is_told and (is_whole or not work.truncate)

    def _empty(self, work: _Work) -> None:
        if work.truncate:
            self._refuse_to_act(work, _no_keys(work.target), others=True)
            referenced = self._constraints.get(work.target.id, NONE).referenced
            self._run(statements.truncate(work.target, referenced=referenced))

    def _delete(self, work: _Work) -> int:
        if work.removes is not None:
            self._refuse_to_act(work, work.removes, others=False)
            return self._remove(work.target, work.removes)
        if work.deletes is None:
            return 0
        self._refuse_to_act(work, work.deletes, others=False)
        return self._execute(statements.delete, work.target, work.deletes)

    def _remove(self, target: Table, rows: Rows) -> int:
        """Delete rows without a key, each of which must be there."""
        found = self._execute(statements.remove, target, rows)
        if found != rows.count:
            raise rows_to_remove_missing(target, rows.count - found)
        return found

    def _delete_last(self, work: _Work) -> int:
        """Delete what rows referenced until now; behind TRUNCATE all that was not written again."""
        if not work.truncate:
            return self._delete(work)
        self._refuse_to_act(work, _keys(work), others=True)
        self._execute(statements.delete_others, work.target, _keys(work))
        return 0

    def _refuse_to_act(self, work: _Work, keys: Rows, *, others: bool) -> None:
        """Raises ReferencedError where deleting these rows, or all others, would change rows with records of their own.

        Those may be ahead: the row that they reference was deleted on the source, and made again before they came.
        """
        acting = self._constraints.get(work.target.id, NONE).acting if self._ordered else ()
        for foreign in sorted(one for one in acting if one.child in self._replicated):

            def referencing(target: Table, columns: Sequence[str], source: sql.Composable) -> sql.Composed:
                rows = statements.chosen(target, columns, source, others=others)
                return statements.referencing(target, foreign, rows)  # noqa: B023 - called at once

            self._run(statements.lock(work.target))
            if self._execute(referencing, work.target, keys):
                raise _referenced(work.target, foreign.child)

    def _put(self, work: _Work) -> int:
        if work.inserts is not None:
            return self._execute(statements.insert, work.target, work.inserts)
        known = self._constraints.get(work.target.id, NONE)
        if not known.unique or not (work.upserts or work.updates):
            return self._upsert(work)
        stages = dict(self._stages)
        try:
            with self._connection.transaction():
                return self._upsert(work)
        except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation):
            if self._ordered and known.acting:
                raise
        self._stages = stages  # what was made meanwhile went with the savepoint
        return self._replace(work)

    def _upsert(self, work: _Work) -> int:
        written = sum(self._write_whole(work.target, rows) for rows in work.upserts)
        for rows in work.updates:
            found = self._execute(statements.update, work.target, rows)
            if found != rows.count:
                raise _rows_missing(work.target, rows.count - found)
            written += found
        return written

    def _write_whole(self, target: Table, rows: Rows) -> int:
        """Upsert rows. Where none of them should be there they are first only copied, which costs half."""
        if not rows.fresh or rows.count <= UNNEST_ROWS_MAX or self._written < self._copies_from.get(target.id, 0):
            return self._execute(statements.upsert, target, rows)
        copy = statements.copy_rows(target, rows.columns)
        self._tell(copy, rows.values)
        try:
            with self._connection.transaction():
                return self._copy(copy, rows)
        except _NOT_COPIED:
            self._copies_from[target.id] = self._written + _COPIES_AGAIN_AFTER
        return self._execute(statements.upsert, target, rows)

    def _replace(self, work: _Work) -> int:
        """Write rows among which a unique value moves: whole, after those that are there under their keys are gone."""
        known = [dataclasses.replace(rows, fresh=False) for rows in work.upserts]
        groups = joined([*known, *(self._completed(work.target, rows) for rows in work.updates)])
        if work.truncate:
            self._execute(statements.delete_others, work.target, _keys(work))
        if work.deletes is not None:
            self._execute(statements.delete, work.target, work.deletes)
        if len(groups) > 1:  # their columns differ, so that one statement cannot write them all
            for rows in groups:
                self._execute(statements.delete, work.target, rows.only(work.target.primary_key))
        return sum(self._execute(statements.replace, work.target, rows) for rows in groups)

    def _completed(self, target: Table, rows: Rows) -> Rows:
        """Rows that lack values, whole: what did not travel is on the replica."""
        lacking = tuple(c.name for c in target.stored_columns if c.name not in rows.columns)
        return self._fetched(target, Moves(rows, lacking, rows.only(target.primary_key)))

    def _fetched(self, target: Table, moves: Moves) -> Rows:
        """Rows that change their key, whole: what did not travel is read from where the replica still has it."""
        query = statements.fetch(target, moves.origins.columns, moves.lacking)
        found = self._run(query, moves.origins.values).fetchall()
        if len(found) != moves.rows.count:
            raise _rows_missing(target, moves.rows.count - len(found))
        values = [list(column) for column in zip(*found, strict=True)]
        return Rows((*moves.rows.columns, *moves.lacking), [*moves.rows.values, *values])

    def _execute(self, statement: _Statement, target: Table, rows: Rows) -> int:
        if rows.count <= UNNEST_ROWS_MAX:
            return self._run(self._unnested(statement, target, rows.columns), rows.values).rowcount
        stage = self._stage(statement, target, rows.columns)
        fill = statements.copy_into(stage)
        self._tell(fill, rows.values)
        self._copy(fill, rows)
        query = statement(target, rows.columns, statements.staged(stage))
        if statement in _BY_KEY:
            return self._run_by_index(query)
        return self._run(query).rowcount

    def _unnested(self, statement: _Statement, target: Table, columns: tuple[str, ...]) -> sql.Composed | sql.SQL:
        """The statement on rows that come as arrays. Its text is kept: a small batch would spend its time on it."""
        key = statement, target.id, columns
        kept = self._texts.get(key)
        if kept is None:
            made = statement(target, columns, statements.unnested(target, columns))
            if statement not in _KEPT:
                return made
            kept = self._texts[key] = sql.SQL(made.as_string(self._connection))
        return kept

    def _run_by_index(self, query: sql.Composed) -> int:
        """Find a table's rows by their index, in the round trip of the statement itself."""
        cursor = self._run(statements.by_index(query))
        counts = [cursor.rowcount]
        while cursor.nextset():
            counts.append(cursor.rowcount)
        return max(counts)  # the settings around it count none

    def _copy(self, query: sql.Composed, rows: Rows) -> int:
        with self._connection.cursor() as cursor:
            with cursor.copy(query) as copy:
                copy.write(rows.copy_text)
            return cursor.rowcount

    def _run(
        self, query: sql.SQL | sql.Composed, parameters: Sequence[Sequence[str | None]] = ()
    ) -> psycopg.RawCursor[TupleRow]:
        self._tell(query, parameters)
        return psycopg.RawCursor(self._connection).execute(query, parameters or None)

    def _stage(self, statement: _Statement, target: Table, columns: tuple[str, ...]) -> str:
        """A temporary table for these columns, empty: COMMIT empties it, and so does who uses it again before."""
        key = (statement.__name__, target.id, columns)
        stage = self._stages.get(key)
        if stage is None:
            if len(self._stages) >= _STAGES_MAX:
                oldest = self._stages.pop(next(iter(self._stages)))
                self._connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("pg_temp", oldest)))
            self._made += 1
            stage = self._stages[key] = f"stage_{self._made}"
            self._run(statements.create_stage(stage, target, columns))
        elif stage in self._filled:
            self._connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier("pg_temp", stage)))
        self._filled.add(stage)
        return stage

    def _target(self, table: Table) -> Table:
        """The replica's table of this name, which must have the columns and the key of the source's."""
        known = self._targets.get(table.id)
        if known is None or misfit(table, known) is not None:
            # Not looked at yet, or changed since by another worker or by its operator.
            self.forget([table.schema])
            self._targets.update({t.id: t for t in describe_tables(self._connection, [table.schema])})
            self._constraints.update(constraints.load(self._connection, [table.schema]))
            self._replicated = catalog.replicated(self._connection)
            known = self._targets.get(table.id)
        if known is None:
            raise table_missing(table)
        error = misfit(table, known)
        if error is not None:
            raise error
        return known


def _keys(work: _Work) -> Rows:
    """The keys of the rows that are written whole."""
    found = joined(rows.only(work.target.primary_key) for rows in work.upserts)
    return found[0] if found else _no_keys(work.target)


def _no_keys(target: Table) -> Rows:
    columns = target.primary_key or tuple(column.name for column in target.stored_columns)
    return Rows(columns, [[] for _ in columns])


def _referenced(target: Table, child: TableId) -> ReferencedError:
    return ReferencedError(
        f"Rows of {target.id} were deleted on the source that rows of {child} reference on the replica.",
        remedy=f"It goes on once the records of {child} have come; to let them pass, drop the foreign key.",
    )


def _rows_missing(target: Table, count: int) -> RowError:
    return RowError(
        f"{count} rows of {target.id} are not on the replica, and the records that change them do not carry "
        "all of their values: PostgreSQL leaves unchanged large values out.",
        remedy=f"Something removed rows of {target.id} from the replica. Read the table again from the source.",
    )
