"""Records that are read in bulk come to what they come to one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tests.unit.make import MOVED, P0, PLACEHOLDER, TABLE, column, compact_json, described, envelope, record

from deltasync import bulk, intake
from deltasync.change import Op, Partition, Record, Told
from deltasync.compact import compact
from deltasync.debezium.rows import Rows
from deltasync.plan import TablePlan, plan
from deltasync.progress import TIED_MAX, Progress, fingerprint
from deltasync.readable import Tables
from deltasync.replica.tables import CANARY
from deltasync.table import SourceTable, Table, TableId

_PAIRED = Table("shop", "t", (column("id", "int8"), column("a", "text"), column("b", "text")), ("id", "a"))
_LIST = Table("shop", "t", (column("id", "int8"), column("a", "_text"), column("b", "timetz")), ("id",))
_NUMBER = Table("shop", "t", (column("id", "numeric"), column("a", "text")), ("id",))
_ROWS = (
    {"a": "x", "b": "1.0"},
    {"a": "", "b": None},
    {"a": "tab\there", "b": "2"},
    {"a": "y", "b": "1.0"},
)
_ODD_ROWS = ({"a": PLACEHOLDER, "b": "1"}, {"a": "y"}, {"a": 1, "b": "1"}, {"a": "y", "b": "1", "c": 1})
_PLAIN = dict.fromkeys(("odd", "moves", "null", "snapshot", "table", "tombstone", "untold"), False)


@st.composite
def _changes(draw: st.DrawFn) -> list[Record]:
    """Records as Debezium sends them, now and then with something odd about one of them."""
    place, committed_us, found = (draw(st.integers(9, 12)), draw(st.integers(9, 12))), 9, []
    reads = draw(st.integers(0, 9)) == 0
    schemas = draw(st.booleans())
    odd = draw(st.sampled_from([*[{}] * 12, *({name: True} for name in _PLAIN)]))
    odd_at = draw(st.integers(0, 7))
    for offset in range(draw(st.integers(1, 8))):
        told = {**_PLAIN, **(odd if offset == odd_at else {})}
        step = draw(st.sampled_from([*[(0, 1)] * 9, *[(1, 0)] * 3, (0, 0), (0, 0), (-1, 0)]))
        place = place if reads else (place[0] + step[0], place[1] + step[1])
        committed_us += draw(st.integers(0, 2))
        found.append(
            _record(draw, offset, "r" if reads else draw(st.sampled_from("cud")), place, committed_us, told, schemas)
        )
    return found


def _record(  # noqa: PLR0913, PLR0917 - what there is to tell
    draw: st.DrawFn,
    offset: int,
    op: str,
    place: tuple[int, int],
    us: int,
    told: dict[str, bool],
    schemas: bool,  # noqa: FBT001
) -> Record:
    key: dict[str, object] = {"id": draw(st.integers(1, 4))}
    row = {**key, **draw(st.sampled_from(_ODD_ROWS if told["odd"] else _ROWS))}
    sequence = [None if op == "r" or told["null"] else str(place[0]), str(place[1])]
    snapshot = "incremental" if told["snapshot"] else "true" if op == "r" else "false"
    table = "other" if told["table"] else "t"
    value: Any = envelope(op, row, sequence=json.dumps(sequence), ts_us=us, snapshot=snapshot, table=table)
    raw_key: Any = {"other": 1} if told["untold"] else key
    if schemas:
        value, raw_key = ({"schema": {"type": "struct"}, "payload": it} for it in (value, raw_key))
    found = record(None if told["tombstone"] else value, offset + 5, raw_key)
    return found._replace(message=MOVED if told["moves"] else Told())


_progress = st.builds(
    Progress,
    next_offset=st.sampled_from([0, 5, 5, 5, 6]),
    watermark=st.sampled_from([None, (9, 9), (9, 10), (10, 10), (None, 10), (12, 12)]),
    committed_us=st.sampled_from([None, 8, 10, 30]),
    skipped=st.just(3),
    tied=st.sampled_from([(), (fingerprint("u", compact_json({"id": 1})),)]),
    floor=st.sampled_from([None, (9, 9)]),
)
_described = st.sampled_from([
    *[described()] * 20, described(_PAIRED), described(_PAIRED), described(_LIST), described(_NUMBER),
    described(held="its column a is int4"), described(captured=False),
])  # fmt: skip


@given(_changes(), _progress, _described, st.booleans())
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_bulk_is_one_by_one(records: list[Record], progress: Progress, known: SourceTable, raw_text: bool) -> None:  # noqa: FBT001
    tables = Tables({TABLE.id: known, TableId("shop", "other"): described()}, CANARY, PLACEHOLDER, raw_text=raw_text)
    found, others = bulk.read({P0: records}, {P0: progress}, tables)

    event("in bulk" if found.records else "one by one")
    assert [*found.records, *others] == records
    if found.records:
        taken = intake.take(records, {P0: progress}, tables)
        assert not taken.cuts
        changes = [one.change for one in taken.taken if one.change is not None]
        assert len(changes) == len(records)
        assert list(map(_told, found.plans)) == list(
            map(_told, plan(compact(changes, tables.decoders), tables.decoders))
        )
        assert found.to == {P0: taken.taken[-1].progress}
        assert found.commits == {change.position.committed_us for change in changes if change.op is not Op.READ}


def _told(found: TablePlan) -> TablePlan:
    """A plan with its rows in order, whether they should be there or not."""
    rows = sorted((row for part in found.upserts for row in zip(*part.values, strict=True)), key=str)
    columns = found.upserts[0].columns if found.upserts else ()
    return found._replace(upserts=[Rows(columns, [list(column) for column in zip(*rows, strict=True)])] if rows else [])


def test_rows_that_are_made_should_not_be_there() -> None:
    """Unless something came before: one that was deleted and made again may be there still."""
    made = [
        record(envelope(op, {"id": key, "a": "x", "b": "1"}, sequence=f'["10","{n}"]'), n, {"id": key})
        for n, (op, key) in enumerate([("c", 1), ("u", 1), ("u", 2), ("d", 3), ("c", 3), ("c", 4), ("d", 4), ("c", 5)])
    ]
    tables = Tables({TABLE.id: described()}, CANARY, PLACEHOLDER, raw_text=False)
    (found,) = bulk.read({P0: made}, {P0: Progress()}, tables)[0].plans

    assert [(rows.fresh, rows.values[0]) for rows in found.upserts] == [(True, ["1", "5"]), (False, ["2", "3"])]


def _made(op: str, n: int, **more: Any) -> Record:  # noqa: ANN401 - of the envelope's source
    row = {"id": n, **more.pop("row", {"a": "x", "b": "1"})}
    sequence = json.dumps([more.pop("seq0", "10"), str(n)])
    return record(envelope(op, row, sequence=sequence, **more), n, {"id": n})


_READS = [_made("r", 9, seq0=None)._replace(offset=n) for n in range(3)]
_TIED = Progress(watermark=(10, 0), committed_us=10, tied=tuple(bytes([n % 256, n // 256]) for n in range(TIED_MAX)))
SPECIAL = {
    "a row that goes on under another key": ([_made("d", 1)._replace(message=MOVED), _made("c", 2)], Progress()),
    "a value that did not travel": ([_made("u", 1, row={"a": PLACEHOLDER, "b": "1"})], Progress()),
    "TRUNCATE": ([_made("c", 1), _made("t", 2)], Progress()),
    "a logical message": ([_made("c", 1), _made("m", 2)], Progress()),
    "an epoch that begins": ([*_READS, _made("c", 10, seq0=None)], Progress()),
    "reads behind changes": ([_made("c", 1), _made("r", 2, seq0=None)], Progress()),
    "reads of two snapshots": ([*_READS, _made("r", 10, seq0=None)], Progress()),
    "an incremental snapshot": ([_made("r", 9, seq0=None, snapshot="incremental")], Progress()),
    "a snapshot that begins again": (_READS, Progress(watermark=(None, 5))),
    "more at one position than the ledger tells": ([_made("c", 0)], _TIED),
    "another source": ([_made("c", 1, connector="mysql")], Progress()),
    "a time that no clock shows": ([_made("c", 1, ts_us=-1)], Progress()),
}


@pytest.mark.parametrize("what", SPECIAL)
def test_what_is_special_is_read_one_by_one(what: str) -> None:
    records, progress = SPECIAL[what]
    tables = Tables({TABLE.id: described()}, CANARY, PLACEHOLDER, raw_text=False)

    assert bulk.read({P0: records}, {P0: progress}, tables) == (bulk.Bulk([], [], {}, frozenset()), records)


@pytest.mark.parametrize("raw_text", [True, False])
def test_text_that_may_be_of_two_forms_is_read_one_by_one(*, raw_text: bool) -> None:
    """Of `varbit` both are texts, the converter's and those from before it; an array was a list before."""
    for type_, is_plain in (("varbit", False), ("_text", True)):
        table = Table("shop", "t", (column("id", "int8"), column("a", type_)), ("id",))
        known = Tables({TABLE.id: described(table)}, CANARY, PLACEHOLDER, raw_text=raw_text)
        found, _ = bulk.read({P0: [_made("c", 1, row={"a": "{x}"})]}, {P0: Progress()}, known)
        assert bool(found.records) is (raw_text and is_plain)


