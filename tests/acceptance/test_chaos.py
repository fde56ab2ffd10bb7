"""Load, and faults of every kind in an order of their own; what is left in the end is the source, row by row.

`make chaos MINUTES=n` has it go on for longer; SEED=n begins with other choices.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from tests.acceptance.load import SCHEMA, TABLES, Load
from tests.flow import Flow
from tests.servers import Addresses

from deltasync.local.process import Process
from deltasync.local.servers import Servers

SEED = int(os.environ.get("DELTASYNC_TEST_CHAOS_SEED", "20261126"))
MINUTES = float(os.environ.get("DELTASYNC_TEST_CHAOS_MINUTES", "3"))
FAST = {"DELTASYNC_KAFKA_SESSION_TIMEOUT_S": "6"}
# Room on the disk that becomes full.
_DISK_MIB = 192
_SETTLE_S = 240


@pytest.mark.timeout(int(MINUTES * 60 + _SETTLE_S + 240))
def test_chaos(flow: Flow, servers: Addresses) -> None:
    """Every part is killed and frozen, connections are cut, the disk is full, tables change; nothing is lost."""
    if servers.embedded is None:
        pytest.skip("the servers are not ours to kill")
    flow.set_up(SCHEMA)
    flow.start_worker(**FAST)
    flow.wait_equal(*TABLES)
    chaos = Chaos(flow, servers.embedded)
    with _small_disk(flow) as chaos.disk:
        try:
            with Load(flow, SEED, 0.05, persists=True) as load:
                chaos.reign(MINUTES * 60)
            chaos.calm()
            flow.wait_equal(*TABLES, *chaos.made, deadline_s=_SETTLE_S)
            assert flow.replica.execute("SELECT count(*) FROM deltasync.dead_letter").fetchone() == (0,)
        finally:
            print("\n".join(chaos.told))  # noqa: T201 - what happened, where it fails or is asked for
    assert load.transactions > 100
    assert not [entry for worker in flow.workers for entry in worker.blamed()]


class Chaos:
    """Faults, one after the other. `made` are the tables that it made, `told` says what it did and when."""

    def __init__(self, flow: Flow, servers: Servers) -> None:
        self.disk: Path | None = None
        self.made: list[str] = []
        self.told: list[str] = []
        self._flow, self._servers = flow, servers
        self._rng = random.Random(SEED)  # noqa: S311 - so that it can be repeated
        self._began = time.monotonic()

    def reign(self, seconds: float) -> None:
        """Do one thing after the other, each of them before any comes again, until the time is up."""
        faults: list[Callable[[], None]] = []
        while time.monotonic() - self._began < seconds:
            if not faults:
                faults = self._rng.sample(self._faults(), k=len(self._faults()))
            fault = faults.pop()
            self._tell(fault.__name__.strip("_"))
            fault()
            time.sleep(self._rng.uniform(0.5, 4))
            self._see_to_worker()

    def calm(self) -> None:
        """All servers are there, and a worker."""
        self._servers.start()
        self._servers.connect.wait()
        self._see_to_worker()
        self._tell("calm")

    def _faults(self) -> list[Callable[[], None]]:
        found = [
            *(self._kill_worker, self._freeze_worker, self._second_worker),
            *(self._kill_connect, self._freeze_connect, self._kill_kafka, self._freeze_kafka),
            *(self._crash_replica, self._stop_replica, self._freeze_replica, self._cut_replica),
            *(self._crash_source, self._freeze_source, self._cut_source, self._lock_replica),
            *(self._add_column, self._create_table, self._truncate),
        ]
        return found if self.disk is None else [*found, self._fill_disk]

    def _see_to_worker(self) -> None:
        """What whoever supervises the service does: one that has ended is started again."""
        if all(worker.process.poll() is not None for worker in self._flow.workers):
            self._flow.start_worker(**FAST, DELTASYNC_BATCH_ROWS_MAX=self._rng.choice(("50", "500", "20000")))

    def _tell(self, what: str) -> None:
        self.told.append(f"{time.monotonic() - self._began:6.1f} s {what}")

    # Workers

    def _kill_worker(self) -> None:
        self._flow.workers[-1].kill()

    def _freeze_worker(self) -> None:
        worker = self._flow.workers[-1]
        worker.signal(signal.SIGSTOP)
        time.sleep(self._rng.choice((1, 3, 9)))  # the last one is longer than the group waits
        worker.signal(signal.SIGCONT)

    def _second_worker(self) -> None:
        self._flow.start_worker(**FAST)
        time.sleep(3)
        self._flow.workers[-1].kill()

    # Servers

    def _kill_connect(self) -> None:
        self._again(self._servers.connect.process, signal.SIGKILL)

    def _freeze_connect(self) -> None:
        self._freeze(self._servers.connect.process)

    def _kill_kafka(self) -> None:
        self._again(self._servers.kafka.process, signal.SIGKILL)

    def _freeze_kafka(self) -> None:
        self._freeze(self._servers.kafka.process)

    def _crash_replica(self) -> None:
        self._again(self._servers.replica.process, signal.SIGQUIT)

    def _stop_replica(self) -> None:
        self._again(self._servers.replica.process, signal.SIGINT)

    def _freeze_replica(self) -> None:
        self._freeze(self._servers.replica.process)

    def _crash_source(self) -> None:
        self._again(self._servers.source.process, signal.SIGQUIT)

    def _freeze_source(self) -> None:
        self._freeze(self._servers.source.process)

    def _again(self, process: Process, how: signal.Signals) -> None:
        process.stop(how)
        time.sleep(self._rng.uniform(0, 3))
        self._servers.start()
        self._flow.reconnect()

    def _freeze(self, process: Process) -> None:
        leader = process.find()
        assert leader is not None
        family = [leader, *leader.children(recursive=True)]
        for one in family:
            one.suspend()
        time.sleep(self._rng.uniform(1, 8))
        for one in reversed(family):
            one.resume()

    def _cut_replica(self) -> None:
        self._cut(self._flow.replica)

    def _cut_source(self) -> None:
        self._cut(self._flow.source)

    def _cut(self, connection: psycopg.Connection[object]) -> None:
        mine = "datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")

    def _lock_replica(self) -> None:
        with psycopg.connect(self._flow.pipeline.replica_admin) as other:
            other.execute("LOCK TABLE shop.item IN SHARE MODE")
            time.sleep(3)

    def _fill_disk(self) -> None:
        """The replica's tables lie on a small disk: it takes no more rows for a while."""
        assert self.disk is not None
        fill = self.disk / "fill"
        with suppress(OSError), fill.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
        time.sleep(4)
        fill.unlink()

    # Tables

    def _add_column(self) -> None:
        self._flow.source.execute(f"ALTER TABLE shop.item ADD COLUMN c{len(self.told)} int NOT NULL DEFAULT 7")

    def _create_table(self) -> None:
        name = f"shop.made_{len(self.told)}"
        with self._flow.source.transaction():
            self._flow.source.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, what text)")
            self._flow.source.execute(f"INSERT INTO {name} SELECT n, 'made' FROM generate_series(1, 100) n")
        self.made.append(name)

    def _truncate(self) -> None:
        self._flow.source.execute("TRUNCATE shop.pair")


