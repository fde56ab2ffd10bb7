"""What the replica knows of the source's tables: `deltasync.source_table`, folded from the schema log."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.dialects.postgresql import insert

from deltasync.replica.tables import source_table
from deltasync.table import SourceTable, Table, TableId, Version


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


def store(connection: sa.Connection, pipeline: str, tables: Mapping[TableId, SourceTable]) -> None:
    """Write the new state of these tables."""
    if not tables:
        return
    statement = insert(source_table)
    changed = {c.name: statement.excluded[c.name] for c in source_table.columns if not c.primary_key}
    statement = statement.on_conflict_do_update(index_elements=list(source_table.primary_key), set_=changed)
    connection.execute(statement, [_to_row(pipeline, id_, table) for id_, table in tables.items()])


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
