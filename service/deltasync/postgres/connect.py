"""One way to connect to PostgreSQL: bounded waits, pinned session settings, no transaction pooler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import LiteralString

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from deltasync.errors import RefusedError, UnreachableError
from deltasync.settings import readable_conninfo

# A dead peer is noticed after 10 + 3 * 5 s when idle, after 30 s with data on the way.
_LINK: dict[str, str | int] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "client_encoding": "UTF8",
}
# Values are read and written as text in these forms, and a frozen session must not hold its locks for ever.
_SESSION = {
    "search_path": "pg_catalog",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}

_TURNED_DOWN = "Correct the user, the password or the database in the DSN, or pg_hba.conf on the server."
_FULL = (
    "End connections that nobody needs, or raise max_connections on the server, or the CONNECTION LIMIT of the role or "
    "the database."
)


def connect(
    conninfo: str, *, name: str, autocommit: bool = False, session: Mapping[str, str] | None = None
) -> Connection[TupleRow]:
    """Connect as `deltasync:<name>`; `session` overrides or adds session settings (`{"lock_timeout": "0"}`).

    Of several hosts, to the first that takes writes, unless the string says otherwise. Blocks up to 10 s per host.
    Raises SettingsError for a connection string that cannot be read, UnreachableError where the server does not answer
    or turns the login down, RefusedError for a database that is not UTF8 or a pooler that hands out its backend anew
    for each transaction.
    Errors name host, port and database, never the password.
    """
    connection = _open(conninfo, name)
    try:
        _refuse_encoding(connection, conninfo)
        backend = _pin(connection, {**_SESSION, **(session or {})})
        if backend != connection.info.backend_pid:
            _refuse_transaction_pooler(connection, backend, conninfo, name)
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


def connect_for_replication(conninfo: str, *, name: str) -> Connection[TupleRow]:
    """Connect as `deltasync:<name>` for the commands of the replication protocol; no settings are pinned.

    Blocks and raises as `connect`, which has to have been asked before: nothing is refused here.
    """
    return _open(make_conninfo(conninfo, replication="database"), name)


def where(conninfo: str) -> str:
    """`host:port/database` of a connection string, for messages; of several hosts, `host:port,host:port/database`."""
    known = conninfo_to_dict(conninfo)
    hosts, ports = (str(known.get(*one)).split(",") for one in (("host", "localhost"), ("port", 5432)))
    ports = ports * len(hosts) if len(ports) == 1 else ports
    places = ",".join(f"{host}:{port or 5432}" for host, port in zip(hosts, ports, strict=False))
    return f"{places}/{known.get('dbname', known.get('user', ''))}"


def _open(conninfo: str, name: str) -> Connection[TupleRow]:
    known = conninfo_to_dict(readable_conninfo(conninfo))
    given = {"target_session_attrs": "read-write"} if "," in str(known.get("host")) else {}
    complete = make_conninfo("", **{**given, **known, **_LINK, "application_name": f"deltasync:{name}"})
    try:
        return psycopg.connect(complete, autocommit=True)
    except psycopg.OperationalError as error:
        raise _unreachable(str(error), conninfo) from None


def _unreachable(text: str, conninfo: str) -> UnreachableError:
    # libpq reports a refused login by text alone: "connection to server at ... failed: FATAL:  <why>".
    _, refused, why = text.partition("FATAL:")
    if refused:
        full = "too many" in why or "remaining connection slots" in why
        return UnreachableError(
            f"PostgreSQL at {where(conninfo)} turned the connection down: {_first_line(why)}.",
            remedy=_FULL if full else _TURNED_DOWN,
        )
    return UnreachableError(
        f"PostgreSQL at {where(conninfo)} does not answer: {_first_line(text.rpartition('failed:')[2])}.",
        remedy="Check that it runs, and that host, port and firewall are right.",
    )


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no reason given").strip().rstrip(".")


def _refuse_encoding(connection: Connection[TupleRow], conninfo: str) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise RefusedError(
            f"The database {where(conninfo)} is encoded in {encoding}, in which not every text can be carried.",
            remedy="Use a database whose encoding is UTF8.",
        )


def _pin(connection: Connection[TupleRow], session: Mapping[str, str]) -> int:
    """Set the session's settings in one round trip; returns the backend that they were set in."""
    query = """
        SELECT pg_backend_pid(),
               (SELECT count(set_config(key, value, false)) FROM unnest(%s::text[], %s::text[]) AS s (key, value))
    """
    return _number(connection, query, [list(session), list(session.values())])


def _backend(connection: Connection[TupleRow]) -> int:
    return _number(connection, "SELECT pg_backend_pid()")


def _number(connection: Connection[TupleRow], query: LiteralString, values: Sequence[object] = ()) -> int:
    row = connection.execute(query, values).fetchone()
    return int(row[0]) if row else 0


def _refuse_transaction_pooler(connection: Connection[TupleRow], backend: int, conninfo: str, name: str) -> None:
    """The server at the other end is not the one that greeted us: let it pass only if it stays ours.

    A pooler in transaction mode gives an idle backend to whoever asks next, so a second client in a
    transaction either gets ours, or leaves us with another one.
    """
    with _open(conninfo, name) as second, second.transaction():
        if _backend(second) != backend and _backend(connection) == backend and _backend(connection) == backend:
            return
    raise RefusedError(
        f"The connection to {where(conninfo)} goes through a pooler in transaction mode.",
        remedy="Connect to PostgreSQL itself, or set the pooler to session mode for this user.",
    )
