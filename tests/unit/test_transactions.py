"""Transactions are put together again from their partitions: whole, in order, once."""

from __future__ import annotations

import pytest
from tests.unit.make import change, envelope
from tests.unit.transaction_log import ENDS, NEW, A, B, Log, orders

from deltasync.change import Op, Partition
from deltasync.errors import RecordError
from deltasync.progress import Progress
from deltasync.spool import Place, Spooled
from deltasync.whole import changes_of, is_partly_applied, joined


def test_a_transaction_is_applied_whole_and_in_order() -> None:
    """However late a partition is, and whichever comes first."""
    log = Log()

    assert log.taken(log.end(1, 3), log.change(B, 1, 2)) == []
    assert log.taken(log.change(A, 1, 1)) == []
    assert orders(log.taken(log.change(A, 1, 3))) == [[1, 2, 3]]
    assert log.at[ENDS].watermark == (200, 200)
    assert [log.at[p].next_offset for p in (ENDS, A, B)] == [1, 2, 1]


def test_transactions_follow_their_ends() -> None:
    """One that is complete waits for the one that was committed before it."""
    log = Log()

    assert log.taken(log.change(B, 2, 1), log.end(1, 1), log.end(2, 1)) == []
    assert orders(log.taken(log.change(A, 1, 1))) == [[1], [1]]


def test_nothing_is_applied_before_its_end_is_known() -> None:
    log = Log()

    assert log.taken(log.change(A, 1, 1)) == []


def test_reads_go_at_once_unless_something_waits_before_them() -> None:
    log = Log()

    assert [len(unit.reads) for unit in log.taken(log.read(A), log.read(B))] == [1, 1]
    assert log.taken(log.change(A, 1, 1), log.read(A)) == []
    assert [unit.end is None for unit in log.taken(log.end(1, 1))] == [False, True]
    assert log.at[A].next_offset == 3


def test_reads_of_all_partitions_come_before_changes() -> None:
    """What a snapshot has read of a table that is truncated must not come behind that."""
    log = Log()
    log.young = frozenset({A, B})
    assert log.taken(log.read(A), log.change(A, 1, 1, "t"), log.end(1, 1))[-1].end is None
    assert log.transactions.unread() == [B]

    blocked = log.at.pop(B)
    assert log.taken() == []
    assert log.transactions.unread() == [B]

    log.at[B] = blocked
    log.transactions.settle({B: 2})
    assert [unit.end for unit in log.taken(log.read(B))] == [None]
    assert [unit.end is None for unit in log.taken(log.read(B))] == [True, False]


def test_what_comes_again_counts_once() -> None:
    """A connector that died in a transaction repeats its last changes, and ends."""
    log = Log()
    again = [log.change(A, 1, 1), log.change(B, 1, 2), log.change(A, 1, 1), log.change(B, 1, 2)]

    assert log.taken(*again, log.end(1, 3)) == []
    assert orders(log.taken(log.change(A, 1, 3), log.end(1, 3))) == [[1, 2, 3]]
    assert log.taken(log.change(A, 2, 1), log.end(1, 3), log.end(2, 1))[-1].end is not None


def test_a_change_without_a_key_may_come_again_elsewhere() -> None:
    log = Log()
    log.several = frozenset({A, B})
    log.taken(log.change(A, 1, 1, "t"), log.change(B, 1, 1, "t"), log.end(1, 2))

    assert orders(log.taken(log.change(A, 1, 2))) == [[1, 1, 2]]


def test_what_was_applied_is_skipped_truncates_and_reads_too() -> None:
    log = Log()
    first = [log.read(A), log.change(A, 1, 1), log.change(A, 1, 2, "t"), log.end(1, 2)]
    assert orders(log.taken(*first)) == [[1, 2]]

    units = log.taken(log.read(A), log.change(A, 1, 1), log.change(A, 1, 2, "t"), log.end(1, 2))
    assert [read.change for unit in units for read in unit.reads] == [None] * 4
    assert log.at[A] == log.at[A]._replace(next_offset=6, skipped=3)


