"""Which records of a poll are applied, and where a partition is cut."""

from __future__ import annotations

from typing import Any

from tests.unit.make import MOVED, P0, PLACEHOLDER, TABLE, column, described, envelope, record

from deltasync.change import TABLE as TABLE_HEADER
from deltasync.change import Partition, Record, Told
from deltasync.intake import Intake, take
from deltasync.progress import Progress
from deltasync.readable import Due, Tables
from deltasync.replica.tables import CANARY
from deltasync.table import SourceTable, Table, TableId, Version

P1 = Partition("p.shop.other", 0)
LOG = Partition("p.deltasync.schema_log", 0)


def _tables(**known: SourceTable) -> Tables:
    return Tables({TableId("shop", name): table for name, table in known.items()}, CANARY, PLACEHOLDER, raw_text=False)


def _offsets(found: Intake) -> list[tuple[Partition, int]]:
    return [(one.partition, one.offset) for one in found.taken]


def test_an_unreadable_record_cuts_its_partition_only() -> None:
    """What is before it is applied, what is behind it is not read, other partitions go on."""
    records = [
        record(envelope("c"), 0),
        record(b"?", 1),
        record(envelope("c"), 2),
        record(envelope("c"), 0, partition=P1),
    ]
    found = take(records, {P0: Progress(), P1: Progress()}, _tables(t=described()))

    assert _offsets(found) == [(P0, 0), (P1, 0)]
    assert [(cut.offset, cut.waits) for cut in found.cuts.values()] == [(1, False)]


def test_records_that_were_applied_or_are_not_ours_are_left_alone() -> None:
    """Below the ledger, or of a partition that is not read."""
    records = [record(envelope("c"), 3), record(envelope("c"), 4), record(envelope("c"), 0, partition=P1)]

    assert _offsets(take(records, {P0: Progress(next_offset=4)}, _tables(t=described()))) == [(P0, 4)]


def test_unknown_tables_wait() -> None:
    """Their description is on its way."""
    found = take([record(envelope("c"))], {P0: Progress()}, _tables())

    assert [cut.waits for cut in found.cuts.values()] == [True]


def test_held_tables_wait_for_their_operator() -> None:
    """With the reason and a remedy."""
    found = take([record(envelope("c"))], {P0: Progress()}, _tables(t=described(held="its key changed")))

    (cut,) = found.cuts.values()
    assert cut.waits
    assert "its key changed" in cut.error.what


def test_types_that_are_not_carried_hold_their_table() -> None:
    """A column that was added later may have one."""
    table = Table("shop", "t", (*TABLE.columns, column("i", "timetz")), ("id",))

    (cut,) = take([record(envelope("c"))], {P0: Progress()}, _tables(t=described(table))).cuts.values()
    assert cut.waits


def test_tables_that_are_not_captured_are_passed_over() -> None:
    """An initial snapshot reads them, the stream does not: their rows are not the replica's."""
    (one,) = take([record(envelope("r"), 5)], {P0: Progress()}, _tables(t=described(captured=False))).taken

    assert (one.change, one.progress.next_offset) == (None, 6)


def test_older_records_are_skipped_and_counted() -> None:
    """By position, within one poll, too."""
    records = [record(envelope("u", sequence=f'["{n}","{n}"]'), offset) for offset, n in enumerate((5, 6, 5, 6, 7))]
    found = take(records, {P0: Progress()}, _tables(t=described()))

    assert [one.change is not None for one in found.taken] == [True, True, False, False, True]
    assert found.taken[-1].progress[:4] == (5, (7, 7), 10, 2)


def _key_change(offset: int, *, at: str = '["5","6"]') -> list[Record]:
    """The two records that Debezium makes of one UPDATE of a key."""
    half = record(envelope("d", sequence=at), offset, key={"id": 1})._replace(message=MOVED)
    return [half, record(envelope("c", sequence=at), offset + 1, key={"id": 2})]


def test_a_key_change_is_one_change() -> None:
    """Its halves are taken together, a tombstone between them or not, and both are skipped when they come again."""
    for between in ([], [record(None, 1)]):
        halves = _key_change(0)
        records = [halves[0], *between, halves[1]._replace(offset=1 + len(between))]
        found = take(records, {P0: Progress()}, _tables(t=described()))

        (one,) = found.taken
        assert one.change is not None
        assert (one.change.key, one.change.old_key) == (halves[1].key, halves[0].key)
        assert (one.progress.next_offset, found.cuts) == (len(records), {})
        again = take(_key_change(5), {P0: one.progress}, _tables(t=described()))
        assert [taken.change for taken in again.taken] == [None, None]
        assert again.taken[-1].progress.skipped == 2


