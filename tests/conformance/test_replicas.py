"""What every replica promises (`ports.Replica`): the one in memory and PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from tests.conformance.bench import P0, P1, WIDER, Bench, Steps, T, event, no_logs, plan_of, row_of, rows_of
from tests.unit.make import column

from deltasync.change import NEW_KEY, Partition, Record, Told
from deltasync.debezium.rows import Rows
from deltasync.errors import FencedError, GapError, RecordError
from deltasync.failure import Verdict, is_to_blame, verdict
from deltasync.parking import Letter, Void
from deltasync.plan import Moves, TablePlan
from deltasync.ports import Batch, Replica
from deltasync.progress import Claim, Progress, anew, placed, vouched
from deltasync.readable import Due
from deltasync.replica.tables import CANARY
from deltasync.table import Table


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
        bench.session.apply(
            Batch(claims, {P0: Progress(9), P1: Progress(1)}, [plan_of(upserts=(rows_of(row_of("1")),))])
        )

    assert bench.rows() == set()
    assert (bench.offset(), bench.store.ledger()[P1].next_offset) == (1, 2)
    other.close()


def test_the_fence_knows_watermarks(bench: Bench) -> None:
    """Places in the source's log may begin anew where the offset stays: who goes by the old ones writes nothing."""
    here = Progress(1, (4, 5), 7)
    bench.session.apply(Batch({P0: Claim("id", bench.store.ledger()[P0])}, {P0: here}))
    bench.store.place(P0, "id", 1)
    with pytest.raises(FencedError):
        bench.session.apply(Batch({P0: Claim("id", here)}, {P0: here._replace(next_offset=2, skipped=1)}))

    assert bench.store.ledger()[P0][:2] == (1, None)


def test_steps(bench: Bench) -> None:
    """What comes step by step finds what was done before it; where a step fails, nothing is written."""
    steps = [
        [plan_of(upserts=(rows_of(row_of("1"), row_of("2")),))],
        [plan_of(deletes=rows_of({"id": "1"}), updates=(rows_of({"id": "2", "a": "z"}),))],
    ]
    claims = {P0: Claim("id", bench.store.ledger()[P0])}

    def failing() -> Iterator[list[TablePlan]]:
        yield from steps
        raise RecordError("a step", remedy="none")

    with pytest.raises(RecordError):
        bench.session.apply(Batch(claims, {P0: Progress(9)}, rest=Steps(failing())))
    assert (bench.rows(), bench.offset()) == (set(), 1)
    assert bench.session.apply(Batch(claims, {P0: Progress(9)}, rest=Steps(iter(steps)))) == 4
    assert (bench.rows(), bench.offset()) == ({("2", "z", "b")}, 9)


def test_large_steps(bench: Bench) -> None:
    """A step does not do again what those before it did."""
    steps = [
        [plan_of(upserts=(rows_of(*(row_of(str(n)) for n in range(600))),))],
        [plan_of(deletes=rows_of({"id": "7"}), upserts=(rows_of(*(row_of(str(n)) for n in range(600, 1200))),))],
    ]
    bench.session.apply(Batch({P0: Claim("id", bench.store.ledger()[P0])}, {P0: Progress(9)}, rest=Steps(iter(steps))))

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


def test_partitions_that_were_added(bench: Bench) -> None:
    """A topic is opened with all that it has, and may be again; one that comes later waits for somebody's word."""
    first, second, later = (Partition("p.shop.v", number) for number in range(3))
    for _ in range(2):
        assert bench.session.open({first: "id", second: "id"}) == {first: Progress(), second: Progress()}
    bench.session.apply(Batch({first: Claim("id", Progress())}, {first: Progress(5)}))
    opened = bench.session.open({first: "id", second: "id", later: "id"})
    assert "was added to a topic in use" in str(opened.pop(later))
    assert opened == {first: Progress(5), second: Progress()}
    assert isinstance(bench.session.open({later: "id"})[later], GapError)
    assert later not in bench.store.ledger()
    bench.store.place(later, "id", 0)

    assert bench.session.open({later: "id"}) == {later: Progress()}


