"""Indexes and constraints of tables as the statements that make them, as PostgreSQL itself tells them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
import psycopg
from psycopg import sql

from deltasync.replica import ddl
from deltasync.table import TableId

# A unique index that REPLICA IDENTITY names is the key of the replica's table, or is marked so there: it stays.
_FOUND = """
    SELECT n.nspname, c.relname, o.contype::text, o.conname,
           format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s',
                  o.conrelid::regclass, o.conname, pg_get_constraintdef(o.oid)),
           format('ALTER TABLE %%s DROP CONSTRAINT %%I', o.conrelid::regclass, o.conname)
      FROM pg_constraint o
      JOIN pg_class c ON c.oid = o.conrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[]))
       AND o.contype IN ('p', 'u', 'x', 'c', 'f') AND o.conparentid = 0
       AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = o.conindid AND i.indrelid = c.oid
                                                AND i.indisreplident AND c.relreplident = 'i')
    UNION ALL
    SELECT n.nspname, c.relname, 'i', x.relname, replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON '),
           format('DROP INDEX %%s', i.indexrelid::regclass)
      FROM pg_index i
      JOIN pg_class x ON x.oid = i.indexrelid
      JOIN pg_class c ON c.oid = i.indrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[]))
       AND i.indisvalid AND NOT (i.indisreplident AND c.relreplident = 'i')
       AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = i.indexrelid AND o.contype IN ('p', 'u', 'x'))
    ORDER BY 1, 2, 4
"""
_IS_THERE = """
    SELECT FROM pg_constraint o WHERE o.conrelid = %(table)s::regclass AND o.conname = %(name)s
    UNION ALL
    SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
     WHERE i.indrelid = %(table)s::regclass AND x.relname = %(name)s
"""


class Definition(msgspec.Struct, frozen=True):
    """An index (`i`) or a constraint (pg_constraint.contype) of a table, and the statements that make and drop it.

    The source's own are not `wanted`: a load that is given up does not leave them behind.
    """

    table: TableId
    kind: Literal["p", "u", "x", "c", "f", "i"]
    name: str
    make: str
    drop: str
    wanted: bool = True

    @property
    def is_foreign(self) -> bool:
        return self.kind == "f"


def found(connection: psycopg.Connection, tables: Iterable[TableId]) -> list[Definition]:
    """Those of these tables, primary keys and checks among them."""
    ids = sorted(tables)
    wanted = {"schemas": [id_.schema for id_ in ids], "names": [id_.name for id_ in ids]}
    rows = connection.execute(_FOUND, wanted)
    return [Definition(TableId(schema, name), *rest) for schema, name, *rest in rows]


def is_there(connection: psycopg.Connection, definition: Definition) -> bool:
    """Whether the table has one of that name."""
    values = {"table": definition.table.sql, "name": definition.name}
    return connection.execute(_IS_THERE, values).fetchone() is not None


def make(connection: psycopg.Connection, definition: Definition) -> None:
    """Make it. Foreign keys do not look at the rows that are there: tables may be of different moments yet."""
    text = definition.make
    if definition.is_foreign and not text.endswith((" NOT VALID", " NOT ENFORCED")):
        text += " NOT VALID"
    ddl.execute(connection, sql.SQL("{}").format(sql.SQL(text)))


def drop(connection: psycopg.Connection, definition: Definition) -> None:
    """Drop it; what depends on it is in the way."""
    ddl.execute(connection, sql.SQL("{}").format(sql.SQL(definition.drop)))
