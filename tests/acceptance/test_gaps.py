"""What never reached Kafka, and another source: noticed by the canary, and told until somebody accepts it."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from tests.acceptance.topics import Topics
from tests.flow import Flow, Worker, until
from tests.servers import Addresses

from deltasync.connect.client import ConnectClient

SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.item (id int PRIMARY KEY, name text);
    INSERT INTO shop.item VALUES (1, 'one');
"""
NOTICED_S = 15


@pytest.fixture
def shop(flow: Flow) -> Flow:
    with socket.create_server(("127.0.0.1", 0)) as free:
        flow.env["DELTASYNC_MONITOR_URL"] = f"http://127.0.0.1:{free.getsockname()[1]}"
    flow.set_up(SCHEMA)
    flow.start_worker()
    flow.wait_equal("shop.item")
    until(lambda: reasons(flow) == "", "ready")
    return flow


def reasons(flow: Flow) -> str:
    """Why the newest worker is not ready, "" where it is."""
    if not flow.workers[-1].events("monitor answers"):
        return "it starts"
    body = flow.monitor("/readyz").json()
    return "\n".join(f"{reason['what']} {reason['why']} {reason['remedy']}" for reason in body["reasons"])


def restarted(flow: Flow) -> Worker:
    flow.workers[-1].kill()
    return flow.start_worker()


def test_rows_that_were_never_published_are_told(shop: Flow) -> None:
    """A publication that was away for a beat: Connect runs on, the rows are lost, and all looks well afterwards."""
    publication = shop.settings.publication
    rows = shop.source.execute(
        "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_publication_tables WHERE pubname = %s",
        [publication],
    ).fetchall()
    shop.source.execute(f"DROP PUBLICATION {publication}; INSERT INTO shop.item VALUES (2, 'lost')")
    shop.source.execute("SELECT deltasync.beat(%s, %s, %s)", [shop.settings.pipeline, publication, shop.settings.slot])
    shop.source.execute(f"CREATE PUBLICATION {publication} FOR TABLE {', '.join(name for (name,) in rows)}")
    shop.source.execute("INSERT INTO shop.item VALUES (3, 'comes')")
    told = r"^Rows may be missing from shop\.item\. Beats? \d+.* never came: rows that were committed between .*resync"
    until(lambda: re.search(told, reasons(shop)), "the missing beats are told", NOTICED_S)
    assert shop.rows(shop.replica, "shop.item") == ["(1,one)", "(3,comes)"]

    restarted(shop)
    until(lambda: re.search(told, reasons(shop)), "told by a worker that comes later")
    shop.replica.execute("INSERT INTO shop.item VALUES (2, 'lost')")
    said = shop.cli("ledger", "accept-source", "--reason", "the row was brought by hand")
    assert re.search(r"accepted: Beats? \d+", said)
    until(lambda: reasons(shop) == "", "ready")
    assert "nothing to accept" in shop.cli("ledger", "accept-source", "--reason", "again", code=1)


def test_a_slot_that_was_made_again(shop: Flow) -> None:
    """It does not hold what was committed in between: the connector fails and says so, and all is read again."""
    slot = shop.settings.slot
    with ConnectClient(shop.settings.connect.url or "") as client:
        client.stop(shop.connector)
        until(lambda: shop.streaming() is None, "the slot is free")
        shop.source.execute("SELECT pg_drop_replication_slot(%s)", [slot])
        shop.source.execute("INSERT INTO shop.item VALUES (2, 'lost'); DELETE FROM shop.item WHERE id = 1")
        shop.source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        client.resume(shop.connector)
    shop.source.execute("INSERT INTO shop.item VALUES (3, 'behind it')")
    until(lambda: "no longer available on the server" in reasons(shop), "told")
    assert "deltasync recover --force" in reasons(shop)
    assert shop.rows(shop.replica, "shop.item") == ["(1,one)"]
    shop.cli("recover", "--force")
    shop.wait_equal("shop.item")
    until(lambda: reasons(shop) == "", "ready")