def test_moved_by_hand(bench: Bench) -> None:
    """The watermark is kept by a move forward alone, the latest source commit always; sessions hear of it once."""
    to = Progress(7, (3, 5), 1_700_000_000_000_001, 3, (b"y",))
    bench.session.open({P1: "id"})
    bench.session.apply(Batch({P1: Claim("id", Progress())}, {P1: to}))
    audited, _ = bench.session.moved_since(0)
    bench.store.place(P1, "id", 8)
    assert bench.session.open({P1: "id"}) == {P1: placed(to, 8)}
    bench.store.place(P1, "id", 4)
    newest, moved = bench.session.moved_since(audited)

    assert bench.session.open({P1: "id"}) == {P1: anew(to)._replace(next_offset=4)}
    assert (moved, bench.session.moved_since(newest)[1]) == ({P1}, set())


@pytest.mark.parametrize("offset", [7, 9])
def test_moved_by_hand_without_a_key(bench: Bench, offset: int) -> None:
    """Only a move back forgets what was applied: it would be doubled."""
    to = Progress(7, (3, 5), 1_700_000_000_000_001, 3, (b"keyless 7:1 1", b"y"))
    bench.session.open({P1: "id"})
    bench.session.apply(Batch({P1: Claim("id", Progress())}, {P1: to}))
    bench.store.place(P1, "id", offset)
    (moved,) = bench.session.open({P1: "id"}).values()
    assert moved == placed(to, offset) == to._replace(next_offset=offset, tied=(*to.tied, vouched(offset)))
    bench.store.place(P1, "id", 6)
    assert bench.session.open({P1: "id"}) == {P1: anew(to)._replace(next_offset=6)}


def test_upserts_and_deletes(bench: Bench) -> None:
    """Truncate, delete, upsert, in this order; equal numbers are one key, whose text is written, too."""
    assert bench.do(plan_of(upserts=(rows_of(row_of("1.0"), row_of("2"), row_of("3")),))) == 3
    assert bench.do(plan_of(upserts=(rows_of(row_of("1.0"), row_of("2", None)),))) == 1, "what is equal is not written"
    bench.do(plan_of(deletes=rows_of({"id": "3.00"}, {"id": "9"}), upserts=(rows_of(row_of("1.00", "x")),)))
    assert bench.rows() == {("1.00", "x", "b"), ("2", None, "b")}
    bench.do(plan_of(truncate=True, upserts=(rows_of(row_of("NaN")), rows_of({"id": "5", "a": "only"}))))

    assert bench.rows() == {("NaN", "a", "b"), ("5", "only", None)}


def test_updates_leave_columns_alone(bench: Bench) -> None:
    """What did not travel stays; a row that is not there stops, and nothing of the batch is written."""
    bench.do(plan_of(upserts=(rows_of(row_of("1"), row_of("2")),)))
    bench.do(plan_of(updates=(rows_of({"id": "1.0", "b": None}),)))
    before = bench.offset()
    with pytest.raises(RecordError):
        bench.do(plan_of(upserts=(rows_of(row_of("7")),), updates=(rows_of({"id": "3", "a": "x"}),)))

    assert bench.rows() == {("1", "a", None), ("2", "a", "b")}
    assert bench.offset() == before


def test_moves_take_what_did_not_travel(bench: Bench) -> None:
    """From under the old keys, read before anything is written: two rows can exchange theirs."""
    bench.do(plan_of(upserts=(rows_of(row_of("1", b="one"), row_of("2", b="two")),)))
    moves = Moves(rows_of({"id": "2", "a": "x"}, {"id": "1", "a": "y"}), ("b",), rows_of({"id": "1"}, {"id": "2"}))
    bench.do(plan_of(deletes=rows_of({"id": "1"}, {"id": "2"}), moves=(moves,)))
    assert bench.rows() == {("2", "x", "one"), ("1", "y", "two")}
    with pytest.raises(RecordError):
        bench.do(plan_of(moves=(Moves(rows_of({"id": "8", "a": "x"}), ("b",), rows_of({"id": "9"})),)))

    assert bench.rows() == {("2", "x", "one"), ("1", "y", "two")}


