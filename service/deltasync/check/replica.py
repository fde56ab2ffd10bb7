"""The replica: its server, the service's role there, and whether its tables can take the source's rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from psycopg import Connection
from psycopg.rows import TupleRow

from deltasync.change import Partition
from deltasync.errors import DeltasyncError
from deltasync.finding import Area, Finding, Gravity
from deltasync.postgres.catalog import describe_tables
from deltasync.postgres.type_sql import type_sql
from deltasync.progress import Progress
from deltasync.replica import catalog, ledger
from deltasync.replica.ddl import add_columns
from deltasync.replica.engine import driver
from deltasync.replica.misfit import holds, misfit
from deltasync.replica.setup import SERVER_VERSION_MIN
from deltasync.replica.tables import SCHEMA, VERSION, version
from deltasync.settings import Settings
from deltasync.table import Column, SourceTable, Table, TableId, quoted
from deltasync.whole import is_partly_applied

_SETUP = "Run `deltasync replica setup`."
_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")


class Obstacle(NamedTuple):
    """What of a table on the replica may turn a row away that the source took; `kind` as pg_constraint has it.

    Also t for a trigger and i for a unique index without a constraint. `usually` and `as_replica`: it acts under
    `constraints` = "ordered", and under "replica-role".
    """

    table: TableId
    kind: str
    name: str
    usually: bool = True
    as_replica: bool = True


class Facts(NamedTuple):
    """All that is judged. `version` is that of our tables, 0 before set-up; `known` the source's tables as told here.

    `lacking` are the rights that the role misses on tables that are there; `may_create` is None where the
    role does not exist. `constraints` is the setting, `may_replicate` whether the role may follow "replica-role".
    `in_parts`: transactions are to be applied whole, and some may be there in part.
    """

    server_version: int
    database: str
    standby: bool
    role: str
    may_create: bool | None
    constraints: str
    may_replicate: bool
    version: int
    known: Mapping[TableId, SourceTable]
    tables: Mapping[TableId, Table]
    lacking: Mapping[TableId, tuple[str, ...]]
    obstacles: tuple[Obstacle, ...]
    in_parts: bool


def read(core: sa.Connection, settings: Settings, role: str) -> Facts:
    """Blocks for a handful of catalog queries."""
    connection = driver(core)
    query = """
        SELECT current_database()::text, pg_is_in_recovery(),
               has_database_privilege(r.oid, current_database(), 'CREATE'),
               has_parameter_privilege(r.oid, 'session_replication_role', 'SET')
          FROM (SELECT) AS always LEFT JOIN pg_roles r ON r.rolname = %s
    """
    row = connection.execute(query, [role]).fetchone() or ("", False, None, None)
    installed = 0
    if sa.inspect(core).has_table(version.name, schema=SCHEMA):
        installed = core.execute(sa.select(version.c.version)).scalar_one_or_none() or 0
    known = catalog.load(core, settings.pipeline) if installed == VERSION else {}
    wanted = sorted({*settings.source.schemas, *(id_.schema for id_ in known)} - {SCHEMA})
    return Facts(
        connection.info.server_version,
        row[0],
        row[1],
        role,
        row[2],
        settings.replica.constraints,
        bool(row[3]),
        installed,
        known,
        {table.id: table for table in describe_tables(connection, wanted)},
        _lacking(connection, role, wanted) if row[2] is not None else {},
        _obstacles(connection, wanted),
        installed == VERSION and settings.consistency == "transaction" and _in_parts(core, settings),
    )


def _in_parts(core: sa.Connection, settings: Settings) -> bool:
    """As `deltasync run` decides when it starts."""
    at = {partition: claim.progress for partition, claim in ledger.read(core, settings.pipeline).items()}
    ends = at.pop(Partition(settings.transaction_topic, 0), Progress())
    return is_partly_applied(ends, at.values())


def _lacking(connection: Connection[TupleRow], role: str, schemas: Sequence[str]) -> dict[TableId, tuple[str, ...]]:
    query = """
        SELECT n.nspname, c.relname,
               ARRAY(SELECT p FROM unnest(%s::text[]) AS p WHERE NOT has_table_privilege(%s, c.oid, p))
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p')
    """
    rows = connection.execute(query, [list(_RIGHTS), role, schemas])
    return {TableId(schema, name): tuple(rights) for schema, name, rights in rows if rights}


def _obstacles(connection: Connection[TupleRow], schemas: Sequence[str]) -> tuple[Obstacle, ...]:
    query = """
        WITH t AS (SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p'))
        SELECT t.nspname, t.relname, contype::text, conname::text,
               contype <> 'f' OR g.usually, contype <> 'f' OR g.as_replica
          FROM t JOIN pg_constraint o ON o.conrelid = t.oid AND o.contype IN ('u', 'f', 'c', 'x')
         CROSS JOIN LATERAL (SELECT coalesce(bool_or(tgenabled IN ('O', 'A')), false),
                                    coalesce(bool_or(tgenabled IN ('R', 'A')), false)
                               FROM pg_trigger WHERE tgconstraint = o.oid) AS g (usually, as_replica)
        UNION ALL
        SELECT t.nspname, t.relname, 'i', x.relname::text, true, true
          FROM t JOIN pg_index i ON i.indrelid = t.oid AND i.indisunique AND NOT i.indisprimary
          JOIN pg_class x ON x.oid = i.indexrelid
         WHERE NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = i.indexrelid AND o.contype IN ('u', 'x'))
        UNION ALL
        SELECT t.nspname, t.relname, 't', tgname::text, tgenabled IN ('O', 'A'), tgenabled IN ('R', 'A')
          FROM t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
         ORDER BY 1, 2, 3, 4
    """
    rows = connection.execute(query, [schemas])
    return tuple(Obstacle(TableId(schema, name), *rest) for schema, name, *rest in rows)


def judge(facts: Facts, captured: Sequence[Table] | None) -> Iterator[Finding]:
    """Every finding about it; pure.

    `captured` are the source's captured tables; None where the source was not asked: then what the replica
    knows of them counts.
    """
    if captured is None:
        captured = [one.description for one in facts.known.values() if _is_captured(one) and one.description]
    yield from _server(facts)
    yield from _set_up(facts)
    if facts.in_parts:
        yield _found(
            Gravity.REFUSED,
            'Changes were applied with consistency = "key", so transactions may be there in part.',
            '`deltasync run` does not start with consistency = "transaction".',
            'Go on with consistency = "key", or begin anew (README, "Change the consistency of a running pipeline").',
        )
    if facts.may_create is not None:
        yield from _rights(facts)
    for id_, one in facts.known.items():
        if one.held is not None and not one.dropped:
            yield _found(
                Gravity.REFUSED,
                f"{id_} is held: {one.held}.",
                "Its records wait.",
                "See `deltasync schema list`: approve it, or do on the replica what was done on the source, then"
                ' `deltasync replica setup` (README, "A table is held").',
                id_,
            )
    for table in captured:
        existing = facts.tables.get(table.id)
        if existing is not None:
            yield from _table(table, existing, facts)
    names = {table.id for table in captured}
    ordered = facts.constraints == "ordered"
    for obstacle in facts.obstacles:
        if obstacle.table in names and (obstacle.usually if ordered else obstacle.as_replica):
            yield _obstacle(obstacle, ordered=ordered)


def _is_captured(table: SourceTable) -> bool:
    return table.captured and not table.dropped


def _found(gravity: Gravity, what: str, why: str, remedy: str, table: TableId | None = None) -> Finding:
    return Finding(gravity, Area.REPLICA, what, why, remedy, table)


def _server(facts: Facts) -> Iterator[Finding]:
    if facts.server_version < SERVER_VERSION_MIN:
        yield _found(
            Gravity.REFUSED,
            f"The replica is PostgreSQL {facts.server_version // 10_000}.",
            "deltasync's statements need a later one.",
            f"Upgrade it to {SERVER_VERSION_MIN // 10_000} or later.",
        )
    if facts.standby:
        yield _found(
            Gravity.REFUSED,
            "The replica is a standby.",
            "Nothing can be written to it.",
            "Name the primary in DELTASYNC_REPLICA_DSN (target_session_attrs=read-write).",
        )
    if facts.may_create is False:
        yield _found(
            Gravity.REFUSED,
            f"The role {facts.role} lacks CREATE on the replica's database.",
            "It could not make the schemas of new tables.",
            f"GRANT CREATE ON DATABASE {quoted(facts.database)} TO {quoted(facts.role)};",
        )


def _rights(facts: Facts) -> Iterator[Finding]:
    """The right to pass foreign keys and triggers by, which set-up grants where it may."""
    if facts.version and facts.constraints == "replica-role" and not facts.may_replicate:
        yield _found(
            Gravity.REFUSED,
            f"The role {facts.role} may not set session_replication_role on the replica.",
            "`deltasync run` does not start: foreign keys and triggers would act on its rows.",
            f"GRANT SET ON PARAMETER session_replication_role TO {quoted(facts.role)};"
            ' Or constraints = "ordered" in [replica].',
        )


def _set_up(facts: Facts) -> Iterator[Finding]:
    if not facts.version or facts.may_create is None:
        what, why = "The replica is not set up yet.", "Role, ledger and tables are still to be made."
        yield _found(Gravity.NOTE, what, why, _SETUP)
    elif facts.version > VERSION:
        yield _found(
            Gravity.REFUSED,
            f"The replica was set up by a newer deltasync (version {facts.version} of its tables, here {VERSION}).",
            "This one does not know what they mean, and does not start.",
            "Run the newer deltasync.",
        )
    elif facts.version < VERSION:
        yield _found(
            Gravity.REFUSED,
            f"The replica's tables are of version {facts.version}, this deltasync needs {VERSION}.",
            "`deltasync run` does not start.",
            "Run `deltasync replica setup`: it migrates them.",
        )


def _table(table: Table, existing: Table, facts: Facts) -> Iterator[Finding]:
    id_ = table.id
    if facts.version and (rights := facts.lacking.get(id_)):
        yield _found(
            Gravity.REFUSED,
            f"The role {facts.role} lacks {', '.join(rights)} on the replica's {id_}.",
            "Its partition would stop.",
            f"GRANT {', '.join(rights)} ON {id_.sql} TO {quoted(facts.role)};",
            id_,
        )
    yield from _columns(table, existing, known=id_ in facts.known)
    for column in existing.columns:
        yield from _own_column(table, column)


def _columns(table: Table, existing: Table, *, known: bool) -> Iterator[Finding]:
    """What `Writer` would stop at, with the statement that mends it."""
    error = misfit(table, existing)
    if error is None:
        return
    lacking = [column for column in table.stored_columns if existing.column(column.name) is None]
    narrower = [c for c in table.stored_columns if (it := existing.column(c.name)) is not None and not holds(it, c)]
    gravity, why = Gravity.REFUSED, "Its partition stops at the first record."
    remedy = error.remedy
    if lacking:
        remedy = _pasted(table, lacking, error.remedy)
        if not known:
            gravity, why = (
                Gravity.WARNING,
                "`deltasync run` adds columns when they are announced, if it need not guess.",
            )
    elif narrower:
        actions = ", ".join(f"ALTER COLUMN {quoted(c.name)} TYPE {_type(c)}" for c in narrower)
        remedy = f"ALTER TABLE {table.id.sql} {actions};"
    yield _found(gravity, error.what, why, remedy, table.id)


def _pasted(table: Table, columns: Sequence[Column], otherwise: str) -> str:
    try:
        return f"On the replica: {add_columns(table, columns).as_string(None)};"
    except DeltasyncError:
        return otherwise


def _type(column: Column) -> str:
    try:
        return type_sql(column).as_string(None)
    except DeltasyncError:
        return column.sql_type


def _own_column(table: Table, column: Column) -> Iterator[Finding]:
    """A column of the replica's table that its source does not have, or has otherwise, or whose values do not come."""
    id_, theirs = table.id, table.column(column.name)
    drop = f"ALTER TABLE {id_.sql} ALTER COLUMN {quoted(column.name)} DROP"
    where = f"The replica's {id_}: column {column.name}"
    why = "Rows could not be written: its partition would stop."
    if theirs is None or theirs.generated or theirs.skipped:
        by_itself = column.default is not None or column.identity or column.generated
        if not (theirs and theirs.generated) and column.not_null and not by_itself:
            whose = "is left alone" if theirs else "is not on the source"
            what = f"{where} {whose}, NOT NULL, and has no default."
            yield _found(Gravity.REFUSED, what, why, f"{drop} NOT NULL;", id_)
        return
    if column.generated:
        yield _found(Gravity.REFUSED, f"{where} is generated, and not on the source.", why, f"{drop} EXPRESSION;", id_)
    elif column.identity == "a":
        remedy = f"{drop.removesuffix('DROP')}SET GENERATED BY DEFAULT;"
        yield _found(
            Gravity.REFUSED, f"{where} is GENERATED ALWAYS AS IDENTITY.", "Updates could not write it.", remedy, id_
        )
    elif column.not_null and not theirs.not_null:
        what = f"{where} is NOT NULL, and may be NULL on the source."
        yield _found(Gravity.WARNING, what, "A NULL would stop its partition.", f"{drop} NOT NULL;", id_)


