"""Folding the schema log, and what may be done about it without an operator."""

from __future__ import annotations

import pytest
from tests.unit.make import TABLE, column, described

from deltasync.debezium.schema_log import SchemaEvent
from deltasync.replica import evolve
from deltasync.replica.evolve import difference, fold
from deltasync.table import Column, Table


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


def test_added_columns_are_no_difference() -> None:
    """They can be added."""
    wider = Table("shop", "t", (*TABLE.columns, column("c", "text")), ("id",))

    assert difference(TABLE, wider, TABLE) is None


def _numbered(*columns: Column) -> Table:
    key = column("id", "int8", "bigint", number=1)
    return Table("shop", "t", (key, *columns), ("id",))


def test_a_column_keeps_its_number() -> None:
    """A rename is told from a column that was dropped, and one that was made anew from the old one."""
    before = _numbered(column("a", "text", number=2))

    renamed, anew = _numbered(column("x", "text", number=2)), _numbered(column("a", "text", number=3))
    assert difference(before, renamed, before) == "the column a was renamed to x on the source"
    assert difference(before, anew, before) == "the column a was dropped or renamed on the source"


def test_columns_are_marked_until_the_replica_has_them() -> None:
    """What rows held when one came is kept, though a table that was rewritten does not tell it any more."""
    before = described(_numbered())
    came = evolve.marked(described(_numbered(column("a", "text", number=2, missing="x"))), before)
    later = evolve.marked(described(_numbered(column("a", "text", number=2), column("b", "text", number=3))), came)

    found = later.description or TABLE
    assert [(c.name, c.added, c.missing) for c in found.columns] == [
        ("id", False, None),
        ("a", True, "x"),
        ("b", True, None),
    ]
    assert [c.added for c in (evolve.released(later).description or TABLE).columns] == [False] * 3
    unnumbered = described(Table("shop", "t", (column("id", "int8"),), ("id",)))
    assert evolve.marked(came, unnumbered) == came


def test_renames_types_and_keys_are_differences() -> None:
    """They are for an operator to decide, in words that say what changed."""
    key = column("id", "int8", "bigint", not_null=True)
    renamed = Table("shop", "t", (key, column("x", "text"), column("b", "numeric")), ("id",))
    retyped = Table("shop", "t", (key, column("a", "text"), column("b", "text")), ("id",))
    rekeyed = Table("shop", "t", TABLE.columns, ("id", "a"))

    assert difference(TABLE, renamed, TABLE) == "the column a was dropped or renamed on the source"
    assert difference(TABLE, retyped, TABLE) == "the type of b changed from numeric to text on the source"
    assert "primary key" in (difference(TABLE, rekeyed, TABLE) or "")


@pytest.mark.parametrize(
    ("default", "constant"),
    [
        ("1.50", True),
        ("'x'::text", True),
        ("'it''s'::character varying", True),
        ("'{}'::text[]", True),
        ("'new'::shop.status", True),
        ("0::numeric(12,2)", True),
        ("true", True),
        ("now()", False),
        ("gen_random_uuid()", False),
        ("nextval('s'::regclass)", False),
        ("'a' || now()", False),
        ("'x'::text || f()", False),
        (None, True),
    ],
)
def test_only_constant_defaults_fill_added_columns(default: str | None, *, constant: bool) -> None:
    """Any other gave the source's rows values that no record carries."""
    assert (evolve.guessed([column("c", "text", default=default)]) is None) is constant


def test_a_table_that_was_made_again_is_held() -> None:
    """Its rows of before are on the replica."""
    dropped = fold([_event(2, "drop", None)], {TABLE.id: described()})[TABLE.id]

    again = fold([_event(3)], {TABLE.id: dropped})[TABLE.id]
    assert again.held == evolve.REMADE
    assert fold([_event(4)], {TABLE.id: again})[TABLE.id].held == evolve.REMADE