@contextmanager
def _small_disk(flow: Flow) -> Iterator[Path | None]:
    """A disk of its own for the replica's tables; None where this user may not mount one."""
    folder = Path(tempfile.mkdtemp(prefix="deltasync-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m,mode=0711", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        folder.rmdir()
        yield None
        return
    try:
        with _tables_on(flow, folder / "tables"):
            yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)
        folder.rmdir()


@contextmanager
def _tables_on(flow: Flow, place: Path) -> Iterator[None]:
    """The replica's tables in a tablespace there; what is made later lies elsewhere."""
    place.mkdir(mode=0o700)
    (data,) = flow.replica.execute("SHOW data_directory").fetchone() or ("",)
    owner = Path(data).stat()
    os.chown(place, owner.st_uid, owner.st_gid)
    name = f"{flow.settings.pipeline}_disk"
    flow.replica.execute(f"CREATE TABLESPACE {name} LOCATION '{place}'")
    for table in (*TABLES, "deltasync.ledger"):
        flow.replica.execute(f"ALTER TABLE {table} SET TABLESPACE {name}")
    try:
        yield
    finally:
        for worker in flow.workers:
            worker.close()
        flow.reconnect()
        for table in (*TABLES, "deltasync.ledger"):
            flow.replica.execute(f"ALTER TABLE {table} SET TABLESPACE pg_default")
        flow.replica.execute(f"DROP TABLESPACE {name}")
