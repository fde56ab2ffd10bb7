"""`deltasync replica teardown`: what the replica knows of a pipeline is forgotten; the tables stay as they are."""

from __future__ import annotations

from typing import NamedTuple

import psycopg
from psycopg import sql

from deltasync.postgres.connect import connect
from deltasync.replica.setup import LOCK
from deltasync.replica.tables import bootstrap, dead_letter, ledger, source_canary, source_table
from deltasync.settings import Settings
from deltasync.table import TableId

_KNOWLEDGE = (ledger.name, dead_letter.name, source_table.name, source_canary.name, bootstrap.name)


class Report(NamedTuple):
    """How many rows of each of deltasync's tables were forgotten, or would be; `tables` are those that were filled."""

    pipeline: str
    dry_run: bool
    forgotten: dict[str, int]
    tables: list[str]
    sql: list[str]


def knows(settings: Settings) -> bool:
    """Whether the replica knows how far the pipeline has come, or its tables. Raises UnreachableError."""
    with connect(settings.replica.admin_conninfo() or "", name="replica teardown") as connection:
        counts = _counts(connection, settings.pipeline)
    return any(counts.get(name) for name in (ledger.name, source_table.name))


def teardown(settings: Settings, *, dry_run: bool = False) -> Report:
    """Forget ledger, descriptions and canary of the pipeline, in one transaction. Idempotent.

    What was moved by hand stays in `deltasync.ledger_audit`. Raises SettingsError or UnreachableError.
    """
    settings.need("replica.dsn")
    with connect(settings.replica.admin_conninfo() or "", name="replica teardown") as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        counts = {name: count for name, count in _counts(connection, settings.pipeline).items() if count}
        tables = _tables(connection, settings.pipeline) if source_table.name in counts else []
        steps = [_forget(name, settings.pipeline) for name in counts]
        if not dry_run:
            for step in steps:
                connection.execute(step)
    return Report(settings.pipeline, dry_run, counts, tables, [f"{step.as_string(None)};" for step in steps])


def _forget(table: str, pipeline: str) -> sql.Composed:
    name = sql.Identifier("deltasync", table)
    return sql.SQL("DELETE FROM {} WHERE pipeline = {}").format(name, sql.Literal(pipeline))


def _counts(connection: psycopg.Connection, pipeline: str) -> dict[str, int]:
    """The rows about a pipeline in each table of ours that is there."""
    found = {}
    for table in _KNOWLEDGE:
        if connection.execute("SELECT to_regclass(%s) IS NOT NULL", [f"deltasync.{table}"]).fetchone() == (True,):
            count = sql.SQL("SELECT count(*) FROM {} WHERE pipeline = %s").format(sql.Identifier("deltasync", table))
            row = connection.execute(count, [pipeline]).fetchone()
            found[table] = int(row[0]) if row else 0
    return found


def _tables(connection: psycopg.Connection, pipeline: str) -> list[str]:
    query = """
        SELECT schema_name, table_name FROM deltasync.source_table
         WHERE pipeline = %s AND captured AND NOT dropped
           AND to_regclass(quote_ident(schema_name) || '.' || quote_ident(table_name)) IS NOT NULL
         ORDER BY 1, 2
    """
    return [TableId(*row).sql for row in connection.execute(query, [pipeline])]
