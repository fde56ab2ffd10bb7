"""`deltasync replica setup`: the service's role, the schema `deltasync`, and the tables that are missing."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import psycopg
import sqlalchemy as sa
import stamina
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.dialects.postgresql import insert

from deltasync.errors import RefusedError
from deltasync.postgres.catalog import describe_table, describe_tables
from deltasync.postgres.connect import connect
from deltasync.postgres.types import skipping
from deltasync.replica import catalog, evolve, ledger, pending, types
from deltasync.replica.engine import alchemy, driver, newer_version
from deltasync.replica.tables import MIGRATIONS, SCHEMA, VERSION, metadata, version
from deltasync.settings import Settings
from deltasync.table import SourceTable, Table

# One set-up at a time; an arbitrary number that is ours.
LOCK = 0x64656C74
SERVER_VERSION_MIN = 150_000


class Report(NamedTuple):
    """What set-up did: role and tables that it made, tables that were made to fit again, tables still held.

    Of those that fit again, the `incomplete` ones have rows that were applied by an older description than theirs.
    """

    role: str | None
    created: list[str]
    released: list[str]
    held: dict[str, str]
    incomplete: list[str]


def setup(settings: Settings) -> Report:
    """Make or migrate what `run` needs. Idempotent; one transaction, so that it happens whole or not at all."""
    settings.need("replica.dsn")
    described = _described_by_source(settings)
    with alchemy(lambda: connect(settings.replica.admin_conninfo() or "", name="replica setup")) as core, core.begin():
        connection = driver(core)
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        if connection.info.server_version < SERVER_VERSION_MIN:
            raise RefusedError("The replica's PostgreSQL is older than 15.", remedy="Use PostgreSQL 15 or newer.")
        role, made = _role(connection, settings)
        _grants(connection, role, {table.schema for table in described} | set(settings.source.schemas))
        connection.execute(
            sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(
                sql.Identifier(SCHEMA), sql.Identifier(role)
            )
        )
        _extensions(connection, role, described)
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        _tables_of_ours(core)
        catalog.refuse_shared(connection, settings.pipeline, (table.id for table in described))
        created, not_made = _make(connection, described)
        released, held, incomplete = _refit(core, settings)
    return Report(role if made else None, created, released, not_made | held, incomplete)


def _described_by_source(settings: Settings) -> list[Table]:
    """The source's captured tables, where the source can be reached from here; otherwise `run` makes them."""
    if settings.source.dsn is None:
        return []
    with connect(settings.source.conninfo() or "", name="replica setup") as source:
        found = describe_tables(source, settings.source.schemas)
        tables = list(skipping(found, settings.skipping, raw_text=settings.connect.raw_text))
        rows = source.execute(
            "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = %s", [settings.publication]
        ).fetchall()
    published = set(rows)
    return [table for table in tables if tuple(table.id) in published]


def _role(connection: psycopg.Connection, settings: Settings) -> tuple[str, bool]:
    """The service's role, made where it is missing; True where it was."""
    known = conninfo_to_dict(settings.replica.conninfo() or "")
    name = str(known.get("user") or connection.info.user)
    exists = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone() is not None
    if not exists:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        password = known.get("password")
        if password:  # hashed here: the server's log may hold statements
            hashed = connection.pgconn.encrypt_password(str(password).encode(), name.encode(), b"scram-sha-256")
            statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Literal(hashed.decode())))
    database = sql.Identifier(connection.info.dbname)
    connection.execute(
        sql.SQL("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {} TO {}").format(database, sql.Identifier(name))
    )
    if connection.info.user != name:
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(name)))
    if settings.replica.constraints == "replica-role":
        _grant_replica_role(connection, name)
    return name, not exists


