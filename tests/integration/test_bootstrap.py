"""`deltasync bootstrap` on real parts: what is in its way, what topics held before, and how it ends early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from tests.flow import Flow, until

from deltasync.bootstrap.run import Job, bootstrap
from deltasync.connect.apply import find_status
from deltasync.connect.client import ConnectClient
from deltasync.errors import DeltasyncError, RefusedError, UnreachableError
from deltasync.replica.setup import setup as replica_setup
from deltasync.source.position import slot_state
from deltasync.source.setup import setup as source_setup

SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.large (id int PRIMARY KEY, code text UNIQUE, big text);
    CREATE TABLE shop.small (id int PRIMARY KEY, large int REFERENCES shop.large, wide text, n int, CHECK (id < 1000));
    ALTER TABLE shop.small ALTER wide SET STORAGE EXTERNAL;
    CREATE FUNCTION shop.half(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT n / 2';
    CREATE INDEX by_half ON shop.small (shop.half(id));
    INSERT INTO shop.large SELECT n, n, repeat('x', 500) FROM generate_series(1, 1000) n;
    INSERT INTO shop.small SELECT n, n, repeat('w', 3000) FROM generate_series(1, 10) n;
"""
TABLES = ("shop.large", "shop.small")
# Of the replica alone; it was there before the rows.
OWN = "CREATE INDEX own ON shop.large (big); ALTER TABLE shop.small ADD CONSTRAINT own_too UNIQUE (large)"
GATE = """
    CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$;
    CREATE TRIGGER wait BEFORE INSERT ON shop.large FOR EACH ROW EXECUTE FUNCTION public.wait();
    ALTER TABLE shop.large ENABLE ALWAYS TRIGGER wait;
"""
INDEXES = """
    SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid IN ('shop.large'::regclass, 'shop.small'::regclass)
    UNION SELECT conname FROM pg_constraint WHERE contype IN ('c', 'f') AND connamespace = 'shop'::regnamespace
"""
MADE = {
    *("shop.large_pkey", "shop.large_code_key", "shop.own", "shop.small_pkey", "shop.own_too"),
    *("small_large_fkey", "small_id_check"),
}


def set_up(flow: Flow) -> None:
    flow.source.execute(SCHEMA)
    source_setup(flow.settings)
    replica_setup(flow.settings)
    flow.replica.execute(OWN)


def indexes(flow: Flow) -> set[str]:
    return {name for (name,) in flow.replica.execute(INDEXES)}


def refused(flow: Flow, error: type[DeltasyncError], words: str, job: Job | None = None) -> None:
    with pytest.raises(error, match=words):
        bootstrap(flow.settings, job or Job())
    assert flow.replica.execute("SELECT count(*) FROM deltasync.bootstrap").fetchone() == (0,)


@contextmanager
def gated(flow: Flow) -> Iterator[subprocess.Popen[str]]:
    """The command with one job, which waits at the first row of the larger table until the block ends."""
    with psycopg.connect(flow.pipeline.replica_admin, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(42)")
        with subprocess.Popen(
            [sys.executable, "-m", "deltasync.cli.main", "bootstrap", "--jobs", "1"],
            env={"PATH": os.environ["PATH"], **flow.env},
            stderr=subprocess.PIPE,
            text=True,
        ) as command:
            waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted"
            try:
                until(lambda: gate.execute(waits).rowcount or command.poll() is not None, "it waits")
                yield command
                gate.execute("SELECT pg_advisory_unlock(42)")
                if command.poll() is None:
                    said = command.communicate(timeout=60)[1]
                    assert command.returncode == 0, said
            finally:
                command.kill()


def test_what_is_in_its_way(flow: Flow) -> None:
    """Nothing is begun then, and no slot is left behind that holds the source's log."""
    set_up(flow)
    flow.replica.execute("INSERT INTO shop.small VALUES (1, 1)")
    refused(flow, RefusedError, r"hold rows already: shop\.small")
    assert slot_state(flow.source, flow.settings.slot) is None
    flow.replica.execute("TRUNCATE shop.small")
    flow.replica.execute("ALTER TABLE shop.small ALTER large TYPE smallint")
    refused(flow, RefusedError, r"shop\.small does not fit")
    flow.replica.execute("ALTER TABLE shop.small ALTER large TYPE int")
    with psycopg.connect(flow.pipeline.source_admin) as writer:
        writer.execute("SELECT pg_current_xact_id()")
        refused(flow, UnreachableError, "did not end within", Job(timeout_s=0.5))
    flow.source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [flow.settings.slot])
    refused(flow, RefusedError, "has a slot")
    assert slot_state(flow.source, flow.settings.slot) is not None
    assert indexes(flow) >= {"shop.large_pkey", "shop.own", "shop.small_pkey", "shop.own_too"}


