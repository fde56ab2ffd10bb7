"""A type as SQL that is safe to execute, although its description came through Kafka."""

from __future__ import annotations

import re

from psycopg import sql

from deltasync.errors import RefusedError
from deltasync.table import Attribute

# What format_type prints for built-in types: words, a modifier, a time zone, array brackets.
_BUILT_IN = re.compile(r'"?[a-z][a-z0-9_ ]*"?(\(\d+(,-?\d+)?\))?( with(out)? time zone)?(\[\])*')
# The modifier of any other type, behind its name; a name in quotes ends in a quote.
_MODIFIER = re.compile(r"\(\d+(,-?\d+)*\)(?=(\[\])?$)")


def type_sql(attribute: Attribute) -> sql.Composable:
    """The type of a column or of another type's part, for CREATE and casts.

    Raises RefusedError for a text that no built-in type has: descriptions are data, never SQL.
    """
    if attribute.type.schema == "pg_catalog":
        if _BUILT_IN.fullmatch(attribute.sql_type):
            return sql.SQL(attribute.sql_type)  # checked just above: it is data no longer
        raise RefusedError(
            f"The type of the column {attribute.name} is not one that PostgreSQL prints: {attribute.sql_type!r}.",
            remedy="See what wrote to the topic of deltasync.schema_log: only Debezium may.",
        )
    named = attribute.element or attribute.type
    modifier = _MODIFIER.search(attribute.sql_type)
    text = (modifier[0] if modifier else "") + ("[]" if attribute.element else "")
    return sql.Identifier(named.schema, named.name) + sql.SQL(text)  # digits and brackets
