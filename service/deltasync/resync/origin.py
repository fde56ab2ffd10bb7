"""The table as the source has it: in a snapshot that shows all that Kafka held before it was taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psycopg
from psycopg import IsolationLevel, sql

from deltasync.errors import RefusedError, UnreachableError
from deltasync.postgres.catalog import describe_table
from deltasync.postgres.connect import connect
from deltasync.postgres.types import skipping
from deltasync.resync.snapshot import Snapshot
from deltasync.settings import Settings
from deltasync.source.position import slot_state
from deltasync.table import Table, TableId

_EVERY_S = 0.2
# A row that a policy hides would be deleted on the replica: rather an error. Between two rows the replica may be slow.
_SESSION = {"row_security": "off", "idle_in_transaction_session_timeout": "0"}
_RUNNING = """
    SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::int FROM pg_stat_activity
     WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 1
"""


class Origin(NamedTuple):
    """The source in a snapshot; `table` is the description there, None where it is gone."""

    connection: psycopg.Connection
    snapshot: Snapshot
    table: Table | None

    def copy(self, columns: tuple[str, ...]) -> Iterator[bytes]:
        """The table's rows in COPY's text format, one by one. Blocks while they are read."""
        if self.table is None:
            return
        query = sql.SQL("COPY (SELECT {} FROM {} {}) TO STDOUT").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL("" if self.table.kind == "p" else "ONLY"),
            sql.Identifier(*self.table.id),
        )
        with self.connection.cursor() as cursor, cursor.copy(query) as copy:
            yield from map(bytes, copy)


@contextmanager
def opened(settings: Settings, table: TableId, timeout_s: float, tell: Callable[[str], None]) -> Iterator[Origin]:
    """The source in a snapshot that shows every transaction whose commit was in its log before the call.

    Debezium sends a transaction as soon as its commit is in the log. Snapshots may not show it yet: it waits for a
    synchronous standby, say. So all that run now are waited for. Raises UnreachableError where they do not end within
    `timeout_s`, RefusedError where no slot keeps what comes behind the snapshot.
    """
    with connect(settings.source.conninfo() or "", name="resync", autocommit=True, session=_SESSION) as source:
        _refuse_without_slot(source, settings.slot)
        _wait_for_running(source, timeout_s, tell)
        source.autocommit = False
        source.isolation_level = IsolationLevel.REPEATABLE_READ
        source.read_only = True
        found = describe_table(source, table)
        tables = list(skipping([found] if found else [], settings.skipping, raw_text=settings.connect.raw_text))
        yield Origin(source, _snapshot(source), tables[0] if tables else None)


def complete(settings: Settings, table: TableId, log_id: int, tell: Callable[[str], None]) -> None:
    """Write down on the source that nothing is owed of a table, up to this entry of its log: later ones repeat it.

    Where the role may not, `tell` hears what to do.
    """
    statement = """UPDATE deltasync.schema_log SET complete = true
                    WHERE (schema_name, table_name) = (%s, %s) AND id <= %s AND NOT complete"""
    try:
        with connect(settings.source.admin_conninfo() or "", name="resync") as source:
            source.execute(statement, [*table, log_id])
    except psycopg.errors.InsufficientPrivilege:
        tell(f"{table} is whole; a superuser has to note that in deltasync.schema_log on the source (see the README)")


def _snapshot(source: psycopg.Connection) -> Snapshot:
    row = source.execute("SELECT pg_current_snapshot()::text").fetchone()
    return Snapshot.parse(row[0] if row else "")


def _refuse_without_slot(source: psycopg.Connection, name: str) -> None:
    slot = slot_state(source, name)
    if slot is None or slot.wal_status == "lost":
        raise RefusedError(
            f"The source has no slot {name} that keeps what changes meanwhile.",
            remedy="Have the connector make one (deltasync connectors apply), then read the tables again.",
        )


def _wait_for_running(source: psycopg.Connection, timeout_s: float, tell: Callable[[str], None]) -> None:
    """Return when every transaction that runs now is over.

    Their numbers are below one that is drawn now. Not so below a snapshot's xmax: that is behind the last one that is
    over, and where the newest one still runs, it is that one's own number.
    """
    until, told = time.monotonic() + timeout_s, ""
    drawn = source.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    while drawn and _snapshot(source).xmin < drawn[0]:
        found = source.execute(_RUNNING).fetchone()
        who = "one that was prepared, or of another role" if not found or found[1] is None else f"process {found[0]}"
        if who != told:
            age = f", which began {found[1]} s ago" if found and found[1] is not None else ""
            tell(f"waiting for transactions that run on the source: {who}{age}")
            told = who
        if time.monotonic() > until:
            raise UnreachableError(
                f"A transaction that ran on the source before did not end within {timeout_s:g} s: {who}.",
                remedy="Let it end, or end it; or wait longer with --timeout.",
            )
        time.sleep(_EVERY_S)
