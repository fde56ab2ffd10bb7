"""Connecting to PostgreSQL: what a session is pinned to, and what is turned away with which words."""

from __future__ import annotations

import socket

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.conftest import Pipeline
from tests.integration.pooler import pooler

from deltasync.errors import RefusedError, SettingsError, UnreachableError
from deltasync.postgres.connect import connect

SECRET = "do-not-show-me"  # noqa: S105 - the test looks for it in messages


def test_a_session_is_pinned(pipeline: Pipeline) -> None:
    with connect(pipeline.source_admin, name="here", session={"lock_timeout": "1s"}) as connection:
        query = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
        names = ["application_name", "search_path", "TimeZone", "client_encoding", "lock_timeout"]
        assert dict(connection.execute(query, [names]).fetchall()) == {
            "application_name": "deltasync:here",
            "search_path": "pg_catalog",
            "TimeZone": "UTC",
            "client_encoding": "UTF8",
            "lock_timeout": "1000",
        }
        assert connection.autocommit is False


def test_a_server_that_is_not_there(pipeline: Pipeline) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        dsn = make_conninfo(pipeline.source_admin, host="127.0.0.1", port=port, password=SECRET)
        with pytest.raises(UnreachableError, match=rf":{port}/\w+ does not answer: .*refused") as unreachable:
            connect(dsn, name="test")

    assert SECRET not in str(unreachable.value)
    assert "\n" not in unreachable.value.what


def test_several_hosts(pipeline: Pipeline) -> None:
    """The first that answers and takes writes; where none does, all are named."""
    port = conninfo_to_dict(pipeline.source_admin)["port"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = unused.getsockname()[1]
        two = make_conninfo(pipeline.source_admin, host="127.0.0.1,127.0.0.1", port=f"{gone},{port}")
        with connect(two, name="test") as connection:
            assert connection.info.port == int(port or 0)
        with pytest.raises(UnreachableError, match=rf"at 127\.0\.0\.1:{gone},127\.0\.0\.1:1/\w+ does not answer"):
            connect(make_conninfo(two, port=f"{gone},1"), name="test")


def test_a_login_that_is_turned_down(pipeline: Pipeline) -> None:
    with pytest.raises(UnreachableError, match='turned the connection down: database "no_such'):
        connect(make_conninfo(pipeline.source_admin, dbname="no_such_database"), name="test")
    with pytest.raises(UnreachableError, match="turned the connection down") as refused:
        connect(make_conninfo(pipeline.source_admin, user="nobody_here", password=SECRET), name="test")

    assert SECRET not in str(refused.value)


def test_a_connection_string_that_is_none() -> None:
    with pytest.raises(SettingsError) as wrong:
        connect(f"postgresql://user:{SECRET}@[", name="test")

    assert SECRET not in str(wrong.value)


def test_a_database_that_is_not_utf8(pipeline: Pipeline) -> None:
    name = f"{pipeline.name}_latin"
    with psycopg.connect(pipeline.source_admin, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc")
        try:
            with pytest.raises(RefusedError, match="LATIN1"):
                connect(make_conninfo(pipeline.source_admin, dbname=name), name="test")
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("by_transaction", [True, False])
def test_a_pooler_is_refused_only_in_transaction_mode(pipeline: Pipeline, *, by_transaction: bool) -> None:
    known = conninfo_to_dict(pipeline.source_admin)
    upstream = str(known["host"]), int(known["port"] or 0)
    with pooler(upstream, by_transaction=by_transaction) as port:
        dsn = make_conninfo(pipeline.source_admin, host="127.0.0.1", hostaddr="127.0.0.1", port=port)
        if by_transaction:
            with pytest.raises(RefusedError, match="transaction mode"):
                connect(dsn, name="test")
        else:
            with connect(dsn, name="test") as connection:
                assert connection.execute("SHOW search_path").fetchone() == ("pg_catalog",)
