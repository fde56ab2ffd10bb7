"""What every replica promises (`ports.Replica`): the one in memory and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest
from tests.property.memory_store import MemoryStore
from tests.property.postgres_store import PostgresStore
from tests.property.store import Store
from tests.unit.make import column

from deltasync.change import Partition
from deltasync.debezium.rows import Rows
from deltasync.debezium.schema_log import SchemaEvent
from deltasync.errors import FencedError, GapError, RecordError
from deltasync.failure import Verdict, lacks_parent, lacks_room, verdict
from deltasync.plan import Moves, TablePlan
from deltasync.ports import Batch, Replica
from deltasync.progress import Claim, Progress, anew
from deltasync.replica.memory_table import Foreign
from deltasync.table import Table

P0, P1 = Partition("p.shop.t", 0), Partition("p.shop.u", 0)
T = Table("shop", "t", (column("id", "numeric", not_null=True), column("a", "text"), column("b", "text")), ("id",))
PARENT = Table("shop", "p", (column("id", "int8", not_null=True),), ("id",))
CHILD = Table("shop", "c", (column("id", "int8", not_null=True), column("p", "int8")), ("id",))
WIDER = Table("shop", "t", (*T.columns, column("c", "text")), ("id",))


class Bench(NamedTuple):
    """A replica, a session on it, and the table `shop.t`, known and empty."""

    store: Store
    session: Replica

    def rows(self, *columns: str) -> set[tuple[str | None, ...]]:
        names = columns or ("id", "a", "b")
        return {tuple(row[name] for name in names) for row in self.store.rows("t", names)}

    def do(self, *plans: TablePlan, events: tuple[SchemaEvent, ...] = ()) -> int:
        """Apply one more record of P0 that does this."""
        found = self.session.open({P0: "id"})[P0]
        assert isinstance(found, Progress)
        to = found._replace(next_offset=found.next_offset + 1)
        return self.session.apply(Batch({P0: Claim("id", found)}, {P0: to}, plans, events))

    def offset(self) -> int:
        return self.store.ledger()[P0].next_offset


@pytest.fixture(params=["memory", "real"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        store: MemoryStore | PostgresStore = MemoryStore()
    else:
        pipeline = request.getfixturevalue("pipeline")
        store = PostgresStore(pipeline.settings, pipeline.replica_admin)
    found = Bench(store, store.session())
    found.do(events=(_event(1, T),))
    yield found
    found.session.close()
    store.close()


class _Steps:
    """Steps, and what the one that does not fit in is together with the next ones."""

    def __init__(self, steps: Iterator[list[TablePlan]], together: list[TablePlan] | None = None) -> None:
        self._steps = steps
        self._together = together

    def __iter__(self) -> Iterator[list[TablePlan]]:
        return self._steps

    def longer(self) -> list[TablePlan] | None:
        return self._together


def _event(id_: int, table: Table) -> SchemaEvent:
    return SchemaEvent(id_, "ddl", table.id, captured=True, complete=True, reason=None, description=table)


def _rows(*rows: Mapping[str, str | None]) -> Rows:
    return Rows(tuple(rows[0]), [[row[name] for row in rows] for name in rows[0]])


def _row(id_: str, a: str | None = "a", b: str | None = "b") -> dict[str, str | None]:
    return {"id": id_, "a": a, "b": b}


def _plan(  # noqa: PLR0913 - the parts of a plan
    *,
    table: Table = T,
    truncate: bool = False,
    deletes: Rows | None = None,
    upserts: tuple[Rows, ...] = (),
    updates: tuple[Rows, ...] = (),
    moves: tuple[Moves, ...] = (),
) -> TablePlan:
    return TablePlan(table, truncate, deletes, list(upserts), list(updates), list(moves))


def test_the_ledger(bench: Bench) -> None:
    """A new partition begins at 0; what was applied is read again by any session, to the last field."""
    assert bench.session.open({P1: "id"}) == bench.session.open({P1: "id"}) == {P1: Progress()}
    to = Progress(7, (None, 5), 1_700_000_000_000_001, 3, (b"\x00x", b"y"))
    bench.session.apply(Batch({P1: Claim("id", Progress())}, {P1: to}))
    bench.session.apply(Batch({P1: Claim("id", to)}, {P1: to._replace(watermark=(4, 5))}))

    assert bench.store.session().open({P1: "id"}) == {P1: to._replace(watermark=(4, 5))}


def test_the_fence(bench: Bench) -> None:
    """Where one partition is not where a worker left it, nothing is written, of the others neither."""
    other = bench.store.session()
    claims = {P0: Claim("id", bench.store.ledger()[P0]), P1: Claim("id", Progress())}
    bench.session.open({P1: "id"})
    other.apply(Batch({P1: claims[P1]}, {P1: Progress(2)}))
    with pytest.raises(FencedError):
        bench.session.apply(Batch(claims, {P0: Progress(9), P1: Progress(1)}, [_plan(upserts=(_rows(_row("1")),))]))

    assert bench.rows() == set()
    assert (bench.offset(), bench.store.ledger()[P1].next_offset) == (1, 2)
    other.close()


def test_steps(bench: Bench) -> None:
    """What comes step by step finds what was done before it; where a step fails, nothing is written."""
    steps = [
        [_plan(upserts=(_rows(_row("1"), _row("2")),))],
        [_plan(deletes=_rows({"id": "1"}), updates=(_rows({"id": "2", "a": "z"}),))],
    ]
    claims = {P0: Claim("id", bench.store.ledger()[P0])}

    def failing() -> Iterator[list[TablePlan]]:
        yield from steps
        raise RecordError("a step", remedy="none")

    with pytest.raises(RecordError):
        bench.session.apply(Batch(claims, {P0: Progress(9)}, rest=_Steps(failing())))
    assert (bench.rows(), bench.offset()) == (set(), 1)
    assert bench.session.apply(Batch(claims, {P0: Progress(9)}, rest=_Steps(iter(steps)))) == 4
    assert (bench.rows(), bench.offset()) == ({("2", "z", "b")}, 9)


def test_large_steps(bench: Bench) -> None:
    """A step does not do again what those before it did."""
    steps = [
        [_plan(upserts=(_rows(*(_row(str(n)) for n in range(600))),))],
        [_plan(deletes=_rows({"id": "7"}), upserts=(_rows(*(_row(str(n)) for n in range(600, 1200))),))],
    ]
    bench.session.apply(Batch({P0: Claim("id", bench.store.ledger()[P0])}, {P0: Progress(9)}, rest=_Steps(iter(steps))))

    assert {int(id_ or 0) for id_, _, _ in bench.rows()} == set(range(1200)) - {7}


def test_the_fence_knows_topics(bench: Bench) -> None:
    """A claim under another topic's id, or on a partition that was never opened, is fenced."""
    for claim in ({P0: Claim("other", Progress(1))}, {P1: Claim("id", Progress())}):
        with pytest.raises(FencedError):
            bench.session.apply(Batch(claim, dict.fromkeys(claim, Progress(2))))


