"""What `source setup` reads before it changes anything, and why it may refuse to go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from deltasync.errors import RefusedError
from deltasync.finding import Area, Finding, Gravity
from deltasync.postgres.catalog import describe_tables
from deltasync.postgres.types import skipping, unsupported
from deltasync.source.statements import VERSION, Installed, Pipeline
from deltasync.table import Table

SERVER_VERSION_MIN = 15


class Server(NamedTuple):
    """The source as it is, as far as the set-up depends on it."""

    version: int
    wal_level: str
    slot_exists: bool
    slots_free: int
    senders_free: int
    schemas: tuple[str, ...]
    captured_elsewhere: tuple[str, ...]  # schemas that another pipeline captures
    publishes_more: bool  # the publication exists, and is of all tables or of whole schemas
    tables: tuple[Table, ...]


def read_installed(connection: Connection[TupleRow], pipeline: Pipeline, role: str) -> Installed:
    """What earlier set-ups left. Blocks for a few short queries."""
    version = 0
    if _value(connection, "SELECT to_regclass('deltasync.source_version') IS NOT NULL"):
        version = _value(connection, "SELECT coalesce(max(version), 0) FROM deltasync.source_version")
    lines = _value(connection, "SELECT coalesce(rolconfig, '{}') FROM pg_roles WHERE rolname = %s", role)
    published = _value(
        connection,
        "SELECT array_agg(t.tablename::text) FROM pg_publication p LEFT JOIN pg_publication_tables t"
        " ON t.pubname = p.pubname AND t.schemaname = 'deltasync' WHERE p.pubname = %s GROUP BY p.oid",
        pipeline.publication,
    )
    # A role that is still to be created will have what PUBLIC has.
    closed = _value(
        connection,
        "SELECT current_database()::text WHERE NOT has_database_privilege(%s, current_database(), 'CONNECT')",
        "public" if lines is None else role,
    )
    return Installed(
        version=version,
        role=lines is not None,
        role_settings={key.lower(): value for key, _, value in (line.partition("=") for line in lines or ())},
        publication=published is not None,
        published=tuple(published or ()),
        closed_database=closed,
    )


def read_server(connection: Connection[TupleRow], pipeline: Pipeline) -> Server:
    """The facts that `refuse` judges by. Blocks for a few catalog queries."""
    query = """
        SELECT current_setting('server_version_num')::int / 10000,
               current_setting('wal_level'),
               EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %(slot)s),
               current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots),
               current_setting('max_wal_senders')::int
                 - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
               ARRAY(SELECT nspname::text FROM pg_namespace WHERE nspname = ANY(%(schemas)s)),
               EXISTS (SELECT FROM pg_publication p WHERE p.pubname = %(publication)s
                        AND (p.puballtables OR EXISTS (SELECT FROM pg_publication_namespace n WHERE n.pnpubid = p.oid)))
    """
    values = {"slot": pipeline.slot, "schemas": list(pipeline.schemas), "publication": pipeline.publication}
    row = connection.execute(query, values).fetchone()
    if row is None:
        raise RefusedError("The source does not tell its settings.", remedy="Connect to PostgreSQL itself.")
    elsewhere: list[str] = []
    # Readable to whoever sets up, not to the service's role.
    if _value(connection, "SELECT has_table_privilege(to_regclass('deltasync.captured_schema'), 'SELECT')"):
        taken = "SELECT coalesce(array_agg(name), '{}') FROM deltasync.captured_schema WHERE pipeline <> %s"
        elsewhere = [name for name in _value(connection, taken, pipeline.name) if name in pipeline.schemas]
    return Server(
        version=row[0],
        wal_level=row[1],
        slot_exists=row[2],
        slots_free=row[3],
        senders_free=row[4],
        schemas=tuple(row[5]),
        publishes_more=row[6],
        captured_elsewhere=tuple(elsewhere),
        tables=tuple(
            skipping(describe_tables(connection, pipeline.schemas), pipeline.skip, raw_text=pipeline.raw_text)
        ),
    )


def refuse(server: Server, installed: Installed, pipeline: Pipeline) -> None:
    """Raise RefusedError with everything that stands in the way; pure."""
    problems = obstacles(server, installed, pipeline)
    if problems:
        what, remedy = ([getattr(one, key) for one in problems] for key in ("what", "remedy"))
        raise RefusedError(" ".join(what), remedy=" ".join(dict.fromkeys(remedy)))
    tables = _table_problems(server, pipeline)
    if tables:
        raise RefusedError(
            f"These tables cannot be carried exactly: {'; '.join(tables)}.",
            remedy='Change the columns, or leave the tables out: `exclude = ["schema.table"]` in [source]. Or leave '
            'only such columns alone: `on_unsupported = "skip-column"` in [tables."schema.table"].',
        )


def obstacles(server: Server, installed: Installed, pipeline: Pipeline) -> list[Finding]:
    """What keeps the source from being captured at all; pure."""
    return [
        Finding(Gravity.REFUSED, Area.SOURCE, *problem)
        for problem in (*_server_problems(server, installed, pipeline), *_schema_problems(server, pipeline))
    ]


def _table_problems(server: Server, pipeline: Pipeline) -> list[str]:
    """Only of tables that would be captured: partitions travel as their root, the others are announced as left out."""
    roots = {str(table.id) for table in server.tables if table.kind == "p"}
    return [
        f"{table.id}: {'; '.join(problems)}"
        for table in server.tables
        if table.id not in pipeline.exclude
        and table.parent not in roots
        and (table.primary_key or (pipeline.keyless and table.replica_identity == "f"))
        and table.persistence == "p"
        and (problems := unsupported(table, raw_text=pipeline.raw_text))
    ]


def _server_problems(server: Server, installed: Installed, pipeline: Pipeline) -> Iterator[tuple[str, str, str]]:
    if installed.version > VERSION:
        yield newer(installed.version)
    if server.version < SERVER_VERSION_MIN:
        yield (
            f"The source is PostgreSQL {server.version}.",
            "Its publications lack what deltasync needs.",
            f"Upgrade it to {SERVER_VERSION_MIN} or later.",
        )
    if server.wal_level != "logical":
        yield (
            f"The source's wal_level is {server.wal_level}.",
            "Its WAL does not tell the changes of rows.",
            "Run ALTER SYSTEM SET wal_level = 'logical'; and restart the source.",
        )
    if not server.slot_exists and server.slots_free < 1:
        yield (
            "The source has no free replication slot.",
            "The connector makes one at its first start.",
            "Drop a slot nobody uses, or ALTER SYSTEM SET max_replication_slots = 20; and restart the source.",
        )
    if not server.slot_exists and server.senders_free < 1:
        yield (
            "The source has no free WAL sender.",
            "The connector's stream needs one.",
            "Raise it, ALTER SYSTEM SET max_wal_senders = 20; and restart the source.",
        )
    if server.publishes_more:
        yield (
            f"The publication {pipeline.publication} is not a list of tables.",
            "Tables without a key in it can no longer be updated by the application.",
            "Drop it, or choose another name: `publication` in [source].",
        )


def newer(version: int) -> tuple[str, str, str]:
    """What is said of objects that a newer deltasync made: what, why, remedy."""
    return (
        f"The source was set up by a newer deltasync (version {version} of its objects, here {VERSION}).",
        "This one does not know what they promise.",
        "Upgrade deltasync here.",
    )


def _schema_problems(server: Server, pipeline: Pipeline) -> Iterator[tuple[str, str, str]]:
    for name in pipeline.schemas:
        if name == "deltasync" or name.startswith("pg_") or name == "information_schema":
            why = "It holds the server's objects, or deltasync's own."
            yield f"The schema {name} is not for capturing.", why, "Correct `schemas` in [source]."
        elif name not in server.schemas:
            why = "Nothing would be captured from it."
            yield f"The source has no schema {name}.", why, "Create it, or correct `schemas` in [source]."
        if name in server.captured_elsewhere:
            yield (
                f"Another pipeline captures the schema {name} already.",
                "A schema belongs to one pipeline.",
                "Leave it out of `schemas` in [source], or use that pipeline's name.",
            )


def _value(connection: Connection[TupleRow], query: LiteralString, *values: object) -> Any:  # noqa: ANN401 - a catalog value
    row = connection.execute(query, values or None).fetchone()
    return None if row is None else row[0]