def test_half_a_key_change_waits_for_the_other() -> None:
    """Applied alone it would delete the values that the other half does not carry."""
    found = take(
        [record(envelope("c"), 0), _key_change(1, at='["15","16"]')[0]], {P0: Progress()}, _tables(t=described())
    )

    assert [one.offset for one in found.taken] == [0]
    assert (found.cuts[P0].offset, found.cuts[P0].waits, found.cuts[P0].again) == (1, True, True)


def test_a_half_whose_other_half_was_lost_stops() -> None:
    """Debezium goes on behind the key change where it was restarted within it (measured)."""
    half, _ = _key_change(0)
    behind = record(envelope("d", sequence='["10","11"]'), 1, key={"id": 3})
    for following in (behind, behind._replace(message=MOVED), record(envelope("t", sequence='["11","1"]'), 1)):
        found = take([half, following], {P0: Progress()}, _tables(t=described()))
        assert found.taken == []
        (cut,) = found.cuts.values()
        assert (cut.offset, cut.waits, "was never sent" in cut.error.what) == (0, False, True)

    again = record(envelope("u", sequence='[null,"99"]'), 1)
    assert not take([half, again], {P0: Progress()}, _tables(t=described())).cuts


def test_reads_behind_a_half_do_not_tell_whether_the_other_is_lost() -> None:
    """An incremental snapshot's: what comes behind them does."""
    half, other = _key_change(0)
    read = record(envelope("r", sequence='["10","11"]', snapshot="incremental"), 1)
    found = take([half, read], {P0: Progress()}, _tables(t=described()))
    assert (found.taken, found.cuts[P0].offset, found.cuts[P0].waits) == ([], 0, True)

    behind = record(envelope("u", sequence='["10","12"]'), 2)
    lost = take([half, read, behind], {P0: Progress()}, _tables(t=described()))
    assert (lost.taken, lost.cuts[P0].offset, lost.cuts[P0].waits) == ([], 0, False)

    again = [half._replace(offset=2), other._replace(offset=3)]
    found = take([half, read, *again], {P0: Progress()}, _tables(t=described()))
    assert [(one.offset, one.change and one.change.old_key) for one in found.taken] == [(1, None), (3, half.key)]


def test_half_a_key_change_is_passed_over_where_the_connector_died_behind_it() -> None:
    """It sends what it had not confirmed again, both halves of this change with it."""
    records = [
        record(envelope("c", sequence='["5","5"]'), 0),
        _key_change(1)[0],
        record(envelope("c", sequence='["5","5"]'), 2),
        *_key_change(3),
    ]
    found = take(records, {P0: Progress()}, _tables(t=described()))

    assert [(one.offset, one.change and one.change.old_key) for one in found.taken] == [
        (0, None),
        (2, None),
        (4, records[1].key),
    ]
    assert [one.change is not None for one in found.taken] == [True, False, True]


def test_a_key_change_that_may_be_again_stops_where_it_lacks_values() -> None:
    """The row under its old key may be another one by now: its values would be taken in silence."""
    half, other = _key_change(0, at='[null,"6"]')
    lacking = record(envelope("c", {"id": 2, "a": PLACEHOLDER, "b": "1"}, sequence='[null,"6"]'), 1, key={"id": 2})
    streamed = Progress(0, (20, 30), 100)

    assert not take([half, lacking], {P0: Progress()}, _tables(t=described())).cuts
    assert not take([half, other], {P0: streamed}, _tables(t=described())).cuts
    found = take([half, lacking], {P0: streamed}, _tables(t=described()))
    assert (found.taken, found.cuts[P0].waits) == ([], False)
    assert "ledger set p.shop.t 0 2" in found.cuts[P0].error.remedy


def test_among_several_partitions_a_key_change_is_a_delete_and_an_insert() -> None:
    """Its halves travel in different ones."""
    found = take(_key_change(0), {P0: Progress()}, _tables(t=described()), {P0.topic})

    assert [one.change and (one.change.op.value, one.change.old_key) for one in found.taken] == [
        ("d", None),
        ("c", None),
    ]