def test_a_topic_that_was_made_again(bench: Bench) -> None:
    """Its records are not those that the ledger counts, until somebody says so."""
    assert isinstance(bench.session.open({P0: "another"})[P0], GapError)
    bench.store.place(P0, "another", 0)

    assert bench.session.open({P0: "another"}) == {P0: Progress()}


def test_moved_by_hand(bench: Bench) -> None:
    """The watermark is kept by a move forward alone, the latest source commit always; sessions hear of it once."""
    to = Progress(7, (3, 5), 1_700_000_000_000_001, 3, (b"y",))
    bench.session.open({P1: "id"})
    bench.session.apply(Batch({P1: Claim("id", Progress())}, {P1: to}))
    audited, _ = bench.session.moved_since(0)
    bench.store.place(P1, "id", 8)
    assert bench.session.open({P1: "id"}) == {P1: to._replace(next_offset=8)}
    bench.store.place(P1, "id", 4)
    newest, moved = bench.session.moved_since(audited)

    assert bench.session.open({P1: "id"}) == {P1: anew(to)._replace(next_offset=4)}
    assert (moved, bench.session.moved_since(newest)[1]) == ({P1}, set())


def test_upserts_and_deletes(bench: Bench) -> None:
    """Truncate, delete, upsert, in this order; equal numbers are one key, whose text is written, too."""
    assert bench.do(_plan(upserts=(_rows(_row("1.0"), _row("2"), _row("3")),))) == 3
    assert bench.do(_plan(upserts=(_rows(_row("1.0"), _row("2", None)),))) == 1, "what is equal is not written"
    bench.do(_plan(deletes=_rows({"id": "3.00"}, {"id": "9"}), upserts=(_rows(_row("1.00", "x")),)))
    assert bench.rows() == {("1.00", "x", "b"), ("2", None, "b")}
    bench.do(_plan(truncate=True, upserts=(_rows(_row("NaN")), _rows({"id": "5", "a": "only"}))))

    assert bench.rows() == {("NaN", "a", "b"), ("5", "only", None)}


def test_updates_leave_columns_alone(bench: Bench) -> None:
    """What did not travel stays; a row that is not there stops, and nothing of the batch is written."""
    bench.do(_plan(upserts=(_rows(_row("1"), _row("2")),)))
    bench.do(_plan(updates=(_rows({"id": "1.0", "b": None}),)))
    before = bench.offset()
    with pytest.raises(RecordError):
        bench.do(_plan(upserts=(_rows(_row("7")),), updates=(_rows({"id": "3", "a": "x"}),)))

    assert bench.rows() == {("1", "a", None), ("2", "a", "b")}
    assert bench.offset() == before