def test_topics_hold_records_already(flow: Flow) -> None:
    """Those are not applied, applied before or not; nor does the connector go on where an earlier one was."""
    set_up(flow)
    source = flow.settings.source.model_copy(update={"failover": True})
    report = bootstrap(flow.settings.model_copy(update={"source": source}), Job(jobs=2))
    failover = "SELECT failover FROM pg_replication_slots WHERE slot_name = %s"
    assert flow.source.execute(failover, [flow.settings.slot]).fetchone() == (True,)
    assert [(one.table, one.rows) for one in report.tables] == [("shop.large", 1000), ("shop.small", 10)]
    assert [note.split(":")[0] for note in report.notes] == ["by_half of shop.small is not made on the replica"]
    assert indexes(flow) == MADE
    worker = flow.start_worker()
    flow.source.execute("INSERT INTO shop.small VALUES (11, 11); DELETE FROM shop.small WHERE id = 1")
    flow.wait_equal(*TABLES)
    assert "The connector" in flow.cli("bootstrap", code=1)
    _delete_connector(flow)
    refused(flow, RefusedError, "workers that run")
    flow.start_connector(snapshot__mode="no_data")
    assert worker.stop() == 0
    flow.source.execute("UPDATE shop.large SET big = 'y' WHERE id = 7; INSERT INTO shop.small VALUES (12, 12)")
    flow.source.execute(
        "SELECT deltasync.beat(%s, %s, %s)", [flow.settings.pipeline, flow.settings.publication, flow.settings.slot]
    )
    flow.cli("wait", "--timeout", "2", code=1)
    _delete_connector(flow)
    until(lambda: flow.streaming() is None, "the slot is free")
    flow.source.execute("SELECT pg_drop_replication_slot(%s)", [flow.settings.slot])
    flow.source.execute("DELETE FROM shop.small WHERE id IN (11, 12)")
    flow.source.execute(
        "UPDATE shop.large SET code = 'moved' WHERE id = 8; UPDATE shop.large SET code = 8 WHERE id = 7"
    )
    flow.replica.execute("TRUNCATE shop.large, shop.small")
    bootstrap(flow.settings, Job())
    worker = flow.start_worker()
    flow.source.execute("INSERT INTO shop.small VALUES (13, 13)")
    flow.wait_equal(*TABLES)
    assert (worker.blamed(), indexes(flow)) == ([], MADE)
    url = worker.events("monitor answers")[-1]["url"]
    flow.env["DELTASYNC_MONITOR_URL"] = url
    until(lambda: flow.monitor("/readyz").status_code == 200, "ready")


def _delete_connector(flow: Flow) -> None:
    with ConnectClient(flow.settings.connect.url or "") as client:
        client.delete(flow.connector)
        until(lambda: find_status(client, flow.connector) is None, "the connector is gone")


def test_tables_change_meanwhile(flow: Flow) -> None:
    """DDL waits for a table that is being read; one that is not yet begins again where its rows were written anew."""
    set_up(flow)
    flow.replica.execute(GATE)
    with gated(flow):
        with pytest.raises(psycopg.errors.LockNotAvailable):
            flow.source.execute("SET lock_timeout = '0.2s'; TRUNCATE shop.large CASCADE")
        flow.source.execute("UPDATE shop.small SET large = 19 WHERE id = 5; DELETE FROM shop.small WHERE id = 6")
        flow.source.execute("ALTER TABLE shop.small ADD more int DEFAULT 5")
        # Its rows are written anew, so that no snapshot from before shows any, and no record tells of it.
        flow.source.execute("ALTER TABLE shop.small ALTER n TYPE int USING 100")
        flow.source.execute("UPDATE shop.small SET large = 14 WHERE id = 4; DELETE FROM shop.small WHERE id = 3")
    worker = flow.start_worker()
    flow.source.execute("INSERT INTO shop.small VALUES (12, 27, 'w', 7); INSERT INTO shop.large VALUES (2000)")
    flow.wait_equal(*TABLES)
    assert worker.blamed() == []
    assert flow.replica.execute("SELECT bool_and(complete) FROM deltasync.source_table").fetchone() == (True,)


def test_it_ends_early(flow: Flow) -> None:
    """By Ctrl-C, or with a server: it says how to go on. `--anew` begins again, with another slot."""
    set_up(flow)
    flow.replica.execute(GATE)
    with gated(flow) as command:
        assert "Another deltasync bootstrap" in flow.cli("bootstrap", code=1)
        command.send_signal(signal.SIGINT)
        said = command.communicate(timeout=15)[1]
        assert (command.returncode, "run deltasync bootstrap again to go on" in said) == (130, True)
    with gated(flow) as command:
        flow.end_sessions()
        said = command.communicate(timeout=15)[1]
        assert (command.returncode, "PostgreSQL failed" in said) == (3, True), said
    before = slot_state(flow.source, flow.settings.slot)
    assert before is not None
    flow.source.execute("ALTER TABLE shop.large ADD more int; DROP TABLE shop.small")
    assert "shop.small is not captured on the source any more" in flow.cli("bootstrap", code=1)
    advance = "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())"
    flow.source.execute(advance, [flow.settings.slot])
    assert "was read by somebody" in flow.cli("bootstrap", code=1)
    flow.cli("bootstrap", "--anew")
    after = slot_state(flow.source, flow.settings.slot)
    assert after is not None
    assert (after.confirmed_flush_lsn or 0) > (before.confirmed_flush_lsn or 0)
    flow.start_worker()
    flow.source.execute("INSERT INTO shop.large (id, more) VALUES (2000, 1)")
    flow.wait_equal("shop.large")
    assert indexes(flow) >= {"shop.large_pkey", "shop.large_code_key", "shop.own", "shop.own_too"}
