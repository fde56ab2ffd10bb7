"""Source and replica, compared row by row: every captured table, generated columns included."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection, Copy, IsolationLevel, sql

from deltasync.errors import RefusedError
from deltasync.postgres.catalog import describe_tables
from deltasync.postgres.connect import connect
from deltasync.table import Table, TableId
from deltasync.verify.merge import Tally, merge

# A comparison of large tables may leave one side waiting for the other; sorting 64 MB in memory is enough for
# the tables of a demo, and larger ones are sorted on the server's disk.
_SESSION = {"idle_in_transaction_session_timeout": "0", "work_mem": "64MB"}


class How(NamedTuple):
    """`skip` marks columns that are left alone on the replica: they are passed over, and named. `only` chooses tables.

    `settle` is called between the snapshots of source and replica.
    """

    skip: Callable[[Iterable[Table]], Iterable[Table]] = lambda tables: tables
    only: Collection[TableId] | None = None
    settle: Callable[[], None] = lambda: None


_ALL = How()


class TableComparison(msgspec.Struct, frozen=True):
    """What differs of one table. `missing` and `extra` are rows of the replica; `columns` those with differing values.

    `structure` says in sentences what differs about the table itself. No values, and no keys: they are values too.
    `skipped` are columns that were not compared, since they are left alone on the replica.
    """

    table: str
    source_rows: int = 0
    replica_rows: int = 0
    equal: int = 0
    differing: int = 0
    missing: int = 0
    extra: int = 0
    columns: list[str] = []
    structure: list[str] = []
    skipped: list[str] = []

    @property
    def is_equal(self) -> bool:
        return not (self.differing or self.missing or self.extra or self.structure)

    def __str__(self) -> str:
        counts = {"differing": self.differing, "missing": self.missing, "extra": self.extra}
        found = [f"{count} rows {what}" for what, count in counts.items() if count]
        found += [f"values of {', '.join(self.columns)}"] if self.columns else []
        passed_over = f" (passed over: {', '.join(self.skipped)})" if self.skipped else ""
        return f"{self.table}: {'; '.join([*found, *self.structure]) or 'equal'}{passed_over}"


def compare(
    source: str,
    replica: str,
    *,
    schemas: Sequence[str],
    publication: str,
    how: How = _ALL,
) -> Iterator[TableComparison]:
    """Compare every table of these schemas that the publication captures, by name; on each side in one snapshot.

    A table that only the replica has is a difference too, unless tables are chosen. What is in flight counts as
    different: let everything be applied before, or have `settle` wait for it. Blocks while rows are read; memory does
    not grow with the tables. Raises RefusedError where nothing is captured, UnreachableError where a side does not
    answer.
    """
    with _snapshot(source) as ours, _snapshot(replica) as theirs:
        found = describe_tables(ours, schemas)
        here = {table.id: table for table in how.skip(found)}
        how.settle()
        there = {table.id: table for table in describe_tables(theirs, schemas)}
        published = captured(ours, publication)
        wanted = sorted(id_ for id_ in here if id_ in published and (how.only is None or id_ in how.only))
        if not wanted:
            raise RefusedError(
                f"The publication {publication} captures no table of the schemas {', '.join(schemas)}.",
                remedy="Set source.schemas to the captured schemas, and run `deltasync source setup`.",
            )
        for id_ in wanted:
            yield _compare(ours, theirs, here[id_], there.get(id_))
        for id_ in sorted(there.keys() - here.keys()) if how.only is None else ():
            yield TableComparison(str(id_), structure=["the source has no such table"])


@contextmanager
def _snapshot(conninfo: str) -> Iterator[Connection[Any]]:
    with connect(conninfo, name="compare", session=_SESSION) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield connection


def captured(source: Connection[Any], publication: str) -> set[TableId]:
    """The tables of a publication, deltasync's own included."""
    query = "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = %s"
    return {TableId(*row) for row in source.execute(query, [publication])}


def _compare(source: Connection[Any], replica: Connection[Any], ours: Table, theirs: Table | None) -> TableComparison:
    if theirs is None:
        return TableComparison(str(ours.id), structure=["the replica has no such table"])
    shared = [column.name for column in ours.columns if theirs.column(column.name) and not column.skipped]
    query = _query(ours, shared)
    keys = len(ours.primary_key) or 1
    with source.cursor() as one, replica.cursor() as other, one.copy(query) as left, other.copy(query) as right:
        tally = merge(_rows(left), _rows(right), keys, shared)
    return _result(ours, tally, _structure(ours, theirs))


def _result(table: Table, tally: Tally, structure: list[str]) -> TableComparison:
    return TableComparison(
        table=str(table.id),
        source_rows=tally.equal + tally.differing + tally.missing,
        replica_rows=tally.equal + tally.differing + tally.extra,
        equal=tally.equal,
        differing=tally.differing,
        missing=tally.missing,
        extra=tally.extra,
        columns=sorted(tally.columns),
        structure=structure,
        skipped=[column.name for column in table.skipped_columns],
    )


def _rows(copy: Copy) -> Iterator[bytes]:
    return map(bytes, copy)


def _query(table: Table, columns: Sequence[str]) -> sql.Composed:
    """The key as text, by which both servers sort alike whatever their locales, then every column as it is printed."""
    values = [sql.Identifier(name) for name in columns]
    # Without a primary key, the whole row is its own key.
    keys = [sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.primary_key] or [
        sql.SQL("ROW({})::text").format(sql.SQL(", ").join(values))
    ]
    return sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT").format(
        sql.SQL(", ").join([*keys, *values]),
        sql.Identifier(*table.id),
        sql.SQL(", ").join(sql.SQL('{} COLLATE "C"').format(key) for key in keys),
    )


def _structure(ours: Table, theirs: Table) -> list[str]:
    columns = [column for column in ours.columns if not column.skipped]
    found = [f"the replica has no column {column.name}" for column in columns if not theirs.column(column.name)]
    found += [f"the source has no column {column.name}" for column in theirs.columns if not ours.column(column.name)]
    for column in columns:
        other = theirs.column(column.name)
        if other is not None and other.sql_type != column.sql_type:
            found.append(f"column {column.name} is {column.sql_type} on the source, {other.sql_type} on the replica")
    if ours.primary_key != theirs.primary_key:
        found.append("the primary keys differ")
    return found
