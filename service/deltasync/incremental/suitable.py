"""Which tables an incremental snapshot reads exactly, and what of the source would change that meanwhile."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import LiteralString, cast

import msgspec
import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from deltasync.errors import RefusedError
from deltasync.postgres.types import type_key
from deltasync.table import SourceTable, Table, TableId

# Keys by which Debezium was seen to read chunk by chunk, and whose bytes are the same in a read as in the stream: else
# it would not see that a row was changed while it was read. Infinite dates differ; by money, bits, times and timestamps
# it cannot read.
_KEYS = frozenset(
    {"int2", "int4", "int8", "uuid", "text", "varchar", "bpchar", "bytea", "bool", "numeric", "inet", "enum"}
)
# Debezium takes names for regular expressions.
_PLAIN = re.compile(r"\w+\.\w+", re.ASCII)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
# The driver's dates have another calendar before this day. The initial snapshot has statements of its own for them.
_OLD = "({0} > '-infinity' AND {0} < '1582-10-15')"
_RESYNC = "Have it read exactly, whole: deltasync resync {}"


def obstacles(table: Table, known: SourceTable | None) -> str:
    """Why an incremental snapshot would not be exact, or not be applied; "" where it would. Pure."""
    kinds = {column.name: type_key(column) for column in table.columns}
    unread = [f"{name} {kinds[name]}" for name in table.primary_key if kinds[name] not in _KEYS]
    if known is None or not known.captured:
        return "the replica does not know yet that it is captured"
    if known.held is not None:
        return f"it is held: {known.held}"
    if table.is_told_by_rows:
        return "it has no primary key, by which Debezium reads chunk by chunk"
    if unread:
        return f"Debezium does not read exactly by a key of such a type ({', '.join(unread)})"
    if table.skipped_columns:
        return "it has columns that are left alone"
    if not _PLAIN.fullmatch(str(table.id)):
        return "Debezium would take its name for a pattern"
    return ""


def refuse(tables: Iterable[Table], known: Mapping[TableId, SourceTable]) -> None:
    """Raises RefusedError with every table that cannot be read so, and why."""
    problems = {table.id: why for table in tables if (why := obstacles(table, known.get(table.id)))}
    if problems:
        raise RefusedError(
            f"Debezium cannot read this exactly among changes: {_listed(problems)}.",
            remedy=_RESYNC.format(" ".join(map(str, problems))),
        )


def _listed(problems: Mapping[TableId, str]) -> str:
    return "; ".join(f"{table}: {why}" for table, why in problems.items())


def refuse_condition(source: Connection[TupleRow], tables: Iterable[TableId], where: str) -> None:
    """Raises RefusedError for a condition that the source does not take. It is planned there, not evaluated."""
    if not where.strip():
        raise RefusedError("The condition of --where is empty.", remedy="Leave --where out to read all rows.")
    if "?" in _QUOTED.sub("", where):
        raise RefusedError(
            "The condition of --where has a ?, which Debezium's driver takes for a parameter.",
            remedy="Use the operator's function: jsonb_exists(data, 'a') for data ? 'a'.",
        )
    for table in tables:
        try:
            with source.transaction():
                # Prepared: the source takes one statement then, and no more.
                source.execute(sql.SQL("EXPLAIN ") + _rows(table, where), prepare=True)
        except psycopg.Error as error:
            why = (error.diag.message_primary or type(error).__name__).rstrip(".")
            raise RefusedError(
                f"The source refuses --where for {table}: {why}.", remedy="Correct it: it is SQL behind WHERE."
            ) from None


def wrapped(where: str) -> str:
    """The condition as it stands between others: on lines of its own, so that no comment reaches out of it."""
    return f"({where}\n)"


def _rows(table: TableId, where: str | None, also: str = "true") -> sql.Composed:
    condition = f"{wrapped(where)} AND ({also})" if where else also
    text = cast("LiteralString", condition.replace("{", "{{").replace("}", "}}"))  # type: ignore[redundant-cast]
    return sql.SQL("SELECT FROM {} WHERE ").format(sql.Identifier(*table)) + sql.SQL(text).format()


def old_dates(source: Connection[TupleRow], tables: Iterable[Table], where: str | None) -> list[TableId]:
    """Tables with dates that an incremental snapshot shifts, among the rows that are asked for. Reads all of these."""
    found = []
    for table in tables:
        dates = [column.name for column in table.stored_columns if type_key(column) == "date"]
        named = (sql.Identifier(*table.id, name).as_string(None) for name in dates)
        also = " OR ".join(map(_OLD.format, named))
        query = sql.SQL("SELECT EXISTS ({})").format(_rows(table.id, where, also))
        row = source.execute(query).fetchone() if dates else None
        if row is not None and row[0]:
            found.append(table.id)
    return found


def refuse_large(source: Connection[TupleRow], tables: Iterable[Table]) -> None:
    """Raises RefusedError for tables with values out of line that do not travel where they did not change.

    A row that is changed while it is read is left to the stream, which would leave such a value as the replica has it.
    """
    found = [str(table.id) for table in tables if _files(source, table)[1]]
    if found:
        raise RefusedError(
            f"Large values of {', '.join(found)} do not travel where they did not change: rows that are changed while "
            "they are read would keep what the replica has of them.",
            remedy=f"{_RESYNC.format(' '.join(found))}. Or give it REPLICA IDENTITY FULL: then they travel.",
        )


def shape(source: Connection[TupleRow], table: Table) -> str:
    """A hash: another one once the table was truncated or written anew, its columns changed, or large values came."""
    told = f"{_files(source, table)} {msgspec.json.encode(table).decode()}"
    return hashlib.sha256(told.encode()).hexdigest()


def _files(source: Connection[TupleRow], table: Table) -> tuple[str, bool]:
    """The files in which the table and its partitions lie, and whether values are out of line that may not travel."""
    query = """
        SELECT coalesce(string_agg(format('%%s:%%s', c.oid, pg_relation_filenode(c.oid)), ',' ORDER BY c.oid), ''),
               coalesce(bool_or(c.relreplident <> 'f' AND pg_relation_size(nullif(c.reltoastrelid, 0)) > 0), false)
          FROM pg_class c
         WHERE c.oid = %(table)s::regclass
            OR c.oid IN (SELECT relid FROM pg_partition_tree(%(table)s::regclass))
    """
    row = source.execute(query, {"table": table.id.sql}).fetchone()
    return (row[0], row[1]) if row else ("", False)