_KINDS = {
    "u": "unique constraint",
    "f": "foreign key",
    "c": "check constraint",
    "x": "exclusion constraint",
    "i": "unique index",
    "t": "trigger",
}


_STRANGE = "Where the source does not have it, it may refuse a row and stop the partition."
_FIRES = "It acts on every row that is written here."
_WAITS = "Rows wait for those that they reference (DELTASYNC_REPLICA_CONSTRAINTS=ordered)."
_FOR_REPLICAS = "It is enabled for replicas: DELTASYNC_REPLICA_CONSTRAINTS=replica-role does not pass it by."


def _obstacle(one: Obstacle, *, ordered: bool) -> Finding:
    name = quoted(one.name)
    match one.kind:
        case "t":
            remedy = f"ALTER TABLE {one.table.sql} DISABLE TRIGGER {name};"
            why = _FIRES if ordered else _FOR_REPLICAS
        case "i":
            remedy = f"DROP INDEX {quoted(one.table.schema)}.{name};"
            why = _STRANGE
        case _:
            remedy = f"ALTER TABLE {one.table.sql} DROP CONSTRAINT {name};"
            why = _STRANGE if one.kind != "f" else _WAITS if ordered else _FOR_REPLICAS
    what = f"The replica's {one.table} has the {_KINDS[one.kind]} {one.name}."
    return _found(Gravity.WARNING, what, why, remedy, one.table)
