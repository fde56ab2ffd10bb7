"""What breaks around the service: it says so, stops no more than it must, loses nothing, and goes on by itself."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest
from tests.acceptance.load import SCHEMA, TABLES, Load, offsets, wait_for_work
from tests.acceptance.topics import Found, Topics, record
from tests.flow import Flow, Worker, until
from tests.servers import Addresses

SEED = 8_128
NOTICED_S = 15
# In every record that cannot be applied, and never in a log.
VALUE = "s3cr3t-v4lue"


def test_publication_dropped(flow: Flow) -> None:
    """Connect goes on RUNNING while rows are lost: readiness says why not."""
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    flow.wait_equal(*TABLES)
    with Load(flow, SEED):
        until(lambda: _readiness(worker) is None, "ready")
        flow.source.execute(f"DROP PUBLICATION {flow.settings.publication}")
        until(lambda: _readiness(worker), "not ready", NOTICED_S)
        assert _connect_says(flow) == "RUNNING"
        assert "publication" in _text(_readiness(worker))


def test_slot_invalidated(flow: Flow) -> None:
    """The source throws away the WAL that the slot needs: readiness says why not."""
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    flow.wait_equal(*TABLES)
    with Load(flow, SEED), _little_wal_kept(flow):
        until(lambda: _readiness(worker) is None, "ready")
        with psycopg.connect(flow.pipeline.source_admin) as holder:
            holder.execute("INSERT INTO shop.account VALUES (100, 0)")  # an old transaction holds the slot back
            _write_wal(flow)
            until(lambda: _slot(flow) == "lost", "the slot invalidated", NOTICED_S)
        until(lambda: _readiness(worker), "not ready", NOTICED_S)
        assert _connect_says(flow) == "RUNNING"
        assert "slot" in _text(_readiness(worker))


def _garbage() -> dict[str, Found]:
    """Records that are not Debezium's, or not of their table, by name."""
    row: dict[str, object] = {"id": 2, "n": 1, "s": VALUE}

    def of(**changes: object) -> Found:
        return record("shop.TABLE", row | changes)

    def bare(value: bytes) -> Found:
        return Found(b'{"id":2}', value, 0, [])

    good = of()
    value = good.value or b""
    envelope = json.loads(value)
    return {
        "not_json": bare(f"hello {VALUE}".encode()),
        "no_utf8": bare(b'{"op":"c","after":{"s":"\\xff' + VALUE.encode() + b'"}}'),
        "empty": bare(b""),
        "truncated": bare(value[: value.index(VALUE.encode()) + 20]),
        "not_debezium": bare(json.dumps({"name": VALUE}).encode()),
        "an_array": bare(json.dumps([VALUE]).encode()),
        "number": bare(b"5"),
        "op_is_a_number": bare(json.dumps(envelope | {"op": 5}).encode()),
        "op_unknown": bare(json.dumps(envelope | {"op": "x"}).encode()),
        "no_source": bare(json.dumps(envelope | {"source": None}).encode()),
        "no_row": bare(json.dumps(envelope | {"after": None}).encode()),
        "sequence": bare(json.dumps(envelope | {"source": envelope["source"] | {"sequence": VALUE}}).encode()),
        "text_for_int": of(n=VALUE),
        "object_for_text": of(s={"t": VALUE}),
        "too_large_int": of(n=99_999_999_999_999_999_999),
        "zero_byte": of(s=f"{VALUE}\0"),
        "null_for_not_null": of(s=None),
        "refused": good,
        "no_key": record("shop.TABLE", row, op="d")._replace(key=None),
        "key_of_another_table": record("shop.TABLE", row, op="d", key="s"),
    }


def test_records_that_cannot_be_applied(flow: Flow) -> None:
    """Each stops its partition at its offset, is named without a value, and the others flow."""
    flow.env["DELTASYNC_PARKING_FAILED_MAX"] = "0"
    garbage = _garbage()
    tables = [f"shop.{name}" for name in garbage]
    create = [f"CREATE TABLE {t} (id int PRIMARY KEY, n int, s text NOT NULL DEFAULT '')" for t in (*tables, "shop.ok")]
    flow.set_up(f"CREATE SCHEMA shop; {'; '.join(create)}")
    flow.replica.execute("ALTER TABLE shop.refused ADD CHECK (s = 'good')")  # PostgreSQL's words show the row
    worker = flow.start_worker()
    topics = Topics(flow)
    _insert(flow, 1, *tables, "shop.ok")
    flow.wait_equal(*tables, "shop.ok")
    at = offsets(flow)
    for table, found in zip(tables, garbage.values(), strict=True):
        value = None if found.value is None else found.value.replace(b"TABLE", table.removeprefix("shop.").encode())
        topics.put(table, [found._replace(value=value)])
    _insert(flow, 3, *tables, "shop.ok")
    flow.wait_equal("shop.ok")
    until(lambda: len(worker.events("partition stopped")) >= len(tables), "all of them stopped")
    reasons = {entry["partition"]: entry for entry in worker.events("partition stopped")}
    for table in tables:
        said = reasons[f"{topics.name(table)}[0]"]
        assert f"offset {at[table, 0]}" in said["reason"], said
        assert said["do"]
        assert offsets(flow)[table, 0] == at[table, 0], table
        assert flow.rows(flow.replica, table) == ["(1,1,good)"]
    assert not worker.said(VALUE)
    _insert(flow, 4, "shop.ok")
    flow.wait_equal("shop.ok")
    reasons_text = _text(_readiness(worker))
    assert VALUE not in reasons_text
    assert "shop." in reasons_text


