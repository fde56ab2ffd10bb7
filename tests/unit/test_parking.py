"""What is set aside, and what waits behind it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from tests.unit.make import MOVED, P0, PLACEHOLDER, TABLE, change, column, decoder, described, envelope, record

from deltasync.change import Change, Partition, Record, Told
from deltasync.errors import DeltasyncError, RecordError
from deltasync.intake import Taken, take
from deltasync.parking import NO_ERRORS, Diverted, Letter, Parked, divert, may_park
from deltasync.plan import TablePlan
from deltasync.progress import Progress
from deltasync.readable import Tables
from deltasync.replay import plans_of, queues
from deltasync.replica.dead_letters import Stored
from deltasync.replica.tables import CANARY
from deltasync.table import Table

P1 = Partition("p.shop.t", 1)
FAILS = {(P0, 1): "refused"}


def _diverted(
    *changes: Change,
    parked: Mapping[Partition, Parked] | None = None,
    errors: Mapping[tuple[Partition, int], str] = NO_ERRORS,
    polled: list[Record] | None = None,
    table: Table = TABLE,
) -> Diverted:
    taken = [Taken(one.partition, one.offset, Progress(one.offset + 1), one) for one in changes]
    records = polled or [Record(one.partition, one.offset, one.key, b"{}") for one in changes]
    return divert(taken, parked or {}, records, {table.id: decoder(table)}, errors)


def _kept(found: Diverted) -> list[int]:
    return [one.offset for one in found.taken if one.change is not None]


def _set_aside(found: Diverted) -> list[tuple[int, str | None]]:
    return [(letter.record.offset, letter.error) for letter in found.letters]


def test_a_record_that_failed_and_what_follows_of_its_key() -> None:
    found = _diverted(*(change("u", key, offset=offset) for offset, key in enumerate((1, 2, 1, 2, 3))), errors=FAILS)

    assert _kept(found) == [0, 2, 4]
    assert _set_aside(found) == [(1, "refused"), (3, None)]
    assert [one.progress.next_offset for one in found.taken] == [1, 2, 3, 4, 5]
    assert (found.parked[P0].failed, found.parked[P0].records) == (1, 2)
    again = _diverted(change("d", 2, offset=5), change("c", 1, offset=6), parked=found.parked)
    assert (_kept(again), _set_aside(again)) == ([6], [(5, None)])
    other = _diverted(change("d", 2, offset=5, partition=P1), parked=found.parked)
    assert _kept(other) == [5]


def test_a_change_of_a_key_parks_both() -> None:
    """To a parked key, and from one; by one record, and by two, which are both kept."""
    parked = _diverted(change("u", 2, offset=1), errors=FAILS).parked
    moved = change("u", 7, offset=2, old_key=b'{"id":2}')
    found = _diverted(moved, change("d", 7, offset=3), change("c", 2, offset=4), parked=parked)
    assert (_kept(found), [offset for offset, _ in _set_aside(found)]) == ([], [2, 3, 4])

    half = Record(P0, 5, b'{"id":9}', b'{"op":"d"}', MOVED)
    come = change("c", 2, offset=6, old_key=b'{"id":9}')
    found = _diverted(come, parked=parked, polled=[half, Record(P1, 0, None, b"{}"), Record(P0, 6, b"", b"{}")])
    assert [offset for offset, _ in _set_aside(found)] == [5, 6]
    assert {key for _, key in found.parked[P0].keys} == {b'{"id":2}', b'{"id":9}'}


def test_equal_keys_of_another_spelling() -> None:
    table = msgspec.structs.replace(TABLE, columns=(column("id", "numeric"), *TABLE.columns[1:]))
    parked = _diverted(change("u", "1.0", offset=1), errors=FAILS, table=table).parked

    assert _kept(_diverted(change("u", "1.00", offset=2), change("u", "2", offset=3), parked=parked, table=table)) == [
        3
    ]


def test_truncate_makes_void_what_was_before() -> None:
    parked = _diverted(change("u", 2, offset=1), errors=FAILS).parked
    found = _diverted(change("u", 2, offset=2), change("t", offset=3), change("c", 2, offset=4), parked=parked)

    assert (_kept(found), _set_aside(found)) == ([3, 4], [(2, None)])
    assert [(void.table, void.offset) for void in found.voids] == [(TABLE.id, 3)]
    assert found.parked[P0].records == 0
    assert _diverted(change("t", offset=3)).voids == ()


def test_what_can_be_set_aside() -> None:
    assert may_park(change("u"))
    assert not any(map(may_park, (None, change("t"), change("c")._replace(key=None), change("c", run="1"))))


def _stored(*changes: Change, partition: Partition = P0) -> list[Stored]:
    return [
        Stored(
            one.offset, Letter(Record(partition, one.offset, one.key, b""), one.table, one.key or b"", one.old_key), 0
        )
        for one in changes
    ]


def test_letters_of_a_row_are_one_queue_under_all_of_its_keys() -> None:
    tables = Tables({TABLE.id: described()}, CANARY, PLACEHOLDER, raw_text=False)
    stored = _stored(
        change("u", 1, offset=1),
        change("u", 2, offset=2),
        change("u", 3, offset=3),
        change("u", 1, offset=4),
        change("u", 2, offset=5, old_key=b'{"id":1}'),
        change("d", 2, offset=6),
        change("u", 3, offset=7),
    )
    found = queues([*stored, *_stored(change("u", 1, offset=9), partition=P1)], tables)

    assert [[one.id for one in queue.letters] for queue in found] == [[1, 2, 4, 5, 6], [3, 7], [9]]
    assert found[0].keys == [b'{"id":1}', b'{"id":2}']


def test_records_taken_again_are_what_they_were() -> None:
    """Letters hold records, so that a replay reads them as the worker did."""
    tables = Tables({TABLE.id: described()}, CANARY, PLACEHOLDER, raw_text=False)
    (one,) = take([record(envelope("u"), 7)], {P0: Progress()}, tables).taken
    found = divert([one], {}, [record(envelope("u"), 7)], tables.decoders, {(P0, 7): "refused"})

    assert [letter.record.offset for letter in found.letters] == [7]
    assert take([letter.record for letter in found.letters], {P0: Progress()}, tables).taken == [one]


def _plan_of(tables: Tables, *letters: Letter) -> TablePlan:
    found = queues((Stored(one.record.offset, one, 0) for one in letters), tables)
    (plan,) = plans_of(found, tables)
    return plan


def _letter(op: str, offset: int, key: int, *, old_key: bytes | None = None, moves: bool = False) -> Letter:
    raw = b'{"id":%d}' % key
    found = record(envelope(op), offset, key=raw)._replace(message=MOVED if moves else Told())
    return Letter(found, TABLE.id, raw, old_key)


def test_letters_do_together_what_their_records_did() -> None:
    """In the order of their partition, however they are listed; those of the snapshot, too."""
    tables = Tables({TABLE.id: described()}, CANARY, PLACEHOLDER, raw_text=False)
    plan = _plan_of(tables, _letter("d", 9, 1), _letter("u", 7, 1))
    assert (plan.upserts, plan.updates, plan.deletes and plan.deletes.values) == ([], [], [["1"]])
    plan = _plan_of(tables, _letter("u", 9, 1), _letter("d", 7, 1))
    assert sum(rows.count for rows in plan.upserts) == 1


def test_half_of_a_key_change_is_replayed_as_it_was_taken() -> None:
    """With the other half where both were; alone where the other one went to another partition."""
    tables = Tables({TABLE.id: described()}, CANARY, PLACEHOLDER, raw_text=False)
    plan = _plan_of(tables, _letter("d", 7, 1, moves=True))
    assert plan.deletes is not None
    assert plan.deletes.values == [["1"]]
    with pytest.raises(RecordError, match="has not come yet"):
        _plan_of(tables, _letter("d", 7, 1, old_key=b'{"id":2}', moves=True))


def test_letters_of_a_table_that_is_held_wait() -> None:
    tables = Tables({TABLE.id: described()._replace(held="its column a is int4")}, CANARY, PLACEHOLDER, raw_text=False)
    with pytest.raises(DeltasyncError):
        _plan_of(tables, _letter("u", 7, 1))
