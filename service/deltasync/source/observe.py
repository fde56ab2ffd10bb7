"""What the source says of itself where it can be asked: why changes may not be travelling."""

from __future__ import annotations

from typing import NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from deltasync.source.position import SlotState, current_lsn, slot_state
from deltasync.table import TableId


class View(NamedTuple):
    """The source at one moment. `clock_us` is its clock, in microseconds since 1970, `log_end` where its log ends.

    `holes`: tables with DDL that could not be logged yet, and the SQLSTATE of the failure.
    """

    clock_us: int
    publication: bool
    slot: SlotState | None
    holes: tuple[tuple[TableId, str], ...]
    log_end: int = 0


def view(connection: Connection[TupleRow], publication: str, slot: str, *, installed: bool = True) -> View:
    """Read it, on a connection in autocommit. Blocks for four short queries.

    `installed`: whether the source was set up; before that there is no log that could have holes.
    """
    query = """
        SELECT (extract(epoch FROM clock_timestamp()) * 1e6)::bigint,
               EXISTS (SELECT FROM pg_publication WHERE pubname = %s)
    """
    row = connection.execute(query, [publication]).fetchone() or (0, False)
    holes = _holes(connection) if installed else ()
    return View(int(row[0]), bool(row[1]), slot_state(connection, slot), holes, current_lsn(connection))


def _holes(connection: Connection[TupleRow]) -> tuple[tuple[TableId, str], ...]:
    query = """
        SELECT schema_name, table_name, reason
          FROM deltasync.schema_log h
         WHERE event = 'hole' AND schema_name IS NOT NULL
           AND NOT EXISTS (SELECT FROM deltasync.schema_log newer
                            WHERE newer.schema_name = h.schema_name AND newer.table_name = h.table_name
                              AND newer.id > h.id)
    """
    return tuple((TableId(schema, name), code) for schema, name, code in connection.execute(query))
