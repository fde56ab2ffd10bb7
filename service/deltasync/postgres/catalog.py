"""The catalog of any PostgreSQL, source or replica, as the `Table`s that all stages share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from deltasync.table import Table, TableId


@cache
def describe_sql() -> sql.SQL:
    """The query that describes every table: oid, schema_name, table_name, description (jsonb).

    It names types as `search_path = pg_catalog` shows them, which `connect()` sets.
    """
    return sql.SQL(files("deltasync.source").joinpath("sql", "describe.sql").read_text(encoding="utf-8"))


def describe_tables(connection: Connection[TupleRow], schemas: Sequence[str]) -> list[Table]:
    """Every ordinary and partitioned table of these schemas, by name, partitions included; no temporary ones.

    Works on PostgreSQL 15 and later without any object of ours. Blocks for one query.
    """
    query = sql.SQL("""
        SELECT description::text FROM ({}) AS described
         WHERE schema_name = ANY(%s) ORDER BY schema_name, table_name
    """).format(describe_sql())
    return [Table.from_json(description) for (description,) in connection.execute(query, [list(schemas)])]


def describe_table(connection: Connection[TupleRow], id_: TableId) -> Table | None:
    """One table, None where there is none of that name. Blocks for one query."""
    query = sql.SQL("SELECT description::text FROM ({}) AS described WHERE (schema_name, table_name) = (%s, %s)")
    row = connection.execute(query.format(describe_sql()), id_).fetchone()
    return None if row is None else Table.from_json(row[0])
