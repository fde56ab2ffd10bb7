"""Standby servers: a synchronous one that is not there, and one that takes a killed primary's place."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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
    if servers.embedded is None or servers.folder is None:
        pytest.skip("the servers are not ours to kill")
    primary: PostgresServer = getattr(servers.embedded, part)
    state = states.load(Path(servers.folder))
    assert state is not None
    server = PostgresServer(f"{part}_standby", Path(servers.folder), _free_port(), state.admin_password)
    home = Path(state.postgres_home)
    try:
        _copy(primary, postgres.install(home), home / server.process.name, settings)
        server.start(postgres.install(home))
        server.wait()
        found = Standby(server)
        try:
            yield found
        finally:
            found.close()
    finally:
        server.process.stop(signal.SIGQUIT)
        shutil.rmtree(home / server.process.name, ignore_errors=True)
        servers.embedded.start()
        with psycopg.connect(primary.dsn(), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM RESET synchronized_standby_slots")
            admin.execute("SELECT pg_reload_conf()")
            admin.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [_SLOT]
            )


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