@pytest.mark.parametrize(
    "rows",
    [rows_of(row_of("1"), row_of("1.0")), Rows(("id", "a"), [[None], ["x"]])],
    ids=["one row twice", "a key that is null"],
)
def test_what_a_database_refuses_stops(bench: Bench, rows: Rows) -> None:
    """The record is to blame: trying again would not help. The session goes on."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each database has its own errors
        bench.do(plan_of(upserts=(rows,)))
    bench.do(plan_of(upserts=(rows_of(row_of("4")),)))

    assert is_to_blame(caught.value)
    assert bench.rows() == {("4", "a", "b")}


def test_a_table_that_is_not_there_stops(bench: Bench) -> None:
    """So does one that lacks a column."""
    for table in (Table("shop", "gone", T.columns, ("id",)), WIDER):
        with pytest.raises(RecordError):
            bench.do(plan_of(table=table, upserts=(rows_of(row_of("1")),)))


def test_tables_grow(bench: Bench) -> None:
    """A column that is added is NULL in the rows there are; records from before leave it alone."""
    bench.do(plan_of(upserts=(rows_of(row_of("1")),)))
    bench.do(events=(event(2, WIDER),))
    bench.do(plan_of(table=WIDER, upserts=(rows_of({"id": "2", "a": "a", "b": "b", "c": "c"}),)))
    bench.do(plan_of(table=WIDER, upserts=(rows_of(row_of("2", "x")),)))

    assert bench.rows("id", "a", "c") == {("1", "a", None), ("2", "x", "c")}
    assert bench.session.tables()[T.id].description == WIDER


def test_tables_are_held(bench: Bench) -> None:
    """Another type, or a column less, is not guessed; an entry that is older than the last one changes nothing."""
    narrower = Table("shop", "t", T.columns[:2], ("id",))
    bench.do(events=(event(3, narrower),))
    bench.do(events=(event(2, WIDER),))
    held = bench.session.tables()[T.id]

    assert held.held is not None
    assert held.log_id == 3


def test_a_change_of_a_table_is_fenced(bench: Bench) -> None:
    """Whoever does not have its partition, or another version in mind, changes nothing."""
    narrower = Table("shop", "t", T.columns[:2], ("id",))
    bench.do(events=(event(3, narrower),))
    before = bench.session.tables()
    with pytest.raises(FencedError):
        bench.session.carry_out(Due(T.id, 3), {P0: Claim("id", Progress(bench.offset() + 1))}, no_logs)
    here = {P0: Claim("id", Progress(bench.offset()))}
    assert bench.session.carry_out(Due(T.id, 2), here, no_logs)
    assert bench.session.carry_out(Due(T.id, 3), here, no_logs)
    assert bench.session.tables() == before


def test_a_lost_answer(bench: Bench) -> None:
    """A COMMIT that took place and was not heard of: the next try is fenced, and the ledger tells."""

    def lose(place: str) -> None:
        if place == "committed":
            raise bench.store.fail()

    session = bench.store.session(lose)
    batch = Batch({P0: Claim("id", Progress(1))}, {P0: Progress(2)}, [plan_of(upserts=(rows_of(row_of("1")),))])
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
    batch = Batch({P0: Claim("id", Progress(1))}, {P0: Progress(2)}, [plan_of(upserts=(rows_of(row_of("1")),))])
    for _ in range(2):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each database has its own errors
            session.apply(batch)
        assert verdict(caught.value) is Verdict.RETRY
        assert (bench.rows(), bench.offset()) == (set(), 1)
    session.apply(batch)
    session.close()

    assert (bench.rows(), bench.offset()) == ({("1", "a", "b")}, 2)


KEYLESS = Table("shop", "k", (column("n", "numeric"), column("j", "json"), column("a", "text")), (), "f")


@pytest.mark.parametrize("copies", [3, 700])
def test_rows_without_a_key_are_told_by_their_texts_and_number(bench: Bench, copies: int) -> None:
    """As many of the equal rows go as are to, by `unnest` and by COPY; none goes for another, and none twice."""

    def rows() -> Counter[tuple[str | None, ...]]:
        return Counter(tuple(row[name] for name in "nja") for row in bench.store.rows("k", "nja"))

    def of(number: int, n: str | None, j: str | None = None, a: str | None = "a") -> Rows:
        return rows_of(*[{"n": n, "j": j, "a": a}] * number)

    bench.do(events=(event(2, KEYLESS),))
    for found in (of(copies, "1"), of(copies, "1.0", '{"a":  1}'), of(copies, None, None, None)):
        bench.do(plan_of(table=KEYLESS, inserts=found))
    bench.do(plan_of(table=KEYLESS, removes=of(2, "1.0", '{"a":  1}'), inserts=of(1, "1.0", '{"a": 1}')))
    bench.do(plan_of(table=KEYLESS, removes=of(copies - 1, None, None, None)))
    there: dict[tuple[str | None, ...], int] = {
        ("1", None, "a"): copies,
        ("1.0", '{"a":  1}', "a"): copies - 2,
        ("1.0", '{"a": 1}', "a"): 1,
    }
    assert rows() == Counter({**there, (None, None, None): 1})

    for gone in (of(copies + 1, "1"), of(1, "1.00"), of(1, None, None, ""), of(2, None, None, None)):
        with pytest.raises(RecordError, match=r"1 rows of shop\.k that were changed or deleted on the source are not"):
            bench.do(plan_of(table=KEYLESS, removes=gone))
    assert rows() == Counter({**there, (None, None, None): 1})
    bench.do(plan_of(table=KEYLESS, truncate=True, inserts=of(2, "NaN")))
    assert rows() == Counter({("NaN", None, "a"): 2})


def _letter(offset: int, id_: str, *, old: str | None = None, error: str | None = None, table: Table = T) -> Letter:
    key, old_key = (text and f'{{"id":{text}}}'.encode() for text in (id_, old))
    record = Record(P0, offset, key or b"", b'{"op":"d"}', Told([(NEW_KEY, b"x"), ("n", None)]))
    return Letter(record, table.id, key or b"", old_key or None, 1_700_000_000_000_001, error)


def _set_aside(bench: Bench, known: int, *letters: Letter, voids: Sequence[Void] = (), id_: str = "7") -> None:
    """Apply one more record of P0 that writes a row, and set letters aside."""
    claims = {P0: Claim("id", bench.store.ledger()[P0])}
    to, plans = {P0: Progress(bench.offset() + 1)}, [plan_of(upserts=(rows_of(row_of(id_)),))]
    bench.session.apply(Batch(claims, to, plans, letters=letters, parked={P0: known}, voids=voids))


def test_what_is_set_aside(bench: Bench) -> None:
    """It is there for any session with its keys and numbers, of this topic alone; what is read again is there once."""
    assert not bench.session.sets_aside()
    _set_aside(bench, 0, _letter(1, "1", error="refused"), _letter(2, "2", old="1"))
    _set_aside(bench, 2, _letter(2, "2", old="1"), _letter(3, "2"))
    found = bench.store.session().parked({P0: "id", P1: "id"})

    assert found[P0].keys == {(T.id, b'{"id":1}'), (T.id, b'{"id":2}')}
    assert list(found) == [P0]
    assert (dict(found[P0].counts), found[P0].failed, found[P0].records) == ({T.id: (1, 3)}, 1, 3)
    assert bench.session.parked({P0: "another"}) == {}
    assert bench.session.sets_aside()


@pytest.mark.parametrize("known", [0, 2])
def test_who_knows_of_others_sets_nothing_aside(bench: Bench, known: int) -> None:
    """Letters were replayed or discarded meanwhile, or added: nothing is written, and the worker reads again."""
    _set_aside(bench, 0, _letter(1, "1", error="refused"))
    before = bench.rows(), bench.offset(), bench.session.parked({P0: "id"})
    with pytest.raises(FencedError):
        _set_aside(bench, known, _letter(2, "1"), id_="8")

    assert (bench.rows(), bench.offset(), bench.session.parked({P0: "id"})) == before


def test_voids_are_of_their_table_and_before_their_record(bench: Bench) -> None:
    _set_aside(bench, 0, _letter(1, "1", error="refused"), _letter(2, "1"), _letter(3, "1", table=CANARY))
    _set_aside(bench, 3, _letter(5, "1"), voids=[Void(P0, T.id, 4), Void(P1, T.id, 9)])

    assert bench.session.parked({P0: "id"})[P0].counts == {T.id: (0, 1), CANARY.id: (0, 1)}


def test_letters_go_with_a_batch_that_is_rolled_back(bench: Bench) -> None:
    """So do voids."""
    _set_aside(bench, 0, _letter(1, "1", error="refused"))
    ended = []

    def end(place: str) -> None:
        if place == "fenced":
            ended.append(place)
            raise bench.store.fail()

    failing = Bench(bench.store, bench.store.session(end))
    with pytest.raises(type(bench.store.fail())):
        _set_aside(failing, 1, _letter(2, "1"), voids=[Void(P0, T.id, 2)])
    failing.session.close()

    assert ended
    assert bench.session.parked({P0: "id"})[P0].records == 1
