"""Folding the schema log, and what may be done about it without an operator."""

from __future__ import annotations

from tests.unit.make import TABLE, column, described

from deltasync.debezium.schema_log import SchemaEvent
from deltasync.policy import Ddl
from deltasync.replica import evolve
from deltasync.table import SourceTable, Table, TableId, Version

POLICY = Ddl().policy


def fold(events: list[SchemaEvent], known: dict[TableId, SourceTable]) -> dict[TableId, SourceTable]:
    return evolve.fold(events, known, POLICY)


def _event(id_: int, event: str = "ddl", description: Table | None = TABLE) -> SchemaEvent:
    return SchemaEvent(id_, event, TABLE.id, captured=True, complete=True, reason=None, description=description)


def test_the_newest_entry_wins() -> None:
    """Entries that come again are older than what is known."""
    assert fold([_event(3), _event(2)], {})[TABLE.id].log_id == 3
    assert fold([_event(1)], {TABLE.id: described(log_id=1)}) == {}


def test_a_dropped_table_keeps_its_description() -> None:
    """Records from before the drop may still come."""
    found = fold([_event(2, "drop", None)], {TABLE.id: described()})[TABLE.id]

    assert (found.dropped, found.description) == (True, TABLE)


def test_a_hole_holds_its_table_until_it_is_announced() -> None:
    """What changed is not known: decoding on would be a guess."""
    held = fold([_event(2, "hole", None)], {TABLE.id: described()})[TABLE.id]
    released = fold([_event(3, "announce")], {TABLE.id: held})[TABLE.id]

    assert held.held is not None
    assert released.held is None


def test_what_is_owed_stays_owed() -> None:
    """A later entry does not make a table complete."""
    assert not fold([_event(2)], {TABLE.id: described(complete=False)})[TABLE.id].complete


def test_columns_are_marked_until_the_replica_has_them() -> None:
    """What rows held when one came is kept, though a table that was rewritten does not tell it any more."""
    key = column("id", "int8", "bigint", number=1)
    first, came, later = (
        Table("shop", "t", (key, *more), ("id",))
        for more in (
            (),
            (column("a", "text", number=2, missing="x"),),
            (column("a", "text", number=2), column("b", "text", number=3)),
        )
    )
    pending = (Version(2, came, "hold"), Version(3, later, "hold"))
    found = evolve.target(described(first, pending=pending, held="why"))

    assert found.description is not None
    assert [(c.name, c.added, c.missing) for c in found.description.columns] == [
        ("id", False, None),
        ("a", True, "x"),
        ("b", True, None),
    ]
    assert found.pending == ()
    assert [c.added for c in (evolve.released(found).description or TABLE).columns] == [False] * 3
    unnumbered = Table("shop", "t", (column("id", "int8"),), ("id",))
    assert evolve.marked(came, unnumbered) == came


def test_a_table_that_was_made_again_is_held() -> None:
    """Its rows of before are on the replica."""
    dropped = fold([_event(2, "drop", None)], {TABLE.id: described()})[TABLE.id]

    again = fold([_event(3)], {TABLE.id: dropped})[TABLE.id]
    assert again.held == evolve.REMADE
    assert fold([_event(4)], {TABLE.id: again})[TABLE.id].held == evolve.REMADE


RENAMED = Table("shop", "t", (column("id", "int8", "bigint", not_null=True), column("x", "text")), ("id",))
RETYPED = Table("shop", "t", (*RENAMED.columns[:1], column("x", "numeric")), ("id",))


def test_what_became_of_a_table_is_pending_step_by_step() -> None:
    """The replica's table fits the old description until each was done; an entry that is repeated is no step."""
    known = {TABLE.id: described()}
    found = evolve.fold([_event(2, description=RENAMED)._replace(lsn=7), _event(3, description=RETYPED)], known, POLICY)
    table = found[TABLE.id]

    assert table.description == TABLE
    assert [(v.log_id, v.action, v.lsn, v.anytime) for v in table.pending] == [
        (2, "hold", 7, False),
        (3, "hold", None, False),
    ]
    assert table.newest == RETYPED
    assert "dropped" in (evolve.reason(table, POLICY) or "")
    again = fold([_event(4, description=RETYPED)], {TABLE.id: table})[TABLE.id]
    assert again.pending == table.pending


def test_nothing_is_applied_where_its_place_is_not_known() -> None:
    """Whatever the policy says: a change that was announced later, or behind a hole."""
    policy = {**POLICY, "drop_column": "apply"}
    event = _event(3, description=RENAMED)._replace(lsn=7)
    hole = fold([_event(2, "hole", None)], {TABLE.id: described()})
    (placed,) = evolve.fold([event], {TABLE.id: described()}, policy).values()
    (behind,) = evolve.fold([event], hole, policy).values()
    (late,) = evolve.fold([event._replace(lsn=None)], {TABLE.id: described()}, policy).values()

    assert [table.pending[0].action for table in (placed, behind, late)] == ["apply", "hold", "hold"]


def test_a_table_that_is_created_may_have_to_be_approved() -> None:
    """Not one that set-up announces: it is wanted."""
    policy = {**POLICY, "create_table": "hold"}
    assert evolve.fold([_event(1)._replace(lsn=7)], {}, policy)[TABLE.id].held == evolve.NEW
    assert evolve.fold([_event(1, "announce")], {}, policy)[TABLE.id].held is None