def _grant_replica_role(connection: psycopg.Connection, role: str) -> None:
    """Let the service pass foreign keys and triggers by; where this role may not grant that, `run` says so."""
    grant = sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {}").format(sql.Identifier(role))
    # All databases of a server share the one row that this makes or changes: who grants at the same moment was first.
    was_second = (psycopg.errors.InternalError_, psycopg.errors.UniqueViolation)
    for attempt in stamina.retry_context(on=was_second, attempts=5, wait_initial=0.05):
        with attempt, suppress(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute(grant)


def _tables_of_ours(core: sa.Connection) -> None:
    metadata.create_all(core)
    found = core.execute(sa.select(version.c.version)).scalar_one_or_none()
    if found is not None and found > VERSION:
        raise newer_version(found)
    for step in range(VERSION if found is None else found, VERSION):
        for statement in MIGRATIONS[step + 1]:
            core.execute(sa.text(statement))
    now = {"version": VERSION, "migrated_at": sa.func.clock_timestamp()}
    if found != VERSION:
        core.execute(insert(version).values(now).on_conflict_do_update(index_elements=["singleton"], set_=now))


def _grants(connection: psycopg.Connection, role: str, schemas: Iterable[str]) -> None:
    """Rights on what is there already and belongs to others; what the service creates is its own."""
    existing = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname = ANY(%s)", [sorted(schemas)]
    ).fetchall()
    for (schema,) in existing:
        for statement in (
            "GRANT USAGE, CREATE ON SCHEMA {0} TO {1}",
            "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA {0} TO {1}",
        ):
            connection.execute(sql.SQL(statement).format(sql.Identifier(schema), sql.Identifier(role)))


def _extensions(connection: psycopg.Connection, role: str, described: Iterable[Table]) -> None:
    """Those that the tables need, where whoever runs this may make them, and the right to use their types."""
    needed = {type_ for table in described for type_ in table.types if type_.kind == "x"}
    for type_ in needed:
        if types.make_extension(connection, type_):
            grant = sql.SQL("GRANT USAGE ON SCHEMA {} TO {}")
            connection.execute(grant.format(sql.Identifier(type_.schema), sql.Identifier(role)))


def _make(connection: psycopg.Connection, described: Iterable[Table]) -> tuple[list[str], dict[str, str]]:
    """Make the tables that are missing; returns those that were, and why others were not."""
    created, not_made = [], {}
    for table in described:
        if describe_table(connection, table.id) is None:
            why = evolve.fit(connection, table)
            if why is None:
                created.append(str(table.id))
            else:
                not_made[str(table.id)] = why
    return created, not_made


def _refit(core: sa.Connection, settings: Settings) -> tuple[list[str], dict[str, str], list[str]]:
    """Look at held tables again: the operator may have made them fit. What rows lost before that is still lost."""
    released, held, incomplete, pipeline = [], {}, [], settings.pipeline
    claims = ledger.read(core, pipeline)
    for id_, known in catalog.load(core, pipeline, to_change=True).items():
        if known.held is None:
            continue
        if known.is_to_go or known.is_arriving:
            held[str(id_)] = f"{known.held}: deltasync schema approve {id_}"
            continue
        shared = catalog.shared(driver(core), pipeline, [id_])
        table = evolve.target(known)
        misfit = shared.held if shared else _misfit(driver(core), table)
        if misfit is None:
            topic = id_.topic(settings.topic_prefix)
            cut = [claim for partition, claim in claims.items() if partition.topic == topic]
            if pending.had_early_rows(known.description, known.pending, cut):
                table = table._replace(complete=False)
                incomplete.append(str(id_))
            catalog.store(core, pipeline, {id_: evolve.released(table)})
            released.append(str(id_))
        else:
            held[str(id_)] = misfit
    return released, held, incomplete


def _misfit(connection: psycopg.Connection, table: SourceTable) -> str | None:
    """What still holds a table. One that could not be made, for lack of an extension say, is tried again."""
    if table.description is not None and describe_table(connection, table.description.id) is None:
        return evolve.fit(connection, table.description)
    return evolve.still_held(connection, table)
