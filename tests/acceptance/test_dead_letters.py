"""Records that the replica refuses are set aside with what follows of their keys, and all else goes on."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from tests.flow import Flow, until

SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.item (id int PRIMARY KEY, n int, big text);
    CREATE TABLE shop.other (id int PRIMARY KEY, n numeric);
    ALTER TABLE shop.item ALTER big SET STORAGE EXTERNAL;
    INSERT INTO shop.item SELECT n, n, repeat('b', 9000) FROM generate_series(1, 20) n;
"""
REFUSE = "ALTER TABLE shop.item ADD CONSTRAINT small CHECK (n < 100)"
ACCEPT = "ALTER TABLE shop.item DROP CONSTRAINT small"
RENAMED = "SELECT FROM information_schema.columns WHERE table_name = 'item' AND column_name = 'm'"


def _letters(flow: Flow, code: int = 1) -> list[dict[str, Any]]:
    found = json.loads(flow.cli("dead-letters", "list", "--json", code=code))
    assert isinstance(found, list)
    return found


def _applied(flow: Flow) -> None:
    """All that is committed was applied or set aside."""
    flow.source.execute("INSERT INTO shop.item SELECT max(id) + 1 FROM shop.item; INSERT INTO shop.other VALUES (0, 0)")
    flow.source.execute("DELETE FROM shop.other WHERE id = 0")
    flow.cli("wait", "--timeout", "30", code=1)


def test_what_follows_of_a_key_waits_and_all_else_goes_on(flow: Flow) -> None:
    """In the order of the key, across its changes, a kill of the worker and a replay while it runs."""
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    flow.wait_equal("shop.item")
    flow.replica.execute(REFUSE)

    flow.source.execute("UPDATE shop.item SET n = 500 WHERE id = 2")
    _applied(flow)  # what comes in the same batch would be all that counts
    flow.source.execute("UPDATE shop.item SET n = 3 WHERE id = 2; UPDATE shop.item SET id = 102 WHERE id = 2")
    flow.source.execute("UPDATE shop.item SET n = 33 WHERE id = 3; INSERT INTO shop.item VALUES (2, 2, 'another row')")
    flow.source.execute("UPDATE shop.item SET n = -n WHERE id > 10; INSERT INTO shop.item VALUES (30, 700)")
    _applied(flow)
    worker.kill()
    flow.source.execute("UPDATE shop.item SET n = 4 WHERE id = 102; DELETE FROM shop.item WHERE id = 4")
    worker = flow.start_worker(DELTASYNC_BATCH_ROWS_MAX="2")
    _applied(flow)

    assert flow.differences("shop.item").startswith("shop.item: 3 missing ['(102,4,bbb")
    queues = _letters(flow)
    assert [len(queue["records"]) for queue in queues] == [7, 1]
    assert [[record["error"] is None for record in queue["records"]] for queue in queues] == [
        [False, True, True, True, True, True, True],
        [False],
    ]
    assert "constraint small" in queues[0]["records"][0]["error"]
    until(lambda: worker.metric("deltasync_dead_letters", table="shop.item") == 8, "it tells of them")
    assert "8 records of shop.item are set aside" in flow.cli("wait", "--timeout", "30", code=1)
    first, second = (str(queue["id"]) for queue in queues)
    assert "replay would be refused" in flow.cli("dead-letters", "show", second, code=1)
    _shows_statements(flow, second)
    # The row as it is in the end is within bounds.
    assert json.loads(flow.cli("dead-letters", "show", first, "--json"))["after"] is not None
    assert flow.cli("dead-letters", "replay", "--all", code=1).count("refused") == 1
    flow.replica.execute(ACCEPT)
    flow.cli("dead-letters", "replay", second)
    flow.source.execute("UPDATE shop.item SET n = 5 WHERE id IN (2, 102, 30)")
    flow.wait_equal("shop.item")
    assert _letters(flow, code=0) == []
    flow.cli("wait", "--timeout", "30")


