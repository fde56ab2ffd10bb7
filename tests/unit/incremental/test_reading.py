"""What the connector's notifications tell of an incremental snapshot, in sequences that Debezium 3.7.0 sent."""

from __future__ import annotations

import json

from deltasync.incremental.reading import Reading, State, read

BOTH = "shop.orders,shop.items"


def notice(type_: str, id_: str = "p:1", **data: str) -> bytes:
    value = {
        "id": id_,
        "aggregate_type": "Incremental Snapshot",
        "type": type_,
        "additional_data": data,
        "timestamp": 1,
    }
    return json.dumps(value).encode()


def chunk(table: str, key: int) -> bytes:
    """The 20 rows behind which this key is the last one of a chunk of 10."""
    more = {"last_processed_key": str(key), "total_rows": "20", "total_chunks": "2", "chunk_index": "1"}
    return notice("IN_PROGRESS", current_collection_in_progress=table, data_collections=BOTH, **more)


def over(table: str, status: str = "SUCCEEDED") -> bytes:
    return notice("TABLE_SCAN_COMPLETED", scanned_collection=table, status=status, data_collections=BOTH)


INITIAL = json.dumps({"id": "i", "aggregate_type": "Initial Snapshot", "type": "SKIPPED"}).encode()
STARTED = [notice("STARTED", data_collections=BOTH), chunk("shop.orders", 10)]


def told(*notices: bytes) -> Reading:
    found = read([*STARTED, *notices])
    assert found is not None
    return found


def statuses(reading: Reading) -> list[str]:
    return [table.status for table in reading.tables.values()]


def test_progress() -> None:
    reading = told()

    assert str(reading) == "shop.orders about 10 of 20 rows, chunk 1 of 2; shop.items waits"
    assert (reading.state, reading.is_complete) == (State.RUNNING, False)
    assert told(notice("PAUSED", data_collections=BOTH)).state is State.PAUSED
    assert told(notice("PAUSED", data_collections=BOTH), notice("RESUMED")).state is State.RUNNING


def test_a_chunk_that_is_read_again_behind_a_restart_counts_once() -> None:
    reading = told(chunk("shop.orders", 10), INITIAL, chunk("shop.orders", 20))

    assert (reading.tables["shop.orders"].chunks, reading.tables["shop.orders"].rows) == (2, 20)


def test_all_is_read() -> None:
    """A table may have no row that was asked for."""
    reading = told(over("shop.orders"), over("shop.items", "EMPTY"), notice("COMPLETED"))

    assert (reading.state, reading.is_complete) == (State.ENDED, True)
    assert (reading.tables["shop.orders"].rows, reading.tables["shop.items"].rows) == (20, 0)


def test_a_table_that_failed_is_told_though_the_snapshot_is_completed() -> None:
    reading = told(over("shop.orders", "SQL_EXCEPTION"), over("shop.items"), notice("COMPLETED"))

    assert (reading.state, reading.is_complete) == (State.ENDED, False)
    assert "the source refused to read a chunk of it" in reading.tables["shop.orders"].why
    assert "Debezium says ODD" in told(over("shop.orders", "ODD")).tables["shop.orders"].why


def test_what_was_stopped_is_not_read_though_the_snapshot_is_completed() -> None:
    """It is aborted after that, under another id, which is no other snapshot."""
    reading = told(over("shop.orders"), notice("COMPLETED"), notice("ABORTED", "another", data_collections=BOTH))

    assert (reading.id, reading.state, reading.is_complete) == ("p:1", State.ENDED, False)
    assert statuses(reading) == ["SUCCEEDED", "STOPPED"]


def test_one_of_two_tables_is_stopped_and_the_other_one_goes_on() -> None:
    aborted = notice("ABORTED", data_collections="shop.orders")

    assert (statuses(told(aborted)), told(aborted).state) == (["STOPPED", ""], State.RUNNING)


def test_another_snapshot_begins_and_other_records_are_passed_over() -> None:
    """One whose beginning is not in the topic any more is told, too."""
    assert read([b"", b"{}", b"[1]", INITIAL]) is None
    assert told(INITIAL, b"odd").id == "p:1"
    later = told(notice("COMPLETED"), notice("STARTED", "p:2", data_collections="shop.items"))
    assert (later.id, later.state, list(later.tables)) == ("p:2", State.RUNNING, ["shop.items"])
    assert read([chunk("shop.items", 10)]) is not None