def test_another_source_is_refused(shop: Flow) -> None:
    """By all partitions, and by a worker that comes later, until it is accepted; then all that it sent is applied."""
    shop.source.execute("UPDATE deltasync.canary SET system_identifier = '1'")
    until(lambda: "its system identifier is 1, what was applied came from" in reasons(shop), "refused", NOTICED_S)
    assert "deltasync ledger accept-source --reason" in reasons(shop)
    shop.source.execute("INSERT INTO shop.item VALUES (2, 'two')")
    restarted(shop)
    until(lambda: "its system identifier is 1, what was applied came from" in reasons(shop), "refused later, too")
    assert shop.rows(shop.replica, "shop.item") == ["(1,one)"]

    shop.cli("ledger", "accept-source", "--reason", "a test")
    until(lambda: "what was applied came from 1." in reasons(shop), "the beat behind it is the old source's")
    shop.cli("ledger", "accept-source", "--reason", "and back")
    shop.wait_equal("shop.item")
    until(lambda: reasons(shop) == "", "ready")
    audit = "SELECT DISTINCT reason FROM deltasync.ledger_audit ORDER BY reason"
    assert shop.replica.execute(audit).fetchall() == [("a test",), ("and back",)]


def test_partitions_that_are_added_stop(shop: Flow) -> None:
    """The old one goes on; a record of the new one is applied once an operator says that no older one is left."""
    topics = Topics(shop)
    topic = topics.name("shop.item")
    shop.source.execute("INSERT INTO shop.item VALUES (2, 'two')")
    shop.wait_equal("shop.item")
    admin = AdminClient({"bootstrap.servers": shop.settings.kafka.bootstrap or ""})
    for future in admin.create_partitions([NewPartitions(topic, 2)]).values():
        future.result(timeout=10)
    until(lambda: f"{topic}[1] is stopped. The partition {topic}[1] was added" in reasons(shop), "noticed", NOTICED_S)
    producer = Producer({"bootstrap.servers": shop.settings.kafka.bootstrap or ""})
    last = topics.read("shop.item")[-1]
    producer.produce(topic, (last.value or b"").replace(b"two", b"new"), last.key, partition=1)
    producer.flush(10)
    # Kafka's hash of {"id":4} is even: a producer that knows of both partitions writes it to the old one, too.
    shop.source.execute("INSERT INTO shop.item VALUES (4, 'four')")
    shop.wait_equal("shop.item")

    shop.cli("ledger", "set", "shop.item", "1", "0", "--reason", "the other one is level")
    until(lambda: shop.rows(shop.replica, "shop.item") == ["(1,one)", "(2,new)", "(4,four)"], "applied")
    until(lambda: reasons(shop) == "", "ready")


def test_a_second_pipeline_is_refused_at_set_up(shop: Flow) -> None:
    """It would fill what the first one fills; nothing is made of it."""
    shop.env |= {"DELTASYNC_PIPELINE": "second", "DELTASYNC_SOURCE_PUBLICATION": shop.settings.publication}
    said = shop.cli("replica", "setup", code=1)
    assert f"The table shop.item is filled on this replica by the pipeline {shop.settings.pipeline}, too" in said
    assert "DELTASYNC_PIPELINE=NAME deltasync replica teardown" in said


def test_a_record_that_is_damaged_on_a_disk_stops_its_partition(shop: Flow, servers: Addresses) -> None:
    """One bit of it, which might have been a value's; put right, it is read from there."""
    if servers.folder is None:
        pytest.skip("the broker's disk is not ours")
    worker = shop.workers[-1]
    assert worker.stop() == 0
    shop.source.execute("INSERT INTO shop.item VALUES (2, 'two'), (3, 'three')")
    topic = Topics(shop).name("shop.item")
    until(lambda: Topics(shop).ends("shop.item")[0] == 3, "captured")
    (segment,) = Path(servers.folder).glob(f"**/{topic}-0/*.log")
    _flip_last_bit(segment)
    worker = shop.start_worker()
    until(lambda: f"{topic}[0] is stopped. The next records of {topic}[0] are damaged" in reasons(shop), "it stops", 30)
    assert shop.rows(shop.replica, "shop.item") == ["(1,one)"]

    _flip_last_bit(segment)
    at = str(shop.ledger()["shop.item"][0])
    shop.cli("ledger", "set", "shop.item", "0", at, "--reason", "the disk was put right")
    shop.wait_equal("shop.item")


def _flip_last_bit(file: Path) -> None:
    with file.open("r+b") as log:
        log.seek(-1, os.SEEK_END)
        (last,) = log.read(1)
        log.seek(-1, os.SEEK_END)
        log.write(bytes([last ^ 1]))
