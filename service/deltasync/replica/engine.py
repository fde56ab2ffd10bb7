"""Connections to the replica: SQLAlchemy for the tables of ours, with psycopg's COPY in the same transaction."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from deltasync.errors import RefusedError
from deltasync.postgres.connect import connect
from deltasync.replica.tables import VERSION, version
from deltasync.settings import Settings

# A worker that is frozen inside a transaction holds the ledger's locks no longer than this.
_IDLE_S_MAX = 15
_TRANSACTION_S_MAX = 300
# A lock on the ledger is another worker's transaction; behind one that is frozen we try again.
_LOCK_S_MAX = 10
TRANSACTION_TIMEOUT_SINCE = 170_000


def alchemy(create: Callable[[], psycopg.Connection]) -> sa.Connection:
    """A SQLAlchemy connection on a psycopg connection of ours; closing it closes both."""
    return sa.create_engine("postgresql+psycopg://", creator=create, poolclass=NullPool).connect()


def driver(connection: sa.Connection) -> psycopg.Connection:
    """The psycopg connection below, which shares the transaction."""
    found = connection.connection.driver_connection
    if not isinstance(found, psycopg.Connection):
        raise TypeError(type(found))
    return found


def open_replica(settings: Settings, *, name: str) -> sa.Connection:
    """Connect as the service's role. Raises RefusedError where the schema `deltasync` is not of our version."""
    settings.need("replica.dsn")
    session = {
        "synchronous_commit": settings.replica.synchronous_commit,
        "lock_timeout": f"{_LOCK_S_MAX}s",
        "idle_in_transaction_session_timeout": f"{_IDLE_S_MAX}s",
    }

    def create() -> psycopg.Connection:
        connection = connect(settings.replica.conninfo() or "", name=name, session=session)
        if connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
            connection.execute(f"SET transaction_timeout = '{_TRANSACTION_S_MAX}s'")
            connection.commit()
        return connection

    connection = alchemy(create)
    try:
        with connection.begin():
            _refuse_other_version(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _refuse_other_version(connection: sa.Connection) -> None:
    if not sa.inspect(connection).has_table(version.name, schema=version.schema):
        raise RefusedError("The replica has no schema deltasync.", remedy="Run deltasync replica setup.")
    found = connection.execute(sa.select(version.c.version)).scalar_one()
    if found > VERSION:
        raise newer_version(found)
    if found < VERSION:
        raise RefusedError(
            f"The replica's tables are of version {found}, this deltasync needs {VERSION}.",
            remedy="Run deltasync replica setup: it migrates them.",
        )


def newer_version(found: int) -> RefusedError:
    """The refusal to touch tables that a newer deltasync made."""
    return RefusedError(
        f"The replica was set up by a newer deltasync (version {found} of its tables, this one knows {VERSION}).",
        remedy="Run the newer deltasync.",
    )
