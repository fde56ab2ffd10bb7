"""Resync's decisions: which transactions a snapshot shows, and what of the stream is left out for that."""

from __future__ import annotations

import json

import pytest
from tests.unit.make import MOVED, column, compact_json

from deltasync.change import Log, Op, Partition, Record, Told
from deltasync.errors import RecordError
from deltasync.progress import Claim, Progress
from deltasync.readable import Tables
from deltasync.replica.tables import CANARY
from deltasync.resync.snapshot import Snapshot
from deltasync.resync.stream import ChangedError, Seen, Stream, begin, behind, within
from deltasync.table import SourceTable, Table, TableId

ITEM = Partition("p.shop.item", 0)
TABLE = Table("shop", "item", (column("id", "int4"), column("n", "int4")), ("id",))


@pytest.mark.parametrize(
    ("text", "transaction", "shown"),
    [
        ("10:20:12,15", 9, True),
        ("10:20:12,15", 12, False),
        ("10:20:12,15", 13, True),
        ("10:20:", 19, True),
        ("10:20:", 20, False),
        # Behind 2^32 Debezium's 32 bits begin anew: the nearest number counts, on both sides of the turn.
        (f"{2**32 + 5}:{2**32 + 9}:{2**32 + 6}", 6, False),
        (f"{2**32 + 5}:{2**32 + 9}:{2**32 + 6}", 7, True),
        (f"{2**32 + 5}:{2**32 + 9}:", 2**32 - 3, True),
        (f"{2**32 - 3}:{2**32 - 2}:", 1, False),
        (f"{7 * 2**32}:{7 * 2**32}:", 2**32 - 1, True),
        (f"{7 * 2**32}:{7 * 2**32}:", 0, False),
    ],
)
def test_what_a_snapshot_shows(text: str, transaction: int, *, shown: bool) -> None:
    assert Snapshot.parse(text).shows(transaction) is shown


def record(offset: int, transaction: int | None, *, op: str = "c", id_: int = 1, moves: bool = False) -> Record:
    """A record of shop.item, whose position follows its offset."""
    source = {"connector": "postgresql", "schema": "shop", "table": "item", "ts_us": offset, "txId": transaction}
    source["sequence"] = json.dumps([str(offset), str(offset)])
    row = None if op == "d" else {"id": id_, "n": offset}
    value = {"before": None, "after": row, "source": source, "op": op}
    return Record(ITEM, offset, json.dumps({"id": id_}).encode(), compact_json(value), MOVED if moves else Told())


def stream(known: Table | None = TABLE, ends: int = 0) -> Stream:
    """A stream from offset 0 on, behind a snapshot that shows the transactions below 20, but not 15."""
    tables = {TableId("shop", "item"): SourceTable(1, True, True, False, None, None, known)}  # noqa: FBT003
    made = Stream(Tables(tables, CANARY, "unavailable", raw_text=False), Seen(Snapshot.parse("15:20:15"), {ITEM: ends}))
    made.progress[ITEM] = Progress()
    return made


def test_what_the_snapshot_holds_is_left_out() -> None:
    """Reads, too; but the progress is that of a worker who applied them all."""
    made = stream()
    changes = made.take([record(0, 14), record(1, 15), record(2, None, op="r"), record(3, 20, op="d")])
    assert [(change.offset, change.op) for change in changes] == [(1, Op.CREATE), (3, Op.DELETE)]
    assert (made.progress[ITEM].next_offset, made.progress[ITEM].watermark) == (4, (3, 3))


def test_what_cannot_be_read_is_passed_where_kafka_had_it_before() -> None:
    broken = Record(ITEM, 0, b"{}", b"none of Debezium's")
    assert stream(ends=1).take([broken, record(1, 20)])[0].offset == 1
    with pytest.raises(RecordError):
        stream().take([broken])


def test_a_half_of_a_key_change_waits_for_the_other_one() -> None:
    made = stream()
    assert made.take([record(0, 20, op="d", moves=True)]) == []
    assert made.progress[ITEM].next_offset == 0
    whole = record(1, 20, id_=2)
    source = json.loads(whole.value or b"")
    source["source"] |= {"sequence": '["0", "0"]', "ts_us": 0}
    (change,) = made.take([whole._replace(value=json.dumps(source).encode())])
    assert (change.old_key, made.progress[ITEM].next_offset) == (b'{"id": 1}', 2)


def test_a_table_that_is_not_described_begins_again() -> None:
    made = stream(known=None)
    assert made.take([record(0, 14)]) == []
    assert made.progress[ITEM].watermark == (0, 0)  # where it comes again, it is older
    with pytest.raises(ChangedError):
        made.take([record(1, 15)])


def test_where_reading_begins() -> None:
    """At the ledger where the log has that, else at the nearest that it has; a move keeps what a move keeps."""
    progress = Progress(5, watermark=(3, 3), committed_us=1)
    log = Log("id", 2, 9)
    assert begin(Claim("id", progress), log) == progress
    assert begin(Claim("id", progress), log._replace(start_offset=7))[:2] == (7, (3, 3))
    assert begin(Claim("id", progress), log._replace(end_offset=4))[:2] == (4, None)
    assert begin(Claim("another", progress), log) == begin(None, log) == Progress(2)


def test_where_the_ledger_counts() -> None:
    claims = [Claim("old", Progress(90)), Claim("id", Progress(5))]
    logs = {ITEM: Log("id", 0, 9)}
    at = within({ITEM: claims}, logs)
    assert at == {ITEM: claims[1]}
    assert behind({ITEM: Progress(2)}, at) == 3
    assert behind({ITEM: Progress(7)}, at) == 0
    assert within({ITEM: [Claim("id", Progress(10))]}, logs) == {}
