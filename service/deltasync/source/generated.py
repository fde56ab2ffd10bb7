"""What a connector sets because of the tables that there are: read from the source's catalog when it is planned."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from psycopg import sql

from deltasync.postgres.catalog import describe_tables
from deltasync.postgres.connect import connect
from deltasync.postgres.types import skipping, type_key
from deltasync.settings import Settings
from deltasync.source.snapshot import pattern
from deltasync.table import Column, Table

EXCLUDED_COLUMNS = "column.exclude.list"
OVERRIDES = "snapshot.select.statement.overrides"

# The driver's dates have another calendar before 1582-10-15. As a number of days since 1970 a date passes it by; these
# two are what Debezium's stream has for the infinite ones.
_DAYS = "CASE {0} WHEN 'infinity' THEN 2146033979 WHEN '-infinity' THEN -2147472691 ELSE {0} - date '1970-01-01' END"
# Debezium splits its list of tables by commas, and their names by dots; it takes quotes off.
_NOT_TO_BE_NAMED = re.compile(r"""[,."'`\\\[\]]|^\s|\s$""")


def generated(settings: Settings) -> dict[str, str]:
    """Settings by name; none where [source] dsn is not set. Blocks for some queries of the catalog."""
    if settings.source.dsn is None:
        return {}
    with connect(settings.source.conninfo() or "", name="connectors") as source:
        found = describe_tables(source, settings.source.schemas)
        query = "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = %s"
        published = set(source.execute(query, [settings.publication]).fetchall())
    marked = skipping(found, settings.skipping, raw_text=settings.connect.raw_text)
    tables = [table for table in marked if tuple(table.id) in published]
    return {**excluded_columns(tables), **date_overrides(tables)}


def excluded_columns(tables: Iterable[Table]) -> dict[str, str]:
    """Skipped columns are not to be read at all: Debezium stops at some of their values."""
    names = [pattern(f"{table.id}.{column.name}") for table in tables for column in table.skipped_columns]
    return {EXCLUDED_COLUMNS: ",".join(names)} if names else {}


def date_overrides(tables: Iterable[Table]) -> dict[str, str]:
    """How the initial snapshot reads each table that has dates, so that they all arrive as they are."""
    found = {str(table.id): _override(table) for table in tables if is_overridden(table)}
    if not found:
        return {}
    return {OVERRIDES: ",".join(found), **{f"{OVERRIDES}.{name}": select for name, select in found.items()}}


def is_overridden(table: Table) -> bool:
    """True where the snapshot of this table needs a statement of its own, and its name can be told to Debezium."""
    return any(_dates(table)) and not any(map(_NOT_TO_BE_NAMED.search, table.id))


def _dates(table: Table) -> Iterator[Column]:
    return (column for column in table.stored_columns if type_key(column) == "date")


def _override(table: Table) -> str:
    """All columns, and the dates once more: of two of one name Debezium takes the latter.

    So columns that are new by then come as well.
    """
    names = [sql.SQL("t.{}").format(sql.Identifier(column.name)) for column in table.columns if not column.skipped]
    everything = sql.SQL(", ").join(names) if table.skipped_columns else sql.SQL("t.*")
    days = [
        sql.SQL("{} AS {}").format(
            sql.SQL(_DAYS).format(sql.SQL("t.{}").format(sql.Identifier(column.name))), sql.Identifier(column.name)
        )
        for column in _dates(table)
    ]
    selected = sql.SQL(", ").join([everything, *days])
    return sql.SQL("SELECT {} FROM {} t").format(selected, sql.Identifier(*table.id)).as_string(None)