def test_moves_take_what_did_not_travel(bench: Bench) -> None:
    """From under the old keys, read before anything is written: two rows can exchange theirs."""
    bench.do(_plan(upserts=(_rows(_row("1", b="one"), _row("2", b="two")),)))
    moves = Moves(_rows({"id": "2", "a": "x"}, {"id": "1", "a": "y"}), ("b",), _rows({"id": "1"}, {"id": "2"}))
    bench.do(_plan(deletes=_rows({"id": "1"}, {"id": "2"}), moves=(moves,)))
    assert bench.rows() == {("2", "x", "one"), ("1", "y", "two")}
    with pytest.raises(RecordError):
        bench.do(_plan(moves=(Moves(_rows({"id": "8", "a": "x"}), ("b",), _rows({"id": "9"})),)))

    assert bench.rows() == {("2", "x", "one"), ("1", "y", "two")}


def test_unique_values_move_between_rows(bench: Bench) -> None:
    """Of one batch, in any order, of rows that lack values, too; one that another row holds is refused."""
    unique = Table("shop", "v", T.columns, ("id",))
    bench.store.constrain(unique, (("a",),))
    bench.do(events=(_event(2, unique),))
    bench.do(_plan(table=unique, upserts=(_rows(_row("1", "x"), _row("2", "y"), _row("3", None), _row("4", None)),)))
    bench.do(_plan(table=unique, upserts=(_rows(_row("1", "y"), _row("2", "x")),)))
    bench.do(_plan(table=unique, updates=(_rows({"id": "1", "a": "x"}, {"id": "2", "a": "z"}),)))
    bench.do(_plan(table=unique, deletes=_rows({"id": "2"}), upserts=(_rows(_row("5", "z")),)))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each database has its own errors
        bench.do(_plan(table=unique, upserts=(_rows(_row("5", "x")),)))

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
    ordered.do(events=(_event(2, PARENT), _event(3, CHILD)))
    ordered.do(_plan(table=CHILD, upserts=(_child("10", "1"),)), _plan(table=PARENT, upserts=(_rows({"id": "1"}),)))
    yield ordered, foreign
    ordered.session.close()


def _child(id_: str, parent: str | None) -> Rows:
    return _rows({"id": id_, "p": parent})


def _related(bench: Bench) -> tuple[list[str], list[tuple[str, str | None]]]:
    parents, children = (bench.store.rows(*found) for found in (("p", ["id"]), ("c", ["id", "p"])))
    return sorted(row["id"] or "" for row in parents), sorted((row["id"] or "", row["p"]) for row in children)


def test_rows_are_written_behind_those_that_they_reference(family: tuple[Bench, Foreign]) -> None:
    """Whatever order the tables come in: parents get other keys and go, and their children with them."""
    bench, _ = family
    bench.do(
        _plan(table=PARENT, deletes=_rows({"id": "1"}), upserts=(_rows({"id": "2"}, {"id": "3"}),)),
        _plan(table=CHILD, updates=(_child("10", "2"),), upserts=(_child("11", "3"), _child("12", None))),
    )
    assert _related(bench) == (["2", "3"], [("10", "2"), ("11", "3"), ("12", None)])
    bench.do(
        _plan(table=PARENT, deletes=_rows({"id": "2"}, {"id": "3"})),
        _plan(table=CHILD, deletes=_rows({"id": "10"}), updates=(_child("11", None),)),
    )
    assert _related(bench) == ([], [("11", None), ("12", None)])
    bench.do(_plan(table=PARENT, truncate=True), _plan(table=CHILD, truncate=True, upserts=(_child("13", None),)))

    assert _related(bench) == ([], [("13", None)])


