"""What comes a second time, out of order, or from a connector that forgot where it was."""

from __future__ import annotations

import json
import signal

import httpx
import msgspec
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from tests.acceptance.load import offsets
from tests.acceptance.topics import Found, Topics, record
from tests.flow import Flow, until
from tests.servers import Addresses

from deltasync.change import Position

TABLES = ("shop.item", "shop.line")
SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.item (id int PRIMARY KEY, name text, price numeric(12,2));
    CREATE TABLE shop.line (item int, line int, note text, PRIMARY KEY (line, item));
"""
_CHANGES = (
    "INSERT INTO shop.item SELECT n, 'item ' || n, n FROM generate_series(1, 200) n",
    "INSERT INTO shop.line SELECT n, n % 3, 'line' FROM generate_series(1, 200) n",
    "UPDATE shop.item SET name = 'changed', price = price + 1.10 WHERE id % 2 = 0",
    "UPDATE shop.line SET line = line + 10 WHERE item % 5 = 0",
    "DELETE FROM shop.item WHERE id % 7 = 0",
    "UPDATE shop.item SET id = id + 1000 WHERE id % 11 = 0",
    "INSERT INTO shop.item SELECT n, 'again', n FROM generate_series(7, 70, 7) n",
    "DELETE FROM shop.line WHERE item % 9 = 0",
    "UPDATE shop.item SET price = 1 WHERE id = 1; UPDATE shop.line SET note = 'last' WHERE item = 1",
)


class _Source(msgspec.Struct):
    sequence: str


class _Envelope(msgspec.Struct):
    op: str
    source: _Source


@pytest.fixture
def streamed(flow: Flow) -> Topics:
    """Rows that all came by streaming, behind the slot's first transaction; the worker is up to date."""
    flow.set_up(SCHEMA)
    flow.start_worker()
    until(lambda: flow.count("deltasync.source_canary"), "the first beat has arrived")
    for change in _CHANGES:
        flow.source.execute(change)
    flow.wait_equal(*TABLES)
    return Topics(flow)


def test_group_offsets_reset(flow: Flow, streamed: Topics) -> None:
    """Kafka's offsets are a hint: with none, or with wrong ones, reading goes on at the ledger."""
    before = _images(flow)
    for offset in (0, None):
        assert flow.workers[-1].stop() == 0
        at = offsets(flow)
        _reset_group(flow, streamed, offset)
        worker = flow.start_worker()
        until(lambda: offsets(flow)["deltasync.canary", 0] > at["deltasync.canary", 0] + 1, "it works")  # noqa: B023
        assert _images(flow) == before
        assert {key: offsets(flow)[key] for key in at if key[0] in TABLES} == {k: at[k] for k in at if k[0] in TABLES}
        assert worker.metric("deltasync_records_total") < 60, "it read again what it had applied"
    flow.source.execute("INSERT INTO shop.item VALUES (5000, 'new', 1)")
    flow.wait_equal(*TABLES)


def test_all_records_again(flow: Flow, streamed: Topics) -> None:
    """Every record that was applied is skipped and counted; no row is written."""
    before, skipped = _images(flow), {table: flow.ledger()[table][1] for table in TABLES}
    again = {table: streamed.read(table) for table in TABLES}
    for table, records in again.items():
        streamed.put(table, records)
    _wait_read(flow, streamed)
    for table, records in again.items():
        assert len(records) > 200
        assert flow.ledger()[table][1] - skipped[table] == len(records)
        assert flow.workers[-1].metric("deltasync_records_skipped_total", topic=streamed.name(table)) == len(records)
    assert _images(flow) == before
    assert flow.equal(*TABLES)


def test_snapshot_again(flow: Flow) -> None:
    """Reads are never skipped: with them all that follows is applied again, and ends equal."""
    flow.set_up(SCHEMA + "; ".join(_CHANGES[:2]))
    flow.start_worker()
    flow.wait_equal(*TABLES)
    for change in _CHANGES[2:]:
        flow.source.execute(change)
    flow.wait_equal(*TABLES)
    topics = Topics(flow)
    for table in TABLES:
        records = topics.read(table)
        assert any(b'"op":"r"' in (found.value or b"") for found in records)
        topics.put(table, records)
    _wait_read(flow, topics)
    flow.wait_equal(*TABLES)


