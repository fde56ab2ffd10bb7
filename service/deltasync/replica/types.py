"""Makes the types that a table needs on the replica: extensions, enums, domains, composites, ranges."""

from __future__ import annotations

import psycopg
import structlog

from deltasync.replica import ddl
from deltasync.table import Table, TypeDefinition

log = structlog.get_logger(__name__)


def fit(connection: psycopg.Connection, table: Table) -> str | None:
    """Make what is missing of a table's types, in the caller's transaction, and add the labels that enums lack.

    Returns why the replica cannot have them, in words; None where it has them all. Whether those that were
    there are the source's is for `difference` to say.
    """
    for schema in dict.fromkeys((table.schema, *(type_.schema for type_ in table.types))):
        ddl.execute(connection, ddl.create_schema(schema))
    for type_ in table.types:
        if type_.kind == "x":
            if not make_extension(connection, type_):
                return f"it needs an extension, which the replica's role may not make: {_statement(type_)}"
        elif not _exists(connection, type_):
            ddl.execute(connection, ddl.create_type(type_))
            log.info("type created", type=f"{type_.schema}.{type_.name}")
        elif type_.kind == "e":
            for statement in ddl.add_labels(type_, _labels(connection, type_)):
                ddl.execute(connection, statement)
    return None


def make_extension(connection: psycopg.Connection, type_: TypeDefinition) -> bool:
    """Whether a type of an extension is there, once its extension was made where the role may."""
    if _exists(connection, type_):
        return True
    try:
        with connection.transaction():
            ddl.execute(connection, ddl.create_schema(type_.schema))
            ddl.execute(connection, ddl.create_extension(type_))
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
        return False
    log.info("extension created", extension=type_.extension)
    return _exists(connection, type_)  # it may have been there in another schema


def difference(existing: Table, table: Table) -> str | None:
    """Which type of the replica's table is another one than on the source, in words; more labels are no matter."""
    known = {(type_.schema, type_.name): type_ for type_ in existing.types}
    for type_ in table.types:
        found = known.get((type_.schema, type_.name))
        if found is not None and (found.kind, found.attributes) != (type_.kind, type_.attributes):
            return f"the type {type_.schema}.{type_.name} is another one on the replica than on the source"
    return None


def _statement(type_: TypeDefinition) -> str:
    return ddl.create_extension(type_).as_string(None)


def _exists(connection: psycopg.Connection, type_: TypeDefinition) -> bool:
    query = """SELECT FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
                WHERE n.nspname = %s AND t.typname = %s"""
    return connection.execute(query, [type_.schema, type_.name]).fetchone() is not None


def _labels(connection: psycopg.Connection, type_: TypeDefinition) -> list[str]:
    rows = connection.execute(
        """SELECT e.enumlabel FROM pg_catalog.pg_enum e JOIN pg_catalog.pg_type t ON t.oid = e.enumtypid
           JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
           WHERE n.nspname = %s AND t.typname = %s ORDER BY e.enumsortorder""",
        [type_.schema, type_.name],
    )
    return [label for (label,) in rows]
