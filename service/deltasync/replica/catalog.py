"""What the replica knows of the source's tables: `deltasync.source_table`, folded from the schema log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects.postgresql import insert

from deltasync.errors import RefusedError
from deltasync.replica.tables import source_table
from deltasync.table import SourceTable, Table, TableId, Version

# What the reason begins with why a table is held that another pipeline fills.
_SHARED = "it is filled on this replica by the pipeline "


def load(connection: sa.Connection, pipeline: str, *, to_change: bool = False) -> dict[TableId, SourceTable]:
    """All tables that the source announced; `to_change`: nobody else changes them until the transaction ends."""
    query = sa.select(source_table).where(source_table.c.pipeline == pipeline)
    if to_change:
        query = query.order_by(source_table.c.schema_name, source_table.c.table_name).with_for_update()
    rows = connection.execute(query)
    return {TableId(row.schema_name, row.table_name): _from_row(row) for row in rows}


def replicated(connection: psycopg.Connection) -> frozenset[TableId]:
    """The tables whose rows come from a source, whichever pipeline brings them."""
    query = sql.SQL("SELECT schema_name, table_name FROM {}").format(
        sql.Identifier(source_table.schema or "", source_table.name)
    )
    return frozenset(TableId(*names) for names in connection.execute(query))


class Shared(NamedTuple):
    """A table that another pipeline fills, too."""

    table: TableId
    other: str

    @property
    def held(self) -> str:
        """Why this pipeline holds it."""
        return f"{_SHARED}{self.other}. Leave it out of one of the two, or end one: deltasync replica teardown"


def shared(connection: psycopg.Connection, pipeline: str, tables: Sequence[TableId]) -> Shared | None:
    """The first of these tables that another pipeline fills on this replica: captures, and does not hold for that."""
    query = """
        SELECT schema_name, table_name, pipeline FROM deltasync.source_table
         WHERE (schema_name, table_name) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
           AND pipeline <> %s AND captured AND NOT dropped AND NOT starts_with(coalesce(held, ''), %s)
         ORDER BY 1, 2, 3 LIMIT 1
    """
    names = [id_.schema for id_ in tables], [id_.name for id_ in tables]
    row = connection.execute(query, [*names, pipeline, _SHARED]).fetchone()
    return None if row is None else Shared(TableId(row[0], row[1]), row[2])


def refuse_shared(connection: psycopg.Connection, pipeline: str, tables: Iterable[TableId]) -> None:
    """Raises RefusedError where another pipeline fills one of these tables."""
    found = shared(connection, pipeline, sorted(tables))
    if found is not None:
        raise RefusedError(
            f"The table {found.table} is filled on this replica by the pipeline {found.other}, too: each would take "
            "the rows of the other for its own.",
            remedy=(
                "End one of them (DELTASYNC_PIPELINE=NAME deltasync replica teardown), or use another replica; see "
                "README, Ending a pipeline."
            ),
        )


def filled(tables: Mapping[TableId, SourceTable]) -> list[TableId]:
    """Those whose rows are applied, or would be if they fitted. Pure."""
    return [
        id_
        for id_, table in tables.items()
        if table.captured and not table.dropped and not (table.held or "").startswith(_SHARED)
    ]


def store(connection: sa.Connection, pipeline: str, tables: Mapping[TableId, SourceTable]) -> None:
    """Write the new state of these tables."""
    if not tables:
        return
    statement = insert(source_table)
    changed: dict[str, sa.ColumnElement[Any]] = {name: statement.excluded[name] for name in SourceTable._fields}
    # Whoever noticed that beats are missing may have done so since these were read.
    changed["complete"] = sa.and_(statement.excluded.complete, source_table.c.missing.is_(None))
    statement = statement.on_conflict_do_update(index_elements=list(source_table.primary_key), set_=changed)
    connection.execute(statement, [_to_row(pipeline, id_, table) for id_, table in tables.items()])


def complete(connection: sa.Connection, pipeline: str, table: TableId) -> None:
    """Write down that no rows of a table are owed any more, nor may be missing."""
    c = source_table.c
    is_it = (c.pipeline == pipeline, c.schema_name == table.schema, c.table_name == table.name)
    connection.execute(sa.update(source_table).where(*is_it).values(complete=True, missing=None))


def owe(connection: sa.Connection, pipeline: str) -> None:
    """Write down that rows of all captured tables are owed."""
    c = source_table.c
    connection.execute(sa.update(source_table).where(c.pipeline == pipeline, c.captured).values(complete=False))


def _from_row(row: sa.Row[tuple[object, ...]]) -> SourceTable:
    values = row._mapping  # noqa: SLF001 - SQLAlchemy's public name for it
    description = values["description"]
    return SourceTable(
        log_id=values["log_id"],
        captured=values["captured"],
        complete=values["complete"],
        dropped=values["dropped"],
        reason=values["reason"],
        held=values["held"],
        description=None if description is None else Table.from_value(description),
        pending=msgspec.convert(values["pending"], type=tuple[Version, ...]),
        gone_lsn=values["gone_lsn"],
        gone_at_us=values["gone_at_us"],
    )


def _to_row(pipeline: str, id_: TableId, table: SourceTable) -> dict[str, object]:
    description = None if table.description is None else table.description.to_value()
    return {
        "pipeline": pipeline,
        "schema_name": id_.schema,
        "table_name": id_.name,
        **table._asdict(),
        "description": sa.null() if description is None else description,
        "pending": msgspec.to_builtins(table.pending),
    }
