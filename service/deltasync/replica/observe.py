"""What the replica knows of the source's state: the newest canary, and which tables should be in the publication."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa

from deltasync.replica import dead_letters, ledger
from deltasync.replica.tables import source_canary, source_table
from deltasync.table import TableId

_SKIPPED: sa.ColumnElement[str] = sa.literal_column("'$.columns[*] ? (@.skipped == true).name'")


class Canary(NamedTuple):
    """The newest canary that arrived; `beat_at_us` is microseconds since 1970 by the source's clock.

    `refused` and `doubt` are what an operator has not accepted yet (see `tables.source_canary`).
    """

    beat: int
    beat_at_us: int
    publication_digest: str
    publication_tables: int
    slot_wal_status: str | None
    refused: str | None = None
    doubt: str | None = None


class Known(NamedTuple):
    """A source table as the schema log left it here; `skipped` are the columns that are left alone.

    `missing` tells which beats of the canary never came, so that it is incomplete.
    """

    table: TableId
    captured: bool
    complete: bool
    held: str | None
    skipped: tuple[str, ...] = ()
    missing: str | None = None


class View(NamedTuple):
    """All of it at one moment. `digest` is what the publication's should be, by what was announced.

    `letters` counts the dead letters of each table that has some: those that failed, and all. `applied_to` is the last
    place in the source's log of which something was applied, as an integer.
    """

    canary: Canary | None
    tables: tuple[Known, ...]
    digest: str
    letters: Mapping[TableId, tuple[int, int]] = {}
    applied_to: int | None = None


def view(connection: sa.Connection, pipeline: str) -> View:
    """Read it; `tables` leaves out those that were dropped. Blocks for five short queries."""
    letters = dead_letters.counts(connection, pipeline)
    tables, digest = read_tables(connection, pipeline), _digest(connection, pipeline)
    return View(read_canary(connection, pipeline), tables, digest, letters, ledger.applied_to(connection, pipeline))


def read_canary(connection: sa.Connection, pipeline: str) -> Canary | None:
    """The newest canary, None if none ever came."""
    row = connection.execute(sa.select(source_canary).where(source_canary.c.pipeline == pipeline)).one_or_none()
    if row is None:
        return None
    at_us = ledger.to_us(row.beat_at)
    seen = (row.publication_digest, row.publication_tables, row.slot_wal_status)
    return Canary(row.beat, at_us, *seen, row.refused, row.doubt)


def read_tables(connection: sa.Connection, pipeline: str) -> tuple[Known, ...]:
    """The tables of the source that exist; of their descriptions only what is skipped."""
    columns = source_table.c
    skipped = sa.func.jsonb_path_query_array(columns.description, _SKIPPED)
    state = (columns.captured, columns.complete, columns.held, columns.missing)
    query = sa.select(columns.schema_name, columns.table_name, *state, skipped)
    rows = connection.execute(query.where(columns.pipeline == pipeline, ~columns.dropped))
    return tuple(
        Known(TableId(schema, name), captured, complete, held, tuple(skipped or ()), missing)
        for schema, name, captured, complete, held, missing, skipped in rows
    )


def _digest(connection: sa.Connection, pipeline: str) -> str:
    """The formula of the canary's publication_digest over the tables that were announced as captured."""
    query = sa.text("""
        SELECT md5(string_agg(name, ',' ORDER BY name COLLATE "C"))
          FROM (SELECT quote_ident(schema_name) || '.' || quote_ident(table_name) AS name
                  FROM deltasync.source_table WHERE pipeline = :pipeline AND captured AND NOT dropped
                UNION ALL VALUES ('deltasync.canary'), ('deltasync.schema_log')) AS t
    """)
    return str(connection.execute(query, {"pipeline": pipeline}).scalar_one())