@pytest.mark.parametrize(
    "plan",
    [
        _plan(table=CHILD, upserts=(_child("11", "2"),)),
        _plan(table=CHILD, updates=(_child("10", "2"),)),
        _plan(table=PARENT, deletes=_rows({"id": "1"})),
        _plan(table=PARENT, truncate=True),
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
    bench.do(_plan(table=PARENT, upserts=(_rows({"id": "2"}),)))
    bench.do(_plan(table=PARENT, truncate=True, upserts=(_rows({"id": "1"}, {"id": "3"}),)))

    assert _related(bench) == (["1", "3"], [("10", "1")])


def test_foreign_keys_are_passed_by(family: tuple[Bench, Foreign]) -> None:
    """By a session that is not `ordered`: nothing is refused, and nothing acts."""
    other = family[0]._replace(session=family[0].store.session())
    other.do(_plan(table=CHILD, upserts=(_child("11", "5"),)), _plan(table=PARENT, deletes=_rows({"id": "1"})))
    other.session.close()

    assert _related(other) == ([], [("10", "1"), ("11", "5")])


@pytest.mark.parametrize("longer", [True, False])
def test_unique_values_move_between_steps(bench: Bench, *, longer: bool) -> None:
    """A step that does not fit in alone is done together with the next ones, as long as there are any."""
    unique = Table("shop", "v", T.columns, ("id",))
    bench.store.constrain(unique, (("a",),))
    bench.do(events=(_event(2, unique),))
    bench.do(_plan(table=unique, upserts=(_rows(_row("1", "x"), _row("2", "y")),)))
    first, second = (_plan(table=unique, upserts=(_rows(one),)) for one in (_row("1", "y"), _row("2", "x")))
    together = [_plan(table=unique, upserts=(_rows(_row("1", "y"), _row("2", "x")),))]
    steps = [[_plan(upserts=(_rows(_row("9")),))], [first], *([] if longer else [[second]])]
    rest = _Steps(iter(steps), together if longer else None)
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


@pytest.mark.parametrize(
    "rows",
    [_rows(_row("1"), _row("1.0")), Rows(("id", "a"), [[None], ["x"]])],
    ids=["one row twice", "a key that is null"],
)
def test_what_a_database_refuses_stops(bench: Bench, rows: Rows) -> None:
    """The record is to blame: trying again would not help. The session goes on."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each database has its own errors
        bench.do(_plan(upserts=(rows,)))
    bench.do(_plan(upserts=(_rows(_row("4")),)))

    assert verdict(caught.value) is Verdict.STOP
    assert bench.rows() == {("4", "a", "b")}


def test_a_table_that_is_not_there_stops(bench: Bench) -> None:
    """So does one that lacks a column."""
    for table in (Table("shop", "gone", T.columns, ("id",)), WIDER):
        with pytest.raises(RecordError):
            bench.do(_plan(table=table, upserts=(_rows(_row("1")),)))


def test_tables_grow(bench: Bench) -> None:
    """A column that is added is NULL in the rows there are; records from before leave it alone."""
    bench.do(_plan(upserts=(_rows(_row("1")),)))
    bench.do(events=(_event(2, WIDER),))
    bench.do(_plan(table=WIDER, upserts=(_rows({"id": "2", "a": "a", "b": "b", "c": "c"}),)))
    bench.do(_plan(table=WIDER, upserts=(_rows(_row("2", "x")),)))

    assert bench.rows("id", "a", "c") == {("1", "a", None), ("2", "x", "c")}
    assert bench.session.tables()[T.id].description == WIDER


def test_tables_are_held(bench: Bench) -> None:
    """Another type, or a column less, is not guessed; an entry that is older than the last one changes nothing."""
    narrower = Table("shop", "t", T.columns[:2], ("id",))
    bench.do(events=(_event(3, narrower),))
    bench.do(events=(_event(2, WIDER),))
    held = bench.session.tables()[T.id]

    assert held.held is not None
    assert held.log_id == 3


def test_a_lost_answer(bench: Bench) -> None:
    """A COMMIT that took place and was not heard of: the next try is fenced, and the ledger tells."""

    def lose(place: str) -> None:
        if place == "committed":
            raise bench.store.fail()

    session = bench.store.session(lose)
    batch = Batch({P0: Claim("id", Progress(1))}, {P0: Progress(2)}, [_plan(upserts=(_rows(_row("1")),))])
    for expected in (Verdict.RETRY, Verdict.REREAD):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each database has its own errors
            session.apply(batch)
        assert verdict(caught.value) is expected
    session.close()

    assert (bench.rows(), bench.offset()) == ({("1", "a", "b")}, 2)


def test_a_session_that_is_ended_wrote_nothing(bench: Bench) -> None:
    """Inside its transaction: by an error, or by the server. It goes on with the next batch."""
    left = ["by the server", "by an error"]

    def end(place: str) -> None:
        how = left.pop() if place == "fenced" and left else None
        if how == "by the server":
            bench.store.end(session)
        elif how == "by an error":
            raise bench.store.fail()

    session: Replica = bench.store.session(end)
    batch = Batch({P0: Claim("id", Progress(1))}, {P0: Progress(2)}, [_plan(upserts=(_rows(_row("1")),))])
    for _ in range(2):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each database has its own errors
            session.apply(batch)
        assert verdict(caught.value) is Verdict.RETRY
        assert (bench.rows(), bench.offset()) == (set(), 1)
    session.apply(batch)
    session.close()

    assert (bench.rows(), bench.offset()) == ({("1", "a", "b")}, 2)
