"""A connector that is restarted between the two records of a key change sends both again: the jar sees to that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest
from tests.flow import Flow, until

SCHEMA = "CREATE SCHEMA shop; CREATE TABLE shop.seat (id bigint PRIMARY KEY, note text)"
ROUNDS = 4


@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_no_half_is_lost_by_a_restart(flow: Flow, consistency: str) -> None:
    """Connect stores offsets between records: one that it stores between the two leads to before the first."""
    flow.settings = flow.settings.model_copy(update={"consistency": consistency})
    flow.env["DELTASYNC_CONSISTENCY"] = consistency
    flow.use_converter(on=True)
    # Each record is handed over by itself: a restart then stands behind any of them.
    flow.set_up(SCHEMA, max__batch__size="1", max__queue__size="2")
    worker = flow.start_settled()
    flow.source.execute("INSERT INTO shop.seat SELECT n, 'note ' || n FROM generate_series(1, 20) n")
    flow.wait_equal("shop.seat")

    with _keys_change(flow.pipeline.source_admin):
        for _ in range(ROUNDS):
            was, moved = flow.streaming(), flow.ledger()["shop.seat"][0]
            until(lambda moved=moved: flow.ledger()["shop.seat"][0] > moved + 50, "keys change")  # type: ignore[misc]
            httpx.post(f"{flow.settings.connect.url}/connectors/{flow.connector}/restart?includeTasks=true")
            until(lambda was=was: flow.streaming() not in {None, was}, "the connector streams again")  # type: ignore[misc]

    flow.wait_equal("shop.seat")
    assert worker.blamed() == []


@contextmanager
def _keys_change(dsn: str) -> Iterator[None]:
    """Meanwhile all rows get new keys again and again, in transactions of so many."""
    stop = threading.Event()

    def change() -> None:
        with psycopg.connect(dsn) as source:
            while not stop.wait(0.02):
                source.execute("UPDATE shop.seat SET id = id + 1000")
                source.commit()

    writer = threading.Thread(target=change)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()