@pytest.mark.parametrize("text", ["", "1", "12", "2026", "Z", "-0044-01-01T00:00:00Z"])
def test_a_moment_that_is_none_or_before_year_1_is_not_taken_as_it_is(text: str) -> None:
    """It is converted, or its record is read alone, which says that it does not fit."""
    table = Table("shop", "t", (column("id", "int8"), column("a", "timestamptz")), ("id",))
    tables = Tables({TABLE.id: described(table)}, CANARY, PLACEHOLDER, raw_text=False)
    found, _ = bulk.read({P0: [_made("c", 1, row={"a": text})]}, {P0: Progress()}, tables)

    assert all(rows.values[1] != [text] for plan_ in found.plans for rows in plan_.upserts)


def test_reads_and_what_follows_them() -> None:
    """The end of an initial snapshot and the first changes behind it, in one poll."""
    records = [*_READS, *(_made(op, n) for n, op in enumerate("cud", 3))]
    tables = Tables({TABLE.id: described()}, CANARY, PLACEHOLDER, raw_text=False)
    found, others = bulk.read({P0: records}, {P0: Progress()}, tables)

    assert others == []
    assert found.to == {P0: intake.take(records, {P0: Progress()}, tables).taken[-1].progress}


def _both(records: Sequence[Record]) -> list[TablePlan]:
    tables = Tables({TABLE.id: described()}, CANARY, PLACEHOLDER, raw_text=False)
    plain, others = bulk.parted(records, (), ())
    assert not others
    return bulk.read(plain, dict.fromkeys(plain, Progress()), tables)[0].plans


def test_partitions_of_one_table_are_one_plan() -> None:
    """The writer has one plan for each table."""
    rows = [{"id": n, "a": "x", "b": "1"} for n in range(40)]
    made = [
        record(envelope("c", row, sequence=f'["10","{n}"]'), n, {"id": n}, Partition(P0.topic, n % 2))
        for n, row in enumerate(rows)
    ]
    (found,) = _both(made)
    assert sorted(map(int, filter(None, found.upserts[0].values[0]))) == list(range(40))


def test_few_records_and_partitions_with_dead_letters_are_read_one_by_one() -> None:
    few = [record(envelope("c"), n) for n in range(bulk.RECORDS_MIN - 1)]
    many = [record(envelope("c"), n, partition=Partition("p.shop.u", 0)) for n in range(bulk.RECORDS_MIN)]

    assert bulk.parted([*few, *many], (), ()) == ({many[0].partition: many}, few)
    assert bulk.parted(many, {many[0].partition}, ()) == ({}, many)