def test_positions_without_a_first_half_are_told_by_their_place() -> None:
    """The connector's first transaction comes again, or a new one begins after its offsets were lost."""
    log = Log()
    log.taken(log.change(A, 5, 1), log.end(5, 1))
    old = envelope("u", sequence='[null,"501"]', ts_us=500_000)
    new = envelope("u", sequence='[null,"601"]', ts_us=600_000)
    old["transaction"] = {"id": "5:501", "total_order": 1}
    new["transaction"] = {"id": "6:601", "total_order": 1}

    (skipped,) = log.taken(log.put(A, old))
    assert skipped.reads[0].change is None
    assert orders(log.taken(log.put(A, new), log.end(6, 1))) == [[1]]


def test_a_key_change_is_one_change_across_partitions() -> None:
    log = Log()
    gone, come = log.change(A, 1, 1, "d", moves=True), log.change(B, 1, 2, "c")
    come = come._replace(value=(come.value or b"").replace(b'\\"102\\"', b'\\"101\\"'), key=b'{"id":2}')

    (unit,) = log.taken(come, gone, log.end(1, 2))
    found = changes_of(unit.reads)
    assert found[0] is None
    assert found[1] is not None
    assert (found[1].op, found[1].key, found[1].old_key) == (Op.CREATE, b'{"id":2}', b'{"id":1}')


def test_a_key_change_of_which_a_half_is_missing_is_not_applied() -> None:
    """Debezium may lose the second one; alone, the first one would delete the row."""
    for behind in ((), (2, 3)):
        log = Log()
        records = [log.change(A, 1, 1, "d", moves=True), *(log.change(A, 1, order, "u") for order in behind)]
        (unit,) = log.taken(*records, log.end(1, len(records)))
        with pytest.raises(RecordError, match="was never sent"):
            changes_of(unit.reads)


def test_a_key_change_tells_the_row_before_it() -> None:
    """Where an index is the key, it is read from that once the table is known."""
    halves = (
        Spooled(Place(10, stays=False, number=2), change("d", 7, before=b'{"id":7}')),
        Spooled(Place(10, stays=True, number=1), change("c")),
    )

    assert [(c.old_key, c.before) for c in joined(halves)] == [(b'{"id":7}', b'{"id":7}')]


def test_what_cannot_be_read_stops_behind_what_was_before_it() -> None:
    log = Log()

    assert log.taken(log.change(A, 1, 1), log.put(A, b"?"), log.change(A, 2, 1), log.end(2, 1)) == []
    assert (log.transactions.cuts(), [cut.offset for cut in log.transactions.obstacles()]) == ([], [1])


def test_records_without_a_transaction_are_refused() -> None:
    log = Log()
    log.taken(log.put(A, envelope("c")))

    (cut,) = log.transactions.cuts()
    assert "does not tell its transaction" in cut.error.what


def test_a_source_that_was_replaced_stops() -> None:
    """An older place with a later commit, of a change and of an end."""
    log = Log()
    log.taken(log.change(A, 5, 1), log.end(5, 1))
    later = envelope("u", sequence='["300","301"]', ts_us=900_000)
    later["transaction"] = {"id": "3:301", "total_order": 1}
    end = {"status": "END", "id": "3:400", "event_count": 1, "ts_ms": 900}
    log.taken(log.put(A, later), log.put(ENDS, end))

    assert ["was replaced" in cut.error.what for cut in log.transactions.cuts()] == [True, True]


def test_a_transaction_that_never_ended_is_not_stepped_over() -> None:
    log = Log()

    with pytest.raises(RecordError, match="has no end"):
        log.taken(log.change(A, 1, 1), log.change(A, 2, 1), log.end(2, 1))


def test_a_truncate_that_came_again_elsewhere_is_taken_where_it_was_first() -> None:
    """It has no key: behind a later transaction's record, in a partition that is read sooner."""
    for first in ("t", None):  # the connector that died may never have written it there
        log = Log()
        log.several = frozenset({A, B})
        records = [log.change(A, 2, 1), log.change(A, 1, 1, "t"), log.end(1, 2), log.end(2, 1)]
        assert log.taken(*records, *([log.change(B, 1, 1, "t")] if first else [])) == []
        units = log.taken(log.change(B, 1, 2))
        assert orders(units) == [[1, *([1] if first else []), 2], [1]]
        assert [log.at[p].next_offset for p in (ENDS, A, B)] == [2, 2, log.offsets[B]]