def test_suffix_again_and_again(flow: Flow, streamed: Topics) -> None:
    """A connector that dies repeats what it last wrote, in order: from any record on, any number of times."""
    for start in (1, 50, 150, 260):
        for table in TABLES:
            streamed.put(table, streamed.read(table)[-start:])
        flow.source.execute("UPDATE shop.item SET price = price + 1 WHERE id < 50")
    _wait_read(flow, streamed)
    flow.wait_equal(*TABLES)


_MEANWHILE = "INSERT INTO shop.item VALUES (6000, 'meanwhile', 1); UPDATE shop.item SET price = 99 WHERE id < 20"
_GONE_MEANWHILE = "DELETE FROM shop.item WHERE id = 30; UPDATE shop.line SET line = line + 100 WHERE item < 20"


@pytest.mark.parametrize(
    ("by_hand", "meanwhile"),
    [({"snapshot.mode": "initial"}, _MEANWHILE), ({}, f"{_MEANWHILE}; {_GONE_MEANWHILE}")],
    ids=["and-made-to-read-again", "and-streams-on"],
)
@pytest.mark.usefixtures("streamed")
def test_connector_offsets_deleted(flow: Flow, by_hand: dict[str, str], meanwhile: str) -> None:
    """Without offsets the connector resumes on its slot: what was committed meanwhile arrives, and what comes after.

    A second snapshot would bring no deletes: the worker keeps the connector from ever beginning one, and only who
    asks for it by hand gets it.
    """
    connector = f"{flow.settings.connect.url}/connectors/{flow.connector}"
    until(lambda: _config(connector)["snapshot.mode"] == "no_data", "the worker settled the connector")
    httpx.put(f"{connector}/stop", timeout=30).raise_for_status()
    until(lambda: _state(connector) == "STOPPED", "the connector has stopped")
    flow.source.execute(meanwhile)
    until(lambda: httpx.delete(f"{connector}/offsets", timeout=30).is_success, "offsets deleted")
    httpx.put(f"{connector}/config", json=_config(connector) | by_hand, timeout=30).raise_for_status()
    httpx.put(f"{connector}/resume", timeout=30).raise_for_status()
    flow.wait_equal(*TABLES)
    flow.source.execute("INSERT INTO shop.item VALUES (6001, 'after', 1); DELETE FROM shop.line WHERE item = 1")
    flow.wait_equal(*TABLES)
    assert not flow.workers[-1].blamed()
    missing = flow.replica.execute("SELECT DISTINCT missing FROM deltasync.source_table").fetchall()
    assert missing == [(None,)], "what comes again repeats beats, and leaves none out"


def test_older_record_that_was_committed_later_stops(flow: Flow, streamed: Topics) -> None:
    """An older position with a later commit is another log: the partition stops there, others go on."""
    at = offsets(flow)["shop.item", 0]
    last = _position(streamed.read("shop.item")[-1])
    older = Position(last[0] - 9, last[1] - 9, 1)
    row: dict[str, object] = {"id": 9001, "name": "s3cr3t", "price": "1.00"}
    streamed.put("shop.item", [record("shop.item", row, at=older)])
    until(lambda: offsets(flow)["shop.item", 0] == at + 1, "the older one with the older commit is passed over")
    streamed.put("shop.item", [record("shop.item", row, at=older._replace(committed_us=4_000_000_000_000_000))])
    until(lambda: flow.workers[-1].events("partition stopped"), "the partition stops")
    (stopped,) = flow.workers[-1].events("partition stopped")
    assert "shop.item" in stopped["reason"]
    assert f"offset {at + 1}" in stopped["reason"]
    assert "ledger set" in stopped["do"]
    assert not flow.workers[-1].said("s3cr3t")
    flow.source.execute(
        "INSERT INTO shop.line VALUES (7000, 1, 'goes on'); INSERT INTO shop.item VALUES (7000, 'x', 1)"
    )
    flow.wait_equal("shop.line")
    assert offsets(flow)["shop.item", 0] == at + 1
    assert flow.count("shop.item") + 1 == len(flow.rows(flow.source, "shop.item"))


