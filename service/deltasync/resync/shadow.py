"""A table beside the replica's own, in which what it is to hold is put together: `deltasync.resync_…`.

Its name is the lock, too: one session has it. What a session left behind is free, and is dropped by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b

import psycopg
from msgspec.structs import replace
from psycopg import sql

from deltasync.errors import RefusedError
from deltasync.replica import ddl
from deltasync.replica.tables import SCHEMA
from deltasync.table import Table, TableId

_PREFIX = "resync_"
# The session of a command that was killed a moment ago may still be ending.
_LOCK_S_MAX = 5
_TELL_EVERY = 100_000


def taken(connection: psycopg.Connection, pipeline: str, table: TableId) -> str:
    """The name of a table's shadow, locked until the connection ends. Raises RefusedError where another one has it.

    Commits.
    """
    name = _PREFIX + blake2b("\0".join((pipeline, *table)).encode(), digest_size=8).hexdigest()
    try:
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(f"{_LOCK_S_MAX}s"))
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    except psycopg.errors.LockNotAvailable:
        connection.rollback()
        raise RefusedError(
            f"The table {table} is being read again already.", remedy="Let the other deltasync resync end."
        ) from None
    connection.commit()
    return name


def sweep(connection: psycopg.Connection) -> None:
    """Drop the shadows that no session has. Commits."""
    found = connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = %s AND starts_with(tablename, %s)", [SCHEMA, _PREFIX]
    ).fetchall()
    for (name,) in found:
        row = connection.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [name]).fetchone()
        if row and row[0]:
            drop(connection, name)
        connection.commit()


def drop(connection: psycopg.Connection, name: str) -> None:
    """Drop a shadow, if it is there."""
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(SCHEMA, name)))


def like(target: Table, description: Table, name: str) -> Table:
    """The shadow of the replica's table: the columns that the source fills, of the replica's types; and its key."""
    wanted = {column.name for column in description.stored_columns}
    columns = tuple(
        replace(column, default=None, identity=None, generated=None, not_null=False)
        for column in target.columns
        if column.name in wanted
    )
    return replace(target, schema=SCHEMA, name=name, columns=columns)


def make(connection: psycopg.Connection, shadow: Table) -> None:
    """Make it anew, empty. Nobody reads it after a crash, so that it needs no WAL."""
    drop(connection, shadow.name)
    ddl.execute(connection, ddl.create_table(shadow, with_defaults=False, unlogged=True))


def fill(connection: psycopg.Connection, shadow: Table, rows: Iterable[bytes], tell: Callable[[str], None]) -> int:
    """Write rows in COPY's text format, in the order of its columns; returns how many. Holds one at a time."""
    query = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(*shadow.id), sql.SQL(", ").join(sql.Identifier(column.name) for column in shadow.columns)
    )
    count = 0
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for row in rows:
            copy.write(row)
            count += 1
            if count % _TELL_EVERY == 0:
                tell(f"read {count:,} rows")
    return count


def analyze(connection: psycopg.Connection, shadow: Table) -> None:
    """Have the planner know how large it is."""
    connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(*shadow.id)))
