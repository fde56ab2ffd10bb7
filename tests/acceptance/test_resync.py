"""`deltasync resync` beside a commit that Kafka knows of and snapshots of the source do not show yet."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from tests.flow import Flow, until


@contextmanager
def standby_missing(flow: Flow) -> Iterator[None]:
    """Commits wait for a synchronous standby that is not there, where the session asks for that."""
    try:
        flow.source.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        flow.source.execute("SELECT pg_reload_conf()")
        yield
    finally:
        flow.source.execute("ALTER SYSTEM RESET synchronous_standby_names")
        flow.source.execute("SELECT pg_reload_conf()")


def test_a_commit_that_waits_for_its_standby(flow: Flow) -> None:
    """Its row is on the replica before the source shows it: the command waits for it, and leaves the row alone."""
    flow.source.execute(f"ALTER DATABASE {flow.source.info.dbname} SET synchronous_commit = local")
    flow.source.execute("SET synchronous_commit = local")
    flow.set_up("CREATE SCHEMA shop; CREATE TABLE shop.item (id int PRIMARY KEY); INSERT INTO shop.item VALUES (1)")
    flow.start_worker()
    flow.wait_equal("shop.item")
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(flow.pipeline.source_admin, autocommit=True) as late:
            late.execute("SET synchronous_commit = on")
            while not stop.wait(0.05):
                late.execute("INSERT INTO shop.item SELECT max(id) + 1 FROM shop.item")

    writes = threading.Thread(target=write)
    with standby_missing(flow):
        writes.start()
        until(lambda: flow.count("shop.item") > len(flow.rows(flow.source, "shop.item")), "ahead of the source")
        stop.set()
        rows = flow.rows(flow.replica, "shop.item")
        with (flow.folder / "said").open("wb") as said:
            command = subprocess.Popen(
                [sys.executable, "-m", "deltasync.cli.main", "resync", "shop.item"],
                env={"PATH": os.environ["PATH"], **flow.env},
                stderr=said,
                stdout=said,
            )
        told = flow.folder / "said"
        until(lambda: b"waiting for transactions" in told.read_bytes() or command.poll() is not None, "it waits")
        assert command.poll() is None, told.read_text()
    writes.join()
    assert command.wait(30) == 0, told.read_text()
    assert rows == flow.rows(flow.replica, "shop.item") == flow.rows(flow.source, "shop.item")
