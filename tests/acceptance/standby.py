"""Servers beside those of the stack: a standby that is not there, one that takes over, another source."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.flow import Flow, until
from tests.servers import Addresses

from deltasync.local import postgres
from deltasync.local import state as states
from deltasync.local.postgres import Installation, PostgresServer

# The physical slot by which a standby follows.
_SLOT = "standby"
# Puts data into a server's folder before its first start; given the server that it stands beside.
Prepare = Callable[[PostgresServer, Installation, Path], None]


@contextmanager
def standby_missing(flow: Flow) -> Iterator[None]:
    """Commits wait for it, where their connection asks for that."""
    try:
        flow.source.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        flow.source.execute("SELECT pg_reload_conf()")
        yield
    finally:
        flow.source.execute("ALTER SYSTEM RESET synchronous_standby_names")
        flow.source.execute("SELECT pg_reload_conf()")


class Standby:
    """A server that streams from another one of the embedded stack: cut off from it, or made a primary."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._admin = psycopg.connect(server.dsn(), autocommit=True)

    def beside(self, dsn: str, **more: str) -> str:
        """A connection string that names both servers, this one first."""
        port = conninfo_to_dict(dsn)["port"]
        return make_conninfo(dsn, host="127.0.0.1,127.0.0.1", port=f"{self.server.port},{port}", **more)

    def keeps(self, slot: str) -> bool:
        """True once it has a copy of a slot that outlives the primary."""
        query = "SELECT FROM pg_replication_slots WHERE slot_name = %s AND synced AND NOT temporary"
        return self._admin.execute(query, [slot]).rowcount == 1

    def at(self, dsn: str) -> str:
        """A connection string for the same database and role here."""
        return make_conninfo(dsn, port=self.server.port)

    def cut_off(self) -> None:
        """Let nothing more reach it."""
        self._admin.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self._admin.execute("SELECT pg_reload_conf()")
        until(lambda: self._admin.execute("SELECT FROM pg_stat_wal_receiver").rowcount == 0, "nothing reaches it")

    def promote(self) -> None:
        """Make it a primary, of another timeline."""
        self._admin.execute("SELECT pg_promote()")

    def close(self) -> None:
        self._admin.close()
        self.server.process.stop(signal.SIGQUIT)


@contextmanager
def standby_of(servers: Addresses, part: str, settings: str = "") -> Iterator[Standby]:
    """A standby of the stack's `source` or `replica`, which runs again in the end, as it was when it was left."""
    with _beside(servers, part, partial(_copy, settings=settings)) as server:
        found = Standby(server)
        try:
            yield found
        finally:
            found.close()


@contextmanager
def another_source(servers: Addresses, dsn: str) -> Iterator[PostgresServer]:
    """A cluster of its own that holds what a database of the stack's source holds now."""
    with _beside(servers, "source", lambda _source, _installation, _folder: None) as server:
        name = str(conninfo_to_dict(dsn)["dbname"])
        server.create_database(name)
        assert servers.folder is not None
        programs = postgres.install(Path(states.load_or_make(Path(servers.folder)).postgres_home)).bin
        dump = [str(programs / "pg_dump"), "--no-owner", "--no-privileges", dsn]
        dumped = subprocess.run(dump, check=True, capture_output=True)
        restore = [str(programs / "psql"), "--quiet", "--set=ON_ERROR_STOP=1", server.dsn(name)]
        subprocess.run(restore, input=dumped.stdout, check=True, capture_output=True)
        yield server


@contextmanager
def _beside(servers: Addresses, part: str, prepare: Prepare) -> Iterator[PostgresServer]:
    """A server beside one of the stack's, which a test may kill: it runs again in the end."""
    if servers.embedded is None or servers.folder is None:
        pytest.skip("the servers are not ours to kill")
    primary: PostgresServer = getattr(servers.embedded, part)
    state = states.load_or_make(Path(servers.folder))
    server = PostgresServer(f"{part}_beside", Path(servers.folder), _free_port(), state.admin_password)
    installation = postgres.install(Path(state.postgres_home))
    folder = installation.home / server.process.name
    try:
        prepare(primary, installation, folder)
        server.start(installation)
        server.wait()
        yield server
    finally:
        server.process.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)
        servers.embedded.start()
        with psycopg.connect(primary.dsn(), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM RESET synchronized_standby_slots")
            admin.execute("SELECT pg_reload_conf()")
            query = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s"
            admin.execute(query, [_SLOT])


def _copy(primary: PostgresServer, installation: Installation, folder: Path, settings: str) -> None:
    folder.mkdir(mode=0o700)
    if installation.user is not None and installation.group is not None:
        os.chown(folder, installation.user, installation.group)
    copies = ["--write-recovery-conf", "--wal-method=stream", "--create-slot", f"--slot={_SLOT}"]
    hurries = ["--checkpoint=fast", "--no-sync", "--no-manifest"]
    subprocess.run(
        [installation.bin / "pg_basebackup", f"--dbname={primary.dsn()}", "--pgdata=data", *copies, *hurries],
        cwd=folder,
        user=installation.user,
        group=installation.group,
        extra_groups=None if installation.user is None else [],
        check=True,
        capture_output=True,
        timeout=60,
    )
    with (folder / "data" / "postgresql.auto.conf").open("a") as file:
        file.write(settings)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
