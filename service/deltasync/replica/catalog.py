"""What the replica knows of the source's tables: `deltasync.source_table`, folded from the schema log."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects.postgresql import insert

from deltasync.replica.tables import source_table
from deltasync.table import SourceTable, Table, TableId


def load(connection: sa.Connection, pipeline: str) -> dict[TableId, SourceTable]:
    """All tables that the source announced."""
    rows = connection.execute(sa.select(source_table).where(source_table.c.pipeline == pipeline))
    return {TableId(row.schema_name, row.table_name): _from_row(row) for row in rows}


def replicated(connection: psycopg.Connection) -> frozenset[TableId]:
    """The tables whose rows come from a source, whichever pipeline brings them."""
    query = sql.SQL("SELECT schema_name, table_name FROM {}").format(
        sql.Identifier(source_table.schema or "", source_table.name)
    )
    return frozenset(TableId(*names) for names in connection.execute(query))


def store(connection: sa.Connection, pipeline: str, tables: Mapping[TableId, SourceTable]) -> None:
    """Write the new state of these tables."""
    if not tables:
        return
    statement = insert(source_table)
    changed = {c.name: statement.excluded[c.name] for c in source_table.columns if not c.primary_key}
    statement = statement.on_conflict_do_update(index_elements=list(source_table.primary_key), set_=changed)
    connection.execute(statement, [_to_row(pipeline, id_, table) for id_, table in tables.items()])


def complete(connection: sa.Connection, pipeline: str, table: TableId) -> None:
    """Write down that no rows of a table are owed any more."""
    c = source_table.c
    is_it = (c.pipeline == pipeline, c.schema_name == table.schema, c.table_name == table.name)
    connection.execute(sa.update(source_table).where(*is_it).values(complete=True))


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
    )


def _to_row(pipeline: str, id_: TableId, table: SourceTable) -> dict[str, object]:
    description = None if table.description is None else table.description.to_value()
    return {
        "pipeline": pipeline,
        "schema_name": id_.schema,
        "table_name": id_.name,
        **table._asdict(),
        "description": sa.null() if description is None else description,
    }
