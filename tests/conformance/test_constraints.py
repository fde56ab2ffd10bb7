"""What every replica makes of unique values and foreign keys: the one in memory and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.bench import P0, Bench, Steps, T, event, plan_of, row_of, rows_of
from tests.unit.make import column

from deltasync.debezium.rows import Rows
from deltasync.failure import lacks_parent, lacks_room
from deltasync.plan import TablePlan
from deltasync.ports import Batch
from deltasync.progress import Claim, Progress
from deltasync.replica.memory_table import Foreign
from deltasync.table import Table

PARENT = Table("shop", "p", (column("id", "int8", not_null=True),), ("id",))
CHILD = Table("shop", "c", (column("id", "int8", not_null=True), column("p", "int8")), ("id",))


def test_unique_values_move_between_rows(bench: Bench) -> None:
    """Of one batch, in any order, of rows that lack values, too; one that another row holds is refused."""
    unique = Table("shop", "v", T.columns, ("id",))
    bench.store.constrain(unique, (("a",),))
    bench.do(events=(event(2, unique),))
    bench.do(
        plan_of(
            table=unique, upserts=(rows_of(row_of("1", "x"), row_of("2", "y"), row_of("3", None), row_of("4", None)),)
        )
    )
    bench.do(plan_of(table=unique, upserts=(rows_of(row_of("1", "y"), row_of("2", "x")),)))
    bench.do(plan_of(table=unique, updates=(rows_of({"id": "1", "a": "x"}, {"id": "2", "a": "z"}),)))
    bench.do(plan_of(table=unique, deletes=rows_of({"id": "2"}), upserts=(rows_of(row_of("5", "z")),)))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each database has its own errors
        bench.do(plan_of(table=unique, upserts=(rows_of(row_of("5", "x")),)))

    assert lacks_room(caught.value)
    found = {(row["id"], row["a"], row["b"]) for row in bench.store.rows("v", ("id", "a", "b"))}
    assert found == {("1", "x", "b"), ("3", None, "b"), ("4", None, "b"), ("5", "z", "b")}


@pytest.fixture(
    params=[(), ("deferrable",), ("acts",), ("deferrable", "acts")], ids=lambda found: " ".join(found) or "-"
)
def family(bench: Bench, request: pytest.FixtureRequest) -> Iterator[tuple[Bench, Foreign]]:
    """A session that keeps to a foreign key between two tables, with a parent and its child."""
    foreign = Foreign(CHILD.id, "p", PARENT.id, "deferrable" in request.param, "acts" in request.param)
    for table in (PARENT, CHILD):
        bench.store.constrain(table, ())
    bench.store.relate(foreign)
    ordered = bench._replace(session=bench.store.session(ordered=True))
    ordered.do(events=(event(2, PARENT), event(3, CHILD)))
    ordered.do(
        plan_of(table=CHILD, upserts=(_child("10", "1"),)), plan_of(table=PARENT, upserts=(rows_of({"id": "1"}),))
    )
    yield ordered, foreign
    ordered.session.close()


def _child(id_: str, parent: str | None) -> Rows:
    return rows_of({"id": id_, "p": parent})


def _related(bench: Bench) -> tuple[list[str], list[tuple[str, str | None]]]:
    parents, children = (bench.store.rows(*found) for found in (("p", ["id"]), ("c", ["id", "p"])))
    return sorted(row["id"] or "" for row in parents), sorted((row["id"] or "", row["p"]) for row in children)


def test_rows_are_written_behind_those_that_they_reference(family: tuple[Bench, Foreign]) -> None:
    """Whatever order the tables come in: parents get other keys and go, and their children with them."""
    bench, _ = family
    bench.do(
        plan_of(table=PARENT, deletes=rows_of({"id": "1"}), upserts=(rows_of({"id": "2"}, {"id": "3"}),)),
        plan_of(table=CHILD, updates=(_child("10", "2"),), upserts=(_child("11", "3"), _child("12", None))),
    )
    assert _related(bench) == (["2", "3"], [("10", "2"), ("11", "3"), ("12", None)])
    bench.do(
        plan_of(table=PARENT, deletes=rows_of({"id": "2"}, {"id": "3"})),
        plan_of(table=CHILD, deletes=rows_of({"id": "10"}), updates=(_child("11", None),)),
    )
    assert _related(bench) == ([], [("11", None), ("12", None)])
    bench.do(plan_of(table=PARENT, truncate=True), plan_of(table=CHILD, truncate=True, upserts=(_child("13", None),)))

    assert _related(bench) == ([], [("13", None)])


@pytest.mark.parametrize(
    "plan",
    [
        plan_of(table=CHILD, upserts=(_child("11", "2"),)),
        plan_of(table=CHILD, updates=(_child("10", "2"),)),
        plan_of(table=PARENT, deletes=rows_of({"id": "1"})),
        plan_of(table=PARENT, truncate=True),
    ],
    ids=["child", "changed child", "parent", "all parents"],
)
def test_foreign_keys_are_kept(family: tuple[Bench, Foreign], plan: TablePlan) -> None:
    """A row without its parent is refused, and so is what would take one away: no child goes without a record."""
    bench, _ = family
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each database has its own errors
        bench.do(plan)

    assert lacks_parent(caught.value)
    assert _related(bench) == (["1"], [("10", "1")])


def test_a_table_is_filled_again_behind_truncate(family: tuple[Bench, Foreign]) -> None:
    """Rows that reference its rows find them again."""
    bench, _ = family
    bench.do(plan_of(table=PARENT, upserts=(rows_of({"id": "2"}),)))
    bench.do(plan_of(table=PARENT, truncate=True, upserts=(rows_of({"id": "1"}, {"id": "3"}),)))

    assert _related(bench) == (["1", "3"], [("10", "1")])


def test_foreign_keys_are_passed_by(family: tuple[Bench, Foreign]) -> None:
    """By a session that is not `ordered`: nothing is refused, and nothing acts."""
    other = family[0]._replace(session=family[0].store.session())
    other.do(plan_of(table=CHILD, upserts=(_child("11", "5"),)), plan_of(table=PARENT, deletes=rows_of({"id": "1"})))
    other.session.close()

    assert _related(other) == ([], [("10", "1"), ("11", "5")])


@pytest.mark.parametrize("longer", [True, False])
def test_unique_values_move_between_steps(bench: Bench, *, longer: bool) -> None:
    """A step that does not fit in alone is done together with the next ones, as long as there are any."""
    unique = Table("shop", "v", T.columns, ("id",))
    bench.store.constrain(unique, (("a",),))
    bench.do(events=(event(2, unique),))
    bench.do(plan_of(table=unique, upserts=(rows_of(row_of("1", "x"), row_of("2", "y")),)))
    first, second = (plan_of(table=unique, upserts=(rows_of(one),)) for one in (row_of("1", "y"), row_of("2", "x")))
    together = [plan_of(table=unique, upserts=(rows_of(row_of("1", "y"), row_of("2", "x")),))]
    steps = [[plan_of(upserts=(rows_of(row_of("9")),))], [first], *([] if longer else [[second]])]
    rest = Steps(iter(steps), together if longer else None)
    batch = Batch({P0: Claim("id", bench.store.ledger()[P0])}, {P0: Progress(9)}, rest=rest)
    if longer:
        bench.session.apply(batch)
    else:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each database has its own errors
            bench.session.apply(batch)
        assert lacks_room(caught.value)

    assert {(row["id"], row["a"]) for row in bench.store.rows("v", ("id", "a"))} == (
        {("1", "y"), ("2", "x")} if longer else {("1", "x"), ("2", "y")}
    )
    assert bool(bench.rows()) is longer