def test_a_truncate_among_several_partitions_stops_its_own() -> None:
    """No order holds between partitions: rows of the others may be older or younger."""
    records = [record(envelope("c"), 0), record(envelope("t"), 1), record(envelope("c"), 2)]
    found = take(records, {P0: Progress()}, _tables(t=described()), {P0.topic})

    assert [one.offset for one in found.taken] == [0]
    assert (found.cuts[P0].offset, found.cuts[P0].waits) == (1, False)
    assert "ledger set p.shop.t 0 2" in found.cuts[P0].error.remedy
    assert not take(records, {P0: Progress()}, _tables(t=described())).cuts


def test_keys_of_several_spellings_stop_among_several_partitions() -> None:
    """1.0 and 1.00 are one key, and their records may be in two partitions."""
    priced = described(Table("shop", "t", TABLE.columns, ("b",)))
    for table, stopped in ((priced, True), (described(), False)):
        records = [record(envelope("c"), key={table.description.primary_key[0]: "1.0"} if table.description else None)]
        cuts = take(records, {P0: Progress()}, _tables(t=table), {P0.topic}).cuts
        assert [cut.waits for cut in cuts.values()] == [False] * stopped


def test_the_schema_log_becomes_events() -> None:
    """Inserts are events, deletes are the log's own pruning."""
    row = {"id": 7, "event": "ddl", "tag": "CREATE TABLE", "schema_name": "shop", "table_name": "t", "captured": True}
    source: dict[str, Any] = {"schema": "deltasync", "table": "schema_log"}
    records = [
        record(envelope("c", row, **source), 0, partition=LOG),
        record(envelope("d", **source), 1, partition=LOG),
    ]
    found = take(records, {LOG: Progress()}, _tables())

    assert [one.event and one.event.id for one in found.taken] == [7, None]
    assert all(one.change is None for one in found.taken)


def test_a_snapshot_knows_tables_by_their_new_names_alone() -> None:
    """Their rows come under these, whatever they were called before."""
    source: dict[str, Any] = {"schema": "deltasync", "table": "schema_log"}
    row: dict[str, object] = {"id": 7, "event": "ddl", "former_schema": "shop", "former_table": "old"}
    records = [record(envelope(op, row, **source), offset, partition=LOG) for offset, op in enumerate("cr")]
    found = take(records, {LOG: Progress()}, _tables())

    assert [one.event and one.event.former for one in found.taken] == [TableId("shop", "old"), None]


def test_what_is_gone_by_another_name_was_not_dropped() -> None:
    """A drop has a place by which it is carried out; a name that a rename or set-up took away has none."""
    source: dict[str, Any] = {"schema": "deltasync", "table": "schema_log"}
    rows: list[dict[str, object]] = [
        {"id": 7, "event": "drop", "tag": tag} for tag in ("DROP TABLE", "DROP SCHEMA", "ALTER TABLE", "SETUP")
    ]
    records = [record(envelope("c", row, **source), offset, partition=LOG) for offset, row in enumerate(rows)]
    found = take(records, {LOG: Progress()}, _tables())

    assert [one.event and one.event.lsn for one in found.taken] == [10, 10, None, None]


def test_streamed_rows_of_a_table_that_was_not_captured_wait() -> None:
    """It is captured by now: its description is on its way. Those of an excluded table are passed over."""
    keyless = take(
        [record(envelope("c"))], {P0: Progress()}, _tables(t=described(captured=False, reason="no primary key"))
    )
    excluded = take([record(envelope("c"))], {P0: Progress()}, _tables(t=described(captured=False, reason="excluded")))

    assert [cut.waits for cut in keyless.cuts.values()] == [True]
    assert [one.change for one in excluded.taken] == [None]


def test_records_from_before_the_converter_are_read_in_their_own_form() -> None:
    """With the table's header a value is PostgreSQL's text already; without, stock Debezium's."""
    table = Table("shop", "t", (column("id", "int8"), column("n", "_int4")), ("id",))
    tables = Tables({TableId("shop", "t"): described(table)}, CANARY, PLACEHOLDER, raw_text=True)
    old, new = {"id": 1, "n": [1, None]}, {"id": 1, "n": "[0:1]={1,2}"}
    records = [
        record(envelope("u", row, sequence=f'["{10 + place}","{10 + place}"]'), place)._replace(
            converter=True, message=Told([(TABLE_HEADER, b"")] if headed else ())
        )
        for place, (row, headed) in enumerate(((old, False), (new, True), (old, False), (new, False)))
    ]
    found = take(records, {P0: Progress()}, tables)

    rows = [one.change.row for one in found.taken if one.change]
    assert rows == [b'{"id":1,"n":"{1,NULL}"}', b'{"id":1,"n":"[0:1]={1,2}"}', b'{"id":1,"n":"{1,NULL}"}']
    (cut,) = found.cuts.values()
    assert (cut.offset, cut.waits) == (3, False)
    assert "from before Connect had the raw-text converter" in cut.error.what


