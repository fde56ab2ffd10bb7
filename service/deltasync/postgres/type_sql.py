"""A column's type as SQL that is safe to execute, although its description came through Kafka."""

from __future__ import annotations

import re

from psycopg import sql

from deltasync.errors import RefusedError
from deltasync.table import Column

# What format_type prints for built-in types: words, a modifier, a time zone, array brackets.
_BUILT_IN = re.compile(r'"?[a-z][a-z0-9_ ]*"?(\(\d+(,-?\d+)?\))?( with(out)? time zone)?(\[\])*')


def type_sql(column: Column) -> sql.Composable:
    """The type of a column, for CREATE TABLE and casts.

    Raises RefusedError for a text that no built-in type has: descriptions are data, never SQL.
    """
    if column.type.schema == "pg_catalog":
        if _BUILT_IN.fullmatch(column.sql_type):
            return sql.SQL(column.sql_type)  # checked just above: it is data no longer
        raise RefusedError(
            f"The type of the column {column.name} is not one that PostgreSQL prints: {column.sql_type!r}.",
            remedy="See what wrote to the topic of deltasync.schema_log: only Debezium may.",
        )
    return sql.Identifier(column.type.schema, column.type.name)
