"""What constrains the replica's tables beside their primary keys, read from its catalog."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import psycopg

from deltasync.table import TableId

_UNIQUE = """
    SELECT n.nspname, c.relname
      FROM pg_index i
      JOIN pg_class c ON c.oid = i.indrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = ANY(%s) AND NOT i.indisprimary AND (i.indisunique OR i.indisexclusion)
"""
_FOREIGN = """
    SELECT cn.nspname, c.relname, pn.nspname, p.relname, o.confdeltype NOT IN ('a', 'r'),
           ARRAY(SELECT a.attname::text FROM unnest(o.conkey) WITH ORDINALITY AS k (number, place)
                   JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.number ORDER BY k.place),
           ARRAY(SELECT a.attname::text FROM unnest(o.confkey) WITH ORDINALITY AS k (number, place)
                   JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.number ORDER BY k.place)
      FROM pg_constraint o
      JOIN pg_class c ON c.oid = o.conrelid
      JOIN pg_namespace cn ON cn.oid = c.relnamespace
      JOIN pg_class p ON p.oid = o.confrelid
      JOIN pg_namespace pn ON pn.oid = p.relnamespace
     WHERE o.contype = 'f' AND (cn.nspname = ANY(%(schemas)s) OR pn.nspname = ANY(%(schemas)s))
"""


class Acting(NamedTuple):
    """A foreign key that changes rows of `child` where those that they reference are deleted: CASCADE, SET NULL."""

    child: TableId
    columns: tuple[str, ...]
    referenced: tuple[str, ...]


class Constraints(NamedTuple):
    """One table's: the tables that it references, whether others reference it, and whether a value of it is unique.

    `acting` are the foreign keys by which deleting a row of it changes rows that reference it.
    """

    parents: frozenset[TableId] = frozenset()
    referenced: bool = False
    acting: frozenset[Acting] = frozenset()
    unique: bool = False


NONE = Constraints()


def load(connection: psycopg.Connection, schemas: Iterable[str]) -> dict[TableId, Constraints]:
    """The constraints of the tables of these schemas; tables without any are left out."""
    wanted = list(schemas)
    found: dict[TableId, Constraints] = {}
    for schema, name in connection.execute(_UNIQUE, [wanted]):
        found[TableId(schema, name)] = Constraints(unique=True)
    for *names, acts, columns, referenced in connection.execute(_FOREIGN, {"schemas": wanted}):
        child_id, parent_id = TableId(*names[:2]), TableId(*names[2:])
        above = found.get(parent_id, NONE)
        acting = above.acting | ({Acting(child_id, tuple(columns), tuple(referenced))} if acts else set())
        found[parent_id] = above._replace(referenced=True, acting=acting)
        below = found.get(child_id, NONE)
        found[child_id] = below._replace(parents=below.parents | {parent_id})
    # Of another schema's table that stands at the other end of a foreign key, only that is known here.
    return {id_: known for id_, known in found.items() if id_.schema in wanted}


def parents_first(tables: Iterable[TableId], constraints: Mapping[TableId, Constraints]) -> list[TableId]:
    """The tables, each behind those that it references; where they reference each other, as they come."""
    wanted, ordered = dict.fromkeys(tables), dict[TableId, None]()
    under_way: set[TableId] = set()

    def place(table: TableId) -> None:
        if table in ordered or table in under_way:
            return
        under_way.add(table)
        for parent in sorted(constraints.get(table, NONE).parents & wanted.keys()):
            place(parent)
        ordered[table] = None

    for table in wanted:
        place(table)
    return list(ordered)