def test_signals_to_the_connector_are_passed_over() -> None:
    """What is asked of it, its marks, and those that are deleted: no table of the replica holds them."""
    signals = [record(envelope(op, schema="deltasync", table="signal"), n) for n, op in enumerate("crd")]
    found = take(signals, {P0: Progress()}, _tables())

    assert ([(one.offset, one.change) for one in found.taken], found.cuts) == ([(0, None), (1, None), (2, None)], {})


def test_a_snapshot_behind_one_that_died_begins_with_an_empty_table() -> None:
    """Not behind streamed changes, nor in an incremental one, nor for control tables: theirs holds other rows, too."""
    tables = _tables(t=described())
    reads = [record(envelope("r", sequence=f'[null,"{lsn}"]'), offset) for offset, lsn in enumerate((5, 5, 7, 7))]
    found = take(reads, {P0: Progress()}, tables)
    assert [one.change and one.change.begins for one in found.taken] == [False, False, True, False]
    (behind,) = take([record(envelope("r"))], {P0: Progress(watermark=(None, 5), committed_us=1)}, tables).taken
    among = take([record(envelope("r", snapshot="incremental"))], {P0: Progress(watermark=(None, 5))}, tables).taken
    spread = take([record(envelope("r"))], {P0: Progress(watermark=(None, 5))}, tables, {P0.topic}).taken
    beat = record(envelope("r", schema="deltasync", table="canary"))
    canary = take([beat], {P0: Progress(watermark=(None, 5))}, tables).taken
    assert not any(one.change is None or one.change.begins for one in (behind, *among, *spread, *canary))


def test_rows_from_behind_a_change_of_their_table_wait_for_it() -> None:
    """Told by their own place in the source's log, whatever their transaction's; nothing of them is read before."""
    renamed = Table("shop", "t", (*TABLE.columns[:1], column("x", "text"), *TABLE.columns[2:]), ("id",))
    rows = [
        record(envelope("c", sequence='["90","99"]'), 0),
        record(envelope("d", sequence='[null,"50"]', ts_us=20), 1),
        record(envelope("c", {"id": 2, "x": "y", "b": "1"}, sequence='["80","100"]', ts_us=30), 2),
        record(envelope("c", sequence='["90","99"]'), 3),
    ]
    versions = [
        Version(2, renamed, "apply", lsn=100),
        Version(2, renamed, "hold", lsn=100),
        Version(2, renamed, "stop", lsn=100),
    ]
    for version, waits, due in zip(versions, (True, True, False), (Due(TABLE.id, 2), None, None), strict=True):
        found = take(rows, {P0: Progress()}, _tables(t=described(pending=(version,), held="why")))
        (cut,) = found.cuts.values()
        assert _offsets(found) == [(P0, 0), (P0, 1)]
        assert (cut.offset, cut.waits, cut.due) == (2, waits, due)

    unknown = described(pending=(Version(2, renamed, "hold"),), held="why")
    assert take(rows, {P0: Progress()}, _tables(t=unknown)).taken == []
    spread = described(pending=(Version(2, renamed, "apply", lsn=100),))
    (cut,) = take(rows, {P0: Progress()}, _tables(t=spread), {P0.topic}).cuts.values()
    assert "several partitions" in cut.error.what
    for seen, taken in ((100, 1), (101, 0)):  # where the last commit ended that was seen when they were read
        reads = [record(envelope("r", sequence=f'["{seen}","99"]', snapshot="incremental"), 0)]
        assert len(take(reads, {P0: Progress()}, _tables(t=spread)).taken) == taken


def test_a_key_of_an_older_version_comes_again() -> None:
    """It is passed over, whatever the key's column is called now; what is new waits for its table."""
    renamed = Table("shop", "t", (column("number", "int8"), *TABLE.columns[1:]), ("number",))
    rows = [record(envelope("c", sequence='["10","11"]'), 0)]
    (again,) = take(rows, {P0: Progress(watermark=(10, 12), committed_us=2**60)}, _tables(t=described(renamed))).taken
    assert (again.change, again.progress.skipped) == (None, 1)
    (cut,) = take(rows, {P0: Progress(watermark=(9, 12))}, _tables(t=described(renamed))).cuts.values()
    assert (cut.offset, cut.waits) == (0, True)
