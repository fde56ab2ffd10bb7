"""What becomes of tables that were renamed, under either name."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.make import P0, PLACEHOLDER, TABLE, column, described, envelope, record

from deltasync.debezium.schema_log import SchemaEvent
from deltasync.intake import take
from deltasync.policy import Ddl
from deltasync.progress import Claim, Progress
from deltasync.readable import Due, Tables
from deltasync.replica import evolve
from deltasync.replica.changes import Kind, changes
from deltasync.replica.pending import had_early_rows
from deltasync.replica.tables import CANARY
from deltasync.table import SourceTable, Table, TableId

NEW = replace(TABLE, schema="attic", name="u")
NEWER = replace(NEW, columns=(*NEW.columns, column("c", "text")))
LAST = replace(NEW, name="v")


def _event(id_: int, table: Table, former: Table | None = None, **more: Any) -> SchemaEvent:  # noqa: ANN401 - its fields
    fields: dict[str, Any] = {"description": table, "captured": True, "complete": True, "lsn": 10 * id_, **more}
    kind = "drop" if fields["description"] is None else "ddl"
    return SchemaEvent(id_, kind, table.id, reason=None, xid=id_, former=former.id if former else None, **fields)


def _moved(id_: int, old: Table, new: Table, **more: Any) -> list[SchemaEvent]:  # noqa: ANN401 - fields of SchemaEvent
    """What the source writes of a rename."""
    return [_event(id_, old, description=None, captured=False, lsn=None), _event(id_ + 1, new, old, **more)]


def _folded(*events: SchemaEvent, policy: str = "apply", **known: SourceTable) -> dict[TableId, SourceTable]:
    actions: Any = {**Ddl().policy, "rename_table": policy}
    before = {TABLE.id: described(), **{TableId("attic", name): table for name, table in known.items()}}
    return {**before, **evolve.fold(events, before, actions)}


def test_it_arrives_under_its_new_name() -> None:
    """Its rows wait there; those under the former one end at its place. What changes meanwhile waits behind it."""
    found = _folded(*_moved(2, TABLE, NEW), _event(4, NEWER))
    old, new = found[TABLE.id], found[NEW.id]

    assert (old.dropped, old.description, old.newest) == (True, TABLE, None)
    assert [(v.description, v.action, v.lsn, v.xid, v.renamed) for v in old.pending] == [(NEW, "apply", 30, 3, True)]
    assert (new.is_arriving, new.complete, new.description) == (True, True, NEW)
    assert [v.description for v in new.pending] == [NEWER]
    assert evolve.reason(new, Ddl().policy) == new.held == "it was renamed on the source, and is here as shop.t"


def test_what_does_not_arrive_any_more_is_owed() -> None:
    """A hole, or a key that is lost: nothing waits for its rows."""
    arriving = _folded(*_moved(2, TABLE, NEW))[NEW.id]
    for event in (_event(4, NEW, description=None, captured=False), _event(4, NEWER, captured=False)):
        is_hole = event.description is None
        (found,) = evolve.fold(
            [event._replace(event="hole" if is_hole else "ddl")], {NEW.id: arriving}, Ddl().policy
        ).values()
        assert (found.complete, found.is_arriving) == (False, False)


def test_names_may_change_again() -> None:
    """Each step waits for the one before."""
    found = _folded(*_moved(2, TABLE, NEW), *_moved(4, NEW, LAST))
    assert found[NEW.id].is_arriving
    assert [v.description for v in found[NEW.id].pending] == [LAST]
    assert found[LAST.id].held == "it was renamed on the source, and is here as attic.u"


@pytest.mark.parametrize(
    ("policy", "event", "known"),
    [
        ("ignore", {}, {}),
        ("apply", {"lsn": None}, {}),
        ("apply", {"captured": False}, {}),
        ("apply", {}, {"u": described(NEW)}),
    ],
)
def test_where_it_cannot_its_rows_are_owed(policy: str, event: dict[str, Any], known: dict[str, SourceTable]) -> None:
    """It is told not to, its place is not known, it is not captured any more, or another table has the name."""
    found = _folded(*_moved(2, TABLE, NEW, **event), policy=policy, **known)
    assert found[TABLE.id].pending == ()
    assert (found[NEW.id].complete, found[NEW.id].is_arriving) == (False, False)


def test_tables_that_exchange_their_names() -> None:
    """The first one follows; the other one is made anew behind it, and has to be read again."""
    found = _folded(*_moved(2, TABLE, NEW), *_moved(4, LAST, TABLE), v=described(LAST))
    assert [version.renamed for version in found[TABLE.id].pending] == [True, False]
    assert (found[TABLE.id].complete, found[TABLE.id].dropped) == (False, False)
    assert (found[NEW.id].is_arriving, found[LAST.id].pending) == (True, ())


def test_its_ddl() -> None:
    """First to its schema, which may have to be made, then to its name."""
    (change,) = changes(TABLE, NEW)
    assert (change.kind, change.lock, change.what) == (
        Kind.RENAME_TABLE,
        "ACCESS EXCLUSIVE",
        "it was renamed to attic.u on the source",
    )
    assert change.sql == [
        'CREATE SCHEMA IF NOT EXISTS "attic"',
        'ALTER TABLE "shop"."t" SET SCHEMA "attic"',
        'ALTER TABLE "attic"."t" RENAME TO "u"',
    ]


def test_rows_of_another_table_under_the_former_name_are_none_of_it() -> None:
    """Those that were applied before the rename was known cannot be told from its own."""
    version = _folded(*_moved(2, TABLE, NEW))[TABLE.id].pending[0]
    marks = [Claim("id", Progress(5, (1, lsn))) for lsn in (29, 30)]
    assert [had_early_rows(TABLE, [version], [mark]) for mark in marks] == [False, True]


def test_records_wait_under_both_names() -> None:
    """Under the new one all, whatever else changed; under the former one those from behind."""
    old_name = _folded(*_moved(2, TABLE, NEW))
    tables = Tables(old_name, CANARY, PLACEHOLDER, raw_text=False)
    places = [record(envelope("c", sequence=f'["1","{lsn}"]'), offset) for offset, lsn in enumerate((29, 31))]
    found = take(places, {P0: Progress()}, tables)
    assert [one.offset for one in found.taken if one.change] == [0]
    assert found.cuts[P0].due == Due(TABLE.id, 3, renames=True)
    assert tables.at_cut == {Due(TABLE.id, 3, renames=True): 3}

    arriving = _folded(*_moved(2, TABLE, NEW), _event(4, NEWER))[NEW.id]
    tables = Tables({TABLE.id: arriving}, CANARY, PLACEHOLDER, raw_text=False)
    found = take([record(envelope("c", sequence='["1","31"]'))], {P0: Progress()}, tables)
    assert (found.taken, found.cuts[P0].waits, found.cuts[P0].due) == ([], True, None)
    assert (tables.anytime, tables.at_cut) == ([], {})