def test_partitions_that_are_ahead_are_not_read() -> None:
    """But those of the transaction that is next are, whatever is kept; what is held is so until half is gone."""
    log = Log(rows_max=3)
    log.taken(log.change(A, 1, 1), log.change(A, 2, 1), log.change(B, 1, 2))
    assert log.transactions.ahead(set()) == {A, B}

    log.taken(log.end(1, 3))
    assert log.transactions.ahead(set()) == {A}
    assert log.transactions.next_offset(A) == 2
    log.taken(log.change(A, 2, 2), log.change(B, 1, 3))
    assert [log.transactions.ahead(held) for held in ({A}, set[Partition]())] == [{A}, set()]
    log.taken(log.end(2, 2))
    assert log.transactions.ahead({A}) == set()


def test_ends_that_are_ahead_are_not_read() -> None:
    """Their number has a bound of its own: they keep no partition from being read."""
    log = Log(rows_max=3)
    log.taken(*(log.end(number, 1) for number in (1, 2, 3)))

    assert log.transactions.ahead(set()) == {ENDS}
    log.taken(log.change(A, 1, 1))
    assert [log.transactions.ahead(held) for held in ({ENDS}, set[Partition]())] == [{ENDS}, set()]


def test_what_is_too_much_for_memory_goes_to_disk() -> None:
    """The transaction that is next: its changes come back in their order, with where its partitions are behind it."""
    log = Log(rows_max=1)
    assert log.taken(log.change(A, 1, 1), log.change(B, 1, 3, "d"), log.end(1, 6)) == []
    assert log.taken(log.change(B, 1, 3, "d"), log.change(B, 1, 4), log.change(A, 1, 2)) == []
    assert log.transactions.ahead(set()) == {ENDS}

    records = [log.change(B, 1, 4), log.change(B, 1, 5), log.change(A, 1, 6), log.change(A, 2, 1), log.read(B)]
    assert log.transactions.take(records, log.at)
    found = log.transactions.ready()
    unit = next(found)
    assert unit.large is not None
    assert [change.order for change in joined(unit.large.spool)] == [1, 2, 3, 4, 5, 6]
    assert {partition: progress.next_offset for partition, progress in unit.large.to.items()} == {A: 3, B: 5}
    assert [read.partition for read in unit.reads] == [ENDS]
    assert [(one.end, [read.offset for read in one.reads]) for one in found] == [(None, [5])]


def test_what_is_on_disk_of_a_partition_that_went_is_read_again() -> None:
    log = Log(rows_max=1)
    log.taken(log.change(A, 1, 1), log.change(B, 1, 2), log.end(1, 3))
    del log.at[B]

    assert not log.transactions.take([], log.at)


def test_a_partition_that_went_is_forgotten() -> None:
    """Revoked, blocked, or moved by hand: what was read of it is read again."""
    log = Log()
    log.taken(log.change(A, 1, 1), log.change(B, 1, 2))
    log.at.pop(B)
    log.taken(log.end(1, 2))
    log.at[B] = Progress()
    log.offsets[B] = 0  # it is read from the ledger again

    assert log.taken() == []
    assert orders(log.taken(log.change(B, 1, 2))) == [[1, 2]]


def test_without_the_ends_nobody_knows_what_comes_again() -> None:
    """Then nothing is taken, and everything is read again when they are back."""
    log = Log()
    log.taken(log.change(A, 1, 1), log.end(1, 1))
    ends = log.at.pop(ENDS)
    again = log.change(A, 1, 1)
    assert not log.transactions.take([again], log.at)

    log.at[ENDS] = ends
    assert not log.transactions.take([], log.at)
    (unit,) = log.taken(again)
    assert unit.reads[0].change is None


def test_ends_that_come_late_have_what_was_taken_before_read_again() -> None:
    at = {A: Progress()}
    log = Log(at={**NEW, ENDS: Progress(3, (200, 200), 100_999)})
    again = log.change(A, 1, 1)
    assert log.transactions.take([again], at)
    assert not log.transactions.take([], log.at)


def test_progress_of_the_other_mode_shows() -> None:
    """A change was applied behind the last transaction that was applied whole."""
    ends, new = Progress(5, (200, 200), 100_000), Progress(5)
    streamed = Progress(5, (100, 150), 100_000)

    assert is_partly_applied(new, [streamed])
    assert is_partly_applied(ends, [streamed._replace(watermark=(200, 250))])
    assert not is_partly_applied(ends, [streamed, new])
    assert not is_partly_applied(new, [Progress(5, (None, 7), None)])
