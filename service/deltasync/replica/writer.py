"""Carries out table plans on one connection, inside the transaction that the caller holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import psycopg
from psycopg import sql

from deltasync.debezium.rows import Rows
from deltasync.errors import RecordError
from deltasync.plan import Moves, TablePlan
from deltasync.postgres.catalog import describe_tables
from deltasync.postgres.copy_text import copy_text
from deltasync.replica import statements
from deltasync.table import Column, Table, TableId

# Up to here one round trip with arrays is faster than filling a temporary table.
UNNEST_ROWS_MAX = 500
# Temporary tables are emptied one by one at each COMMIT: more of them would cost more than making one anew.
_STAGES_MAX = 64

_WIDER = {"int2": ("int4", "int8", "numeric"), "int4": ("int8", "numeric"), "int8": ("numeric",), "float4": ("float8",)}
_ANY_TEXT = frozenset({"text", "varchar"})
# Without a length these hold one character, or bit.
_BOUNDED = frozenset({"bpchar", "bit"})

# Makes the statement that writes the rows of a source (a FROM item) with these columns.
_Statement = Callable[[Table, Sequence[str], sql.Composable], sql.Composed]


class Writer:
    """Writes rows; remembers the replica's tables and the temporary tables of its connection.

    After a failed transaction make a new one with a new connection: what it remembers may be gone.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._targets: dict[TableId, Table] = {}
        self._stages: dict[tuple[str, TableId, tuple[str, ...]], str] = {}
        self._made = 0

    def write(self, plans: Iterable[TablePlan]) -> int:
        """Carry out the plans in order; returns how many rows were written.

        Raises RecordError where a table is missing or a row that must be there is not, and
        psycopg.Error for what the database refuses.
        """
        return sum(self._write(plan) for plan in plans)

    def forget(self, schemas: Iterable[str]) -> None:
        """Read the tables of these schemas again: they were changed."""
        gone = set(schemas)
        self._targets = {id_: table for id_, table in self._targets.items() if id_.schema not in gone}
        for key in [key for key in self._stages if key[1].schema in gone]:
            self._connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("pg_temp", self._stages.pop(key))))

    def _write(self, plan: TablePlan) -> int:
        target = self._target(plan.table)
        moved = [self._fetched(target, moves) for moves in plan.moves]
        written = 0
        if plan.truncate:
            self._connection.execute(statements.truncate(target))
        if plan.deletes is not None:
            written += self._execute(statements.delete, target, plan.deletes)
        for rows in (*plan.upserts, *moved):
            written += self._execute(statements.upsert, target, rows)
        for rows in plan.updates:
            found = self._execute(statements.update, target, rows)
            if found != rows.count:
                raise _rows_missing(target, rows.count - found)
            written += found
        return written

    def _fetched(self, target: Table, moves: Moves) -> Rows:
        """Rows that change their key, whole: what did not travel is read from where the replica still has it."""
        query = statements.fetch(target, moves.origins.columns, moves.lacking)
        found = self._connection.execute(query, moves.origins.values).fetchall()
        if len(found) != moves.rows.count:
            raise _rows_missing(target, moves.rows.count - len(found))
        values = [list(column) for column in zip(*found, strict=True)]
        return Rows((*moves.rows.columns, *moves.lacking), [*moves.rows.values, *values])

    def _execute(self, statement: _Statement, target: Table, rows: Rows) -> int:
        if rows.count <= UNNEST_ROWS_MAX:
            source = statements.unnested(target, rows.columns)
            return self._connection.execute(statement(target, rows.columns, source), rows.values).rowcount
        stage = self._stage(statement, target, rows.columns)
        with self._connection.cursor() as cursor:
            with cursor.copy(statements.copy_into(stage)) as copy:
                copy.write(copy_text(rows.values))
            return cursor.execute(statement(target, rows.columns, statements.staged(stage))).rowcount

    def _stage(self, statement: _Statement, target: Table, columns: tuple[str, ...]) -> str:
        """A temporary table for these columns, empty: a transaction uses it once, and COMMIT empties it."""
        key = (statement.__name__, target.id, columns)
        stage = self._stages.get(key)
        if stage is None:
            if len(self._stages) >= _STAGES_MAX:
                oldest = self._stages.pop(next(iter(self._stages)))
                self._connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("pg_temp", oldest)))
            self._made += 1
            stage = self._stages[key] = f"stage_{self._made}"
            self._connection.execute(statements.create_stage(stage, target, columns))
        return stage

    def _target(self, table: Table) -> Table:
        """The replica's table of this name, which must have the columns and the key of the source's."""
        known = self._targets.get(table.id)
        if known is None or _misfit(table, known) is not None:
            # Not looked at yet, or changed since by another worker or by its operator.
            self.forget([table.schema])
            self._targets.update({t.id: t for t in describe_tables(self._connection, [table.schema])})
            known = self._targets.get(table.id)
        if known is None:
            raise _table_missing(table)
        misfit = _misfit(table, known)
        if misfit is not None:
            raise misfit
        return known


def _misfit(table: Table, known: Table) -> RecordError | None:
    lacking = [c.name for c in table.stored_columns if known.column(c.name) is None]
    if lacking:
        return _columns_missing(table, lacking)
    narrower = [c for c in table.stored_columns if not _holds(known.column(c.name), c)]
    if narrower:
        return _narrower(table, narrower)
    return None if set(known.primary_key) == set(table.primary_key) else _other_key(table, known)


def _holds(found: Column | None, column: Column) -> bool:
    """True if the replica's column holds every value of the source's: a narrower one would round or cut in silence."""
    if found is None or found.sql_type == column.sql_type:
        return found is not None
    unbounded = "(" not in found.sql_type and found.type.name not in _BOUNDED
    if unbounded and found.type.name in _ANY_TEXT:
        return True
    return found.type.name in _WIDER.get(column.type.name, ()) or (found.type == column.type and unbounded)


def _narrower(table: Table, columns: Sequence[Column]) -> RecordError:
    named = ", ".join(f"{column.name} {column.sql_type}" for column in columns)
    return RecordError(
        f"The replica's table {table.id} cannot hold every value of the source's columns: {named}.",
        remedy="Give its columns the source's types on the replica.",
    )


def _table_missing(table: Table) -> RecordError:
    return RecordError(
        f"The table {table.id} does not exist on the replica.",
        remedy="Run deltasync replica setup: it creates what is missing.",
    )


def _columns_missing(table: Table, names: Sequence[str]) -> RecordError:
    return RecordError(
        f"The replica's table {table.id} lacks the column {', '.join(names)}.",
        remedy="Add it on the replica with the source's type, or run deltasync replica setup.",
    )


def _other_key(table: Table, known: Table) -> RecordError:
    return RecordError(
        f"The primary key of {table.id} is ({', '.join(table.primary_key)}) on the source "
        f"and ({', '.join(known.primary_key)}) on the replica.",
        remedy="Give the replica's table the source's primary key.",
    )


def _rows_missing(target: Table, count: int) -> RecordError:
    return RecordError(
        f"{count} rows of {target.id} are not on the replica, and the records that change them do not carry "
        "all of their values: PostgreSQL leaves unchanged large values out.",
        remedy=f"Something removed rows of {target.id} from the replica. Read the table again from the source.",
    )