def _shows_statements(flow: Flow, letter: str) -> None:
    """Those of the writer, which do by themselves what a replay would."""
    shown = json.loads(flow.cli("dead-letters", "show", letter, "--json", code=1))
    ((query, parameters),) = [one.values() for one in shown["statements"]]
    assert parameters == [["30"], ["700"], [None]]
    assert "--from-source" in shown["remedy"]
    with psycopg.RawCursor(flow.replica) as cursor, pytest.raises(psycopg.errors.CheckViolation):
        cursor.execute(query, parameters)


def test_letters_from_before_their_table_was_changed(flow: Flow) -> None:
    """They do not fit any more; the row is written as the source has it."""
    flow.set_up(SCHEMA)
    flow.start_worker()
    flow.wait_equal("shop.item")
    flow.replica.execute(REFUSE)
    flow.source.execute("UPDATE shop.item SET n = 500 WHERE id = 1")
    _applied(flow)
    flow.source.execute("ALTER TABLE shop.item RENAME n TO m; UPDATE shop.item SET m = 2 WHERE id = 3")
    until(lambda: "shop.item" in flow.cli("schema", "list"), "it waits for a word")
    flow.cli("schema", "approve", "shop.item", "--reason", "a test")
    flow.replica.execute("ALTER TABLE shop.item DROP CONSTRAINT small")
    until(lambda: flow.replica.execute(RENAMED).rowcount == 1, "it is renamed here, too")
    (letter,) = (str(queue["id"]) for queue in _letters(flow))

    assert f"deltasync dead-letters replay {letter} --from-source" in flow.cli("dead-letters", "replay", letter, code=1)
    flow.cli("dead-letters", "replay", letter, "--from-source")
    flow.wait_equal("shop.item")


def test_given_up_void_read_anew_and_too_many(flow: Flow) -> None:
    """A discarded record is kept with its reason; TRUNCATE makes letters void; where many fail, the partition stops."""
    flow.env["DELTASYNC_PARKING_FAILED_MAX"] = "3"
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    flow.wait_equal("shop.item")
    flow.replica.execute(REFUSE)

    flow.source.execute("UPDATE shop.item SET n = 500 WHERE id = 1; UPDATE shop.item SET n = 501 WHERE id IN (2, 3)")
    _applied(flow)
    one, two, three = (str(queue["id"]) for queue in _letters(flow))
    flow.cli("dead-letters", "discard", one, "--reason", " ", code=1)
    flow.cli("dead-letters", "discard", one, "--reason", "entered by hand")
    audit = "SELECT outcome, reason, convert_from(record_value, 'UTF8') LIKE '%500%' FROM deltasync.dead_letter_audit"
    assert flow.replica.execute(audit).fetchall() == [("discarded", "entered by hand", True)]
    flow.replica.execute(ACCEPT)
    flow.source.execute("UPDATE shop.item SET n = 7 WHERE id = 2; UPDATE shop.item SET n = 1 WHERE id = 1")
    _applied(flow)
    assert [len(queue["records"]) for queue in _letters(flow)] == [2, 1]
    flow.cli("dead-letters", "replay", two, "--from-source")
    flow.replica.execute(REFUSE)

    flow.source.execute("UPDATE shop.item SET n = 600 WHERE id IN (11, 12)")
    _applied(flow)
    assert not worker.said("partition stopped")
    flow.source.execute("UPDATE shop.item SET n = 600 WHERE id = 13; INSERT INTO shop.other VALUES (1, 1)")
    flow.wait_equal("shop.other")
    until(lambda: worker.said("partition stopped"), "one too many")
    flow.cli("dead-letters", "discard", three, "--reason", "makes room")
    flow.source.execute("TRUNCATE shop.item; INSERT INTO shop.item VALUES (1, 1), (11, 11), (13, 13)")
    flow.wait_equal("shop.item")
    assert _letters(flow, code=0) == []
    assert {outcome for outcome, *_ in flow.replica.execute(audit)} == {"discarded", "read anew", "void"}

    flow.source.execute("UPDATE shop.item SET n = 700 WHERE id = 1")
    _applied(flow)
    flow.source.execute("UPDATE shop.item SET big = 'behind' WHERE id = 1")
    _applied(flow)
    flow.replica.execute(ACCEPT)
    flow.cli("resync", "shop.item")
    assert _letters(flow, code=0) == []
    flow.source.execute("UPDATE shop.item SET n = 8 WHERE id = 1")
    flow.wait_equal("shop.item")
