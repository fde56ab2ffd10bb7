"""Tables without a key while Connect dies or begins anew: each row stays on the replica as often as on the source."""

from __future__ import annotations

import signal
from collections import Counter

import httpx
import pytest
from tests.acceptance.topics import Topics
from tests.flow import Flow, Worker, until
from tests.servers import Addresses

ROWS = 20_000


@pytest.fixture
def keyless(flow: Flow) -> Flow:
    flow.use_keyless()
    return flow


@pytest.mark.timeout(300)
def test_connect_dies_while_equal_rows_are_copied(keyless: Flow, servers: Addresses) -> None:
    """What it sends again is known by its number alone; a snapshot that died is followed by a whole one."""
    if servers.embedded is None:
        pytest.skip("Connect is not ours to kill")
    connect, topics = servers.embedded.connect, Topics(keyless)
    keyless.source.execute("CREATE SCHEMA shop; CREATE TABLE shop.pile (a int, b text, c date)")
    keyless.copy("shop.pile", "1\tsame\tinfinity\n", ROWS)
    keyless.set_up("ALTER TABLE shop.pile REPLICA IDENTITY FULL")
    worker = keyless.start_worker()
    until(lambda: _written(topics) > ROWS // 20, "the snapshot is under way")
    connect.process.stop(signal.SIGKILL)
    servers.embedded.start()
    keyless.wait_equal("shop.pile", deadline_s=120)
    assert _written(topics) > ROWS
    until(lambda: worker.said("settled"), "it begins no other snapshot")

    copies = 1
    while copies < 5 and not keyless.ledger()["shop.pile"][1]:  # until it died in front of what was acknowledged
        before, copies = _written(topics), copies + 1
        keyless.copy("shop.pile", "1\tsame\tinfinity\n", ROWS)
        _until_written(topics, before + ROWS // 4)
        connect.process.stop(signal.SIGKILL)
        servers.embedded.start()
        keyless.wait_equal("shop.pile", deadline_s=120)
    keyless.source.execute("DELETE FROM shop.pile WHERE ctid IN (SELECT ctid FROM shop.pile LIMIT 777)")
    keyless.wait_equal("shop.pile")
    assert keyless.count("shop.pile") == copies * ROWS - 777
    assert keyless.ledger()["shop.pile"][1] > 0


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("rows", "rounds"), [(50, 12), (3000, 4)])
def test_the_connector_is_restarted_while_rows_are_copied(keyless: Flow, rows: int, rounds: int) -> None:
    """By request, or since its connection is lost. No row is doubled or lost, or the partition stops, and says why."""
    topics = Topics(keyless)
    schema = "CREATE SCHEMA shop; CREATE TABLE shop.pile (a int, b text); ALTER TABLE shop.pile REPLICA IDENTITY FULL"
    keyless.set_up(schema, max__batch__size="8", max__queue__size="16")
    worker = keyless.start_worker()
    keyless.source.execute("INSERT INTO shop.pile VALUES (0, 'first')")
    keyless.wait_equal("shop.pile")
    stopped: list[int] = []
    for number in range(rounds):
        before, was = _written(topics), keyless.streaming()
        with keyless.source.cursor() as cursor, cursor.copy("COPY shop.pile FROM STDIN") as copy:
            for row in range(rows):
                copy.write(f"{number}\t{row // 3 if number % 4 == 3 else row}\n")
        _until_written(topics, before + number)
        if number % 2:
            keyless.source.execute("SELECT pg_terminate_backend(%s)", [was])
        else:
            httpx.post(f"{keyless.settings.connect.url}/connectors/{keyless.connector}/restart?includeTasks=true")
        _until_streaming_again(keyless, was)
        _until_sent(keyless)
        if _stops_again(keyless, topics, worker, len(stopped)):
            _step_over(keyless, topics)
            stopped.append(number)
        keyless.wait_equal("shop.pile")
    (keyless.folder / "stopped").write_text(f"{rows} rows, {rounds} restarts, stopped in {stopped}")


def _until_sent(keyless: Flow) -> None:
    """The connector has sent all that was committed."""
    end = keyless.source.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    query = "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots WHERE slot_name = %s"
    values = [(end or [None])[0], keyless.settings.slot]
    until(lambda: keyless.source.execute(query, values).fetchone() == (True,), "all is sent", 90)


def _stops_again(keyless: Flow, topics: Topics, worker: Worker, stops: int) -> bool:
    """Whether it stops once more than so often; all is applied otherwise."""
    until(lambda: not _is_behind(keyless, topics) or _stops(worker) > stops, "all is applied, or it stops", 90)
    return _stops(worker) > stops


def _is_behind(keyless: Flow, topics: Topics) -> bool:
    return keyless.ledger()["shop.pile"][0] < _written(topics)


def _stops(worker: Worker) -> int:
    found = worker.events("partition stopped")
    assert all("has no key" in entry["reason"] for entry in found)
    return len(found)


def _step_over(keyless: Flow, topics: Topics) -> None:
    """What the replica has is nothing but what the source has, and the rest of it are the last records."""
    source, replica = (Counter(keyless.rows(one, "shop.pile")) for one in (keyless.source, keyless.replica))
    assert not replica - source
    lacking = sum((source - replica).values())
    offset = str(_written(topics) - lacking)
    keyless.cli("ledger", "set", topics.name("shop.pile"), "0", offset, "--reason", "compared")
    keyless.wait_equal("shop.pile")


def _until_written(topics: Topics, count: int) -> None:
    until(lambda: _written(topics) > count, "the copy is under way")


def _until_streaming_again(keyless: Flow, was: int | None) -> None:
    until(lambda: keyless.streaming() not in {None, was}, "it streams again")


def _written(topics: Topics) -> int:
    try:
        return sum(topics.ends("shop.pile").values())
    except KeyError:
        return 0