@pytest.mark.timeout(240)
def test_replica_in_trouble(flow: Flow, servers: Addresses) -> None:
    """Sessions ended, read-only for a while, restarted fast and like after a crash, all under load."""
    if servers.embedded is None:
        pytest.skip("the replica is not ours to restart")
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    flow.wait_equal(*TABLES)
    with Load(flow, SEED):
        for _ in range(5):
            flow.end_sessions()
            wait_for_work(flow, 5)
        role = flow.settings.pipeline
        flow.replica.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        flow.end_sessions()
        until(lambda: worker.said("25006"), "the worker met a read-only replica")
        flow.replica.execute(f"ALTER ROLE {role} RESET default_transaction_read_only")
        wait_for_work(flow, 5)
        for how in (signal.SIGINT, signal.SIGQUIT):
            flow.replica.close()
            servers.embedded.replica.process.stop(how)
            servers.embedded.start()
            flow.replica = psycopg.connect(flow.pipeline.replica_admin, autocommit=True)
            wait_for_work(flow, 5)
    flow.wait_equal(*TABLES)
    assert worker.process.poll() is None


def test_replica_restored_from_a_backup(flow: Flow, servers: Addresses) -> None:
    """Rows and ledger go back together: what was applied since is read from Kafka again."""
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    name = flow.replica.info.dbname
    with psycopg.connect(servers.replica_admin, autocommit=True) as admin, Load(flow, SEED):
        wait_for_work(flow)
        assert worker.stop() == 0
        flow.replica.close()
        admin.execute(f"CREATE DATABASE {name}_backup TEMPLATE {name}")
        flow.reconnect()
        worker = flow.start_worker()
        wait_for_work(flow)
        assert worker.stop() == 0
        flow.replica.close()
        admin.execute(f"DROP DATABASE {name}")
        admin.execute(f"ALTER DATABASE {name}_backup RENAME TO {name}")
        flow.reconnect()
        worker = flow.start_worker()
        wait_for_work(flow)
    flow.wait_equal(*TABLES)
    assert not worker.blamed()


def test_broker_killed(flow: Flow, servers: Addresses) -> None:
    """The broker dies under load and comes back: the same worker goes on."""
    if servers.embedded is None:
        pytest.skip("the broker is not ours to kill")
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    flow.wait_equal(*TABLES)
    with Load(flow, SEED):
        wait_for_work(flow, 5)
        servers.embedded.kafka.process.stop(signal.SIGKILL)
        servers.embedded.start()
        wait_for_work(flow)
    flow.wait_equal(*TABLES)
    assert worker.process.poll() is None


def test_unreachable_kafka_at_start(flow: Flow) -> None:
    """One sentence with a remedy, exit 3; SIGTERM does not have to wait for it."""
    flow.set_up(SCHEMA)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        env = {"DELTASYNC_KAFKA_BOOTSTRAP": f"127.0.0.1:{nobody.getsockname()[1]}"}
        worker = flow.start_worker(**env)
        stopped = flow.start_worker(**env)
        until(lambda: stopped.events("monitor answers"), "started")
        assert stopped.stop() in (0, 3)
        assert worker.process.wait(30) == 3
    assert "DELTASYNC_KAFKA_BOOTSTRAP" in worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()


def test_topic_made_again(flow: Flow) -> None:
    """A topic that was deleted and made again stops, met at the start and while running, even where it is longer."""
    flow.set_up("""
        CREATE SCHEMA shop; CREATE TABLE shop.before (id int PRIMARY KEY);
        CREATE TABLE shop.during (id int PRIMARY KEY);
        CREATE TABLE shop.ok (id int PRIMARY KEY, n int, s text);
    """)
    worker = flow.start_worker()
    flow.source.execute("INSERT INTO shop.before VALUES (1); INSERT INTO shop.during VALUES (1)")
    flow.wait_equal("shop.before", "shop.during")
    topics = Topics(flow)
    httpx.put(f"{flow.settings.connect.url}/connectors/{flow.connector}/pause", timeout=30).raise_for_status()
    _make_again(topics, "shop.during")
    until(lambda: worker.events("partition stopped"), "the running worker stops it")
    worker.stop()
    _make_again(topics, "shop.before")
    worker = flow.start_worker()
    until(lambda: len(worker.events("partition stopped")) >= 2, "both stopped")
    for said in worker.events("partition stopped"):
        assert "deleted and made again" in said["reason"]
        assert "ledger set" in said["do"]
    assert flow.count("shop.before") == 1
    httpx.put(f"{flow.settings.connect.url}/connectors/{flow.connector}/resume", timeout=30).raise_for_status()
    _insert(flow, 1, "shop.ok")
    flow.wait_equal("shop.ok")


