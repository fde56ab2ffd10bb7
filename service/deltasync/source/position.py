"""How far the source has written, and how far the pipeline's slot has come. All calls block for one query."""

from __future__ import annotations

import msgspec
from psycopg import Connection
from psycopg.rows import TupleRow, class_row

from deltasync.errors import RefusedError


class SlotState(msgspec.Struct, frozen=True):
    """A replication slot: positions as integers, `retained_bytes` the WAL that the server keeps for it.

    `wal_status` is reserved, extended, unreserved or lost; `invalidation_reason` is told from PostgreSQL 17.
    """

    confirmed_flush_lsn: int | None
    restart_lsn: int | None
    retained_bytes: int | None
    wal_status: str | None
    active: bool
    invalidation_reason: str | None

    @property
    def is_unread(self) -> bool:
        """Whether nobody reads it who could."""
        return not self.active and self.wal_status != "lost" and self.invalidation_reason is None


def current_lsn(connection: Connection[TupleRow]) -> int:
    """The end of the WAL written so far: everything committed before the call lies before it.

    The insert position, since a commit with synchronous_commit off may not be written out yet.
    """
    row = connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
    return int(row[0]) if row else 0


def slot_state(connection: Connection[TupleRow], slot: str) -> SlotState | None:
    """The slot as the server sees it, None where there is none of that name."""
    query = """
        SELECT (confirmed_flush_lsn - '0/0')::bigint AS confirmed_flush_lsn,
               (restart_lsn - '0/0')::bigint AS restart_lsn,
               (pg_current_wal_lsn() - restart_lsn)::bigint AS retained_bytes,
               wal_status,
               active,
               to_jsonb(s) ->> 'invalidation_reason' AS invalidation_reason
          FROM pg_replication_slots s
         WHERE slot_name = %s
    """
    with connection.cursor(row_factory=class_row(SlotState)) as cursor:
        return cursor.execute(query, [slot]).fetchone()


def publication_digest(connection: Connection[TupleRow], publication: str) -> str:
    """The digest that the canary carries as `publication_digest`: which tables the publication holds."""
    query = """
        SELECT md5(coalesce(string_agg(name, ',' ORDER BY name COLLATE "C"), ''))
          FROM (SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) AS name
                  FROM pg_publication_tables
                 WHERE pubname = %s AND (schemaname, tablename) <> ('deltasync', 'signal')) AS t
    """
    row = connection.execute(query, [publication]).fetchone()
    return str(row[0]) if row else ""


def beat(connection: Connection[TupleRow], pipeline: str, publication: str, slot: str) -> int:
    """Touch the canary and return its new `beat`. It travels once the transaction has committed."""
    row = connection.execute("SELECT deltasync.beat(%s, %s, %s)", [pipeline, publication, slot]).fetchone()
    if row is None or row[0] is None:
        raise RefusedError("The canary on the source did not answer.", remedy="Run `deltasync source setup` again.")
    return int(row[0])
