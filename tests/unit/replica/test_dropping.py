"""What becomes of tables that were dropped, and of others that were made under their names."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.make import P0, PLACEHOLDER, TABLE, column, described, envelope, record

from deltasync.change import Log
from deltasync.debezium.schema_log import SchemaEvent
from deltasync.intake import take
from deltasync.policy import Ddl
from deltasync.progress import Claim, Progress
from deltasync.readable import Due, Tables
from deltasync.replica import dropping, evolve
from deltasync.replica.tables import CANARY
from deltasync.table import SourceTable, Table, Version

MADE = Table("shop", "t", (TABLE.columns[0], column("x", "text")), ("id",))
LATER = Table("shop", "t", (TABLE.columns[0], column("y", "text")), ("id",))
DROP = Version(2, None, "apply", lsn=50, anytime=True, at_us=7)


def _event(id_: int, description: Table | None, **more: Any) -> SchemaEvent:  # noqa: ANN401 - fields of SchemaEvent
    fields: dict[str, Any] = {"captured": description is not None, "lsn": 10 * id_, "at_us": id_, **more}
    kind = "drop" if description is None else "ddl"
    return SchemaEvent(id_, kind, TABLE.id, complete=True, reason=None, description=description, **fields)


def _folded(policy: str, *events: SchemaEvent, before: SourceTable | None = None) -> SourceTable:
    actions = {**Ddl().policy, "drop_table": policy}
    (found,) = evolve.fold(events, {TABLE.id: before or described()}, actions).values()  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("policy", ["hold", "apply", "ignore", "stop"])
def test_a_drop_is_pending_by_its_policy(policy: str) -> None:
    """The replica's table fits its description until then; nothing is owed of it."""
    found = _folded(policy, _event(2, None), before=described(complete=False))

    assert (found.dropped, found.complete, found.description, found.newest) == (True, True, TABLE, None)
    assert [(v.action, v.lsn, v.anytime) for v in found.pending] == [(policy, 20, True)]


def test_what_is_not_known_to_be_a_drop_is_none() -> None:
    """A name that went with a rename, or before set-up was told."""
    assert _folded("apply", _event(2, None, lsn=None)).pending == ()


def test_another_table_under_the_name_follows_its_drop() -> None:
    """Step by step; a drop that was ignored waits for the operator then, and so does whatever is dropped behind it."""
    found = _folded("ignore", _event(2, None), _event(3, MADE), _event(4, LATER), _event(5, None))
    actions = [(v.description, v.action) for v in found.pending]

    assert actions == [(None, "hold"), (MADE, "apply"), (LATER, "hold"), (None, "ignore")]
    assert found.description == TABLE
    assert evolve.reason(found, Ddl().policy) == "it was dropped on the source"
    assert [v.log_id for v in evolve.from_drop(found).pending] == [5]


def test_a_drop_that_is_to_be_carried_out_is_all_there_is_to_do() -> None:
    """What became of the table before went with it, unless an earlier drop waits for the operator."""
    held = _folded("hold", _event(2, LATER))
    assert [v.log_id for v in _folded("apply", _event(3, None), before=held).pending] == [3]
    waiting = _folded("hold", _event(2, None), _event(3, MADE))
    assert [v.log_id for v in _folded("apply", _event(4, None), before=waiting).pending] == [2, 3, 4]


def test_a_hole_behind_a_drop_leaves_the_drop() -> None:
    """What the hole is about is another table under the name."""
    hole = SchemaEvent(4, "hole", TABLE.id, captured=False, complete=True, reason="55P03", description=None)
    found = _folded("hold", _event(2, None), _event(3, MADE), hole, _event(5, LATER, lsn=None))
    assert [(v.description, v.action) for v in found.pending] == [(None, "hold"), (LATER, "apply")]


def test_a_table_that_cannot_be_captured_keeps_the_drop() -> None:
    """Until it has a key, the replica's table is the old one."""
    found = _folded("hold", _event(2, None), _event(3, MADE, captured=False))
    assert (found.captured, [v.log_id for v in found.pending]) == (False, [2])
    assert [v.log_id for v in _folded("hold", _event(4, MADE), before=found).pending] == [2, 4]


def test_behind_its_drop_a_table_is_a_new_one() -> None:
    """Which may have to be approved as such; records from before the drop stay void."""
    gone = dropping.gone(_folded("apply", _event(2, None)), DROP)
    made = _folded("apply", _event(3, MADE), before=gone)

    assert (gone.description, gone.pending, gone.is_gone) == (None, (), True)
    assert (made.description, made.held, made.dropped, made.gone_lsn, made.gone_at_us) == (MADE, None, False, 50, 7)


def test_where_rows_may_have_come_early_the_log_is_read_again() -> None:
    """By their place, or by when they were committed: to be read again does no harm. Not in a topic of another id."""
    claims = [Progress(5, (1, 49), 6), Progress(5, (1, 50), 6), Progress(5, (1, 3), 7), Progress(5)]
    logs = {P0: Log("id", 3, 9)}
    early = [dropping.early_logs({P0: [Claim("id", one)]}, DROP, lambda _: logs) for one in claims]

    assert early == [{}, logs, logs, {}]
    assert dropping.early_logs({P0: [Claim("old", claims[1])]}, DROP, lambda _: logs) == {}
    assert not dropping.gone(described(pending=(DROP,)), DROP, logs.values()).complete


def _tables(table: SourceTable) -> Tables:
    return Tables({TABLE.id: table}, CANARY, PLACEHOLDER, raw_text=False)


def test_records_from_before_a_drop_are_void() -> None:
    """Told by their place, reads too. One that was committed later is of another log."""
    tables = _tables(described(gone_lsn=50, gone_at_us=12))
    places = [("r", 49, 99), ("c", 49, 12), ("c", 50, 13), ("c", 49, 13)]
    records = [
        record(envelope(op, sequence=f'["1","{lsn}"]', ts_us=at), offset) for offset, (op, lsn, at) in enumerate(places)
    ]
    found = take(records, {P0: Progress()}, tables)

    assert [one.change is not None for one in found.taken] == [False, False, True]
    assert found.taken[1].progress == Progress(2)
    assert (found.cuts[P0].offset, found.cuts[P0].waits) == (3, False)
    assert "ledger set p.shop.t 0 4" in found.cuts[P0].error.remedy


@pytest.mark.parametrize(("action", "waits"), [("apply", True), ("hold", True), ("ignore", True), ("stop", False)])
def test_rows_of_another_table_wait_for_the_drop(action: Any, waits: bool) -> None:  # noqa: ANN401, FBT001 - parameters
    """Those from before it are applied; in several partitions, too."""
    drop = Version(2, None, action, lsn=50, anytime=True)
    records = [record(envelope("c", sequence=f'["1","{lsn}"]'), offset) for offset, lsn in enumerate((49, 51))]
    found = take(records, {P0: Progress()}, _tables(described(dropped=True, pending=(drop,))), {P0.topic})

    assert [one.offset for one in found.taken if one.change] == [0]
    assert (found.cuts[P0].offset, found.cuts[P0].waits) == (1, waits)
    assert found.cuts[P0].due == (Due(TABLE.id, 2, drops=True) if action == "apply" else None)