def test_retention_passes(flow: Flow) -> None:
    """Records that were deleted before they were applied are a gap: the partition stops, the others flow."""
    flow.set_up("""
        CREATE SCHEMA shop; CREATE TABLE shop.item (id int PRIMARY KEY, n int, s text);
        CREATE TABLE shop.ok (LIKE shop.item INCLUDING ALL);
    """)
    worker = flow.start_worker()
    _insert(flow, 1, "shop.item", "shop.ok")
    flow.wait_equal("shop.item", "shop.ok")
    assert worker.stop() == 0
    topics = Topics(flow)
    _insert(flow, 2, "shop.item", "shop.ok")
    _insert(flow, 3, "shop.item", "shop.ok")
    until(lambda: topics.ends("shop.item")[0] >= 3, "captured")
    topics.cut("shop.item", 2)
    worker = flow.start_worker()
    flow.wait_equal("shop.ok")
    until(lambda: worker.events("partition stopped"), "the partition stops")
    (said,) = worker.events("partition stopped")
    assert "missing" in said["reason"]
    assert "ledger set" in said["do"]
    assert flow.count("shop.item") == 1


def test_terminated(flow: Flow) -> None:
    """SIGTERM under load, and inside a transaction that cannot go on: exit 0 within 10 s, the group is left."""
    flow.set_up(SCHEMA)
    flow.start_worker()
    flow.wait_equal(*TABLES)
    with Load(flow, SEED):
        wait_for_work(flow, 5)
        assert flow.workers[-1].stop() == 0
        assert _members(flow) == 0
        worker = flow.start_worker()
        wait_for_work(flow, 5)
        with psycopg.connect(flow.pipeline.replica_admin) as obstacle:
            obstacle.execute("SELECT FROM shop.account FOR UPDATE")
            until(lambda: _waits_for(flow, obstacle), "the worker waits inside its transaction")
            assert worker.stop() == 0
        assert _members(flow) == 0
        flow.start_worker()
        wait_for_work(flow, 5)
    flow.wait_equal(*TABLES)


def test_table_missing_on_the_replica(flow: Flow) -> None:
    """Only its partition stops; with the table back, a restarted worker goes on and nothing is lost."""
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    flow.wait_equal(*TABLES)
    flow.replica.execute("ALTER TABLE shop.pair RENAME TO elsewhere")
    with Load(flow, SEED):
        until(lambda: worker.events("partition stopped"), "its partition stops")
        wait_for_work(flow)
    (said,) = worker.events("partition stopped")
    assert "shop.pair" in said["reason"]
    flow.wait_equal("shop.journal", "shop.account", "shop.item")
    flow.replica.execute("ALTER TABLE shop.elsewhere RENAME TO pair")
    assert worker.stop() == 0
    flow.start_worker()
    flow.wait_equal(*TABLES)


def _readiness(worker: Worker) -> list[dict[str, str]] | None:
    """Why a worker is not ready; None where it is."""
    url = worker.events("monitor answers")[-1]["url"]
    answer = httpx.get(f"{url}/readyz", timeout=5)
    if answer.status_code == httpx.codes.OK:
        return None
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    reasons: list[dict[str, str]] = answer.json()["reasons"]
    return reasons


def _text(reasons: list[dict[str, str]] | None) -> str:
    return json.dumps(reasons)


def _connect_says(flow: Flow) -> str:
    found = httpx.get(f"{flow.settings.connect.url}/connectors/{flow.connector}/status", timeout=10).json()
    return str(found["connector"]["state"])


@contextmanager
def _little_wal_kept(flow: Flow) -> Iterator[None]:
    flow.source.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '32MB'")
    flow.source.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        flow.source.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        flow.source.execute("SELECT pg_reload_conf()")


def _write_wal(flow: Flow) -> None:
    for _ in range(8):
        flow.source.execute("SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()")
    flow.source.execute("CHECKPOINT")


def _slot(flow: Flow) -> str | None:
    query = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"
    row = flow.source.execute(query, [flow.settings.slot]).fetchone()
    return row[0] if row else None


def _insert(flow: Flow, id_: int, *tables: str) -> None:
    for table in tables:
        flow.source.execute(f"INSERT INTO {table} VALUES (%s, 1, 'good')", [id_])


def _make_again(topics: Topics, table: str) -> None:
    """Delete a topic and fill a new one of its name far beyond where the old one ended."""
    topics.delete(table)
    topics.make(table)
    topics.put(table, [record(table, {"id": n}) for n in range(2, 2000)])


def _members(flow: Flow) -> int:
    admin = Topics(flow).admin
    return len(admin.describe_consumer_groups([flow.settings.group])[flow.settings.group].result(10).members)


def _waits_for(flow: Flow, obstacle: psycopg.Connection) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    return flow.replica.execute(query, [obstacle.info.backend_pid]).fetchone() is not None