def test_null_first_half_begins_anew(flow: Flow, streamed: Topics) -> None:
    """Positions start again when a connector forgot its own: low ones are applied, though all were committed before."""
    skipped = flow.ledger()["shop.line"][1]
    positions = [Position(None, 5, 1), Position(7, 9, 2), Position(7, 9, 2), Position(12, 20, 3)]
    rows: list[dict[str, object]] = [{"line": n, "item": 8000, "note": "low"} for n in range(len(positions))]
    records = [record("shop.line", row, at=at, key="line") for row, at in zip(rows, positions, strict=True)]
    keyed = [found._replace(key=json.dumps({"item": 8000, "line": n}).encode()) for n, found in enumerate(records)]
    streamed.put("shop.line", keyed)
    query = "SELECT count(*) FROM shop.line WHERE item = 8000"
    until(lambda: flow.replica.execute(query).fetchone() == (len(rows),), "all of them applied")
    streamed.put("shop.line", keyed[1:3])
    until(lambda: flow.ledger()["shop.line"][1] == skipped + 2, "and from there on older ones are skipped")


def _images(flow: Flow) -> list[tuple[str, str]]:
    """Each row of the replica with the transaction that wrote it."""
    rows: list[tuple[str, str]] = []
    for table in TABLES:
        rows += flow.replica.execute(f"SELECT t::text, xmin::text FROM {table} t ORDER BY 1").fetchall()
    return rows


def _reset_group(flow: Flow, topics: Topics, offset: int | None) -> None:
    """Set the group's offsets, or delete the group."""
    group = flow.settings.group
    if offset is None:
        topics.admin.delete_consumer_groups([group])[group].result(10)
        return
    wanted = [TopicPartition(topics.name(table), number, offset) for table, number in offsets(flow)]
    topics.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])[group].result(10)


def _wait_read(flow: Flow, topics: Topics) -> None:
    until(
        lambda: all(offsets(flow)[table, 0] >= topics.ends(table)[0] for table in TABLES), "all records have been read"
    )


def _position(found: Found) -> tuple[int, int]:
    envelope = msgspec.json.decode(found.value or b"", type=_Envelope)
    first, second = msgspec.json.decode(envelope.source.sequence, type=tuple[str, str])
    return int(first), int(second)


def _config(connector: str) -> dict[str, str]:
    found: dict[str, str] = httpx.get(f"{connector}/config", timeout=30).json()
    return found


def _state(connector: str) -> str:
    found: dict[str, dict[str, str]] = httpx.get(f"{connector}/status", timeout=10).json()
    return found["connector"]["state"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_connect_dies_during_the_initial_snapshot(flow: Flow, servers: Addresses, consistency: str) -> None:
    """The next one brings no deletes: rows that went between both leave no ghost."""
    if servers.embedded is None:
        pytest.skip("Connect is not ours to kill")
    connect, topics = servers.embedded.connect, Topics(flow)
    flow.settings = flow.settings.model_copy(update={"consistency": consistency})
    flow.env["DELTASYNC_CONSISTENCY"] = consistency
    flow.set_up(
        "CREATE SCHEMA shop; CREATE TABLE shop.many (id int PRIMARY KEY, what text);"
        "INSERT INTO shop.many SELECT n, repeat('x', 400) FROM generate_series(1, 60000) n"
    )
    flow.start_worker()
    until(lambda: flow.count("shop.many") > 1000, "the snapshot is under way")
    connect.process.stop(signal.SIGKILL)
    flow.source.execute("DELETE FROM shop.many WHERE id < 500; UPDATE shop.many SET what = 'new' WHERE id = 600")
    servers.embedded.start()
    flow.wait_equal("shop.many", deadline_s=120)
    assert topics.ends("shop.many")[0] > 60_000
