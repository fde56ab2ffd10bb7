"""What every replica keeps of the source that it is filled from: another one is refused, what never came is owed."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

import pytest
from tests.conformance.bench import P0, P1, Bench, T, event, plan_of, row_of, rows_of
from tests.conftest import Pipeline
from tests.property.postgres_store import PostgresStore

from deltasync.canary import Beat
from deltasync.change import Partition
from deltasync.debezium.rows import Rows
from deltasync.errors import FencedError, RefusedError, SourceError
from deltasync.ports import Batch
from deltasync.progress import Claim, Progress, anew
from deltasync.replica import catalog, identity
from deltasync.replica.engine import open_replica
from deltasync.replica.tables import CANARY
from deltasync.table import SourceTable, TableId


def apply(bench: Bench, *numbers: int, system: str = "1", timeline: int = 1) -> None:
    """Apply one more record of P0, with a row and these beats."""
    pipeline = bench.store.pipeline
    at = [datetime(2026, 1, 1, 0, 0, number, tzinfo=UTC) for number in numbers]
    beats = [Beat(pipeline, number, when, system, timeline) for number, when in zip(numbers, at, strict=True)]
    row = (pipeline, str(numbers[-1]), at[-1].isoformat(), "digest", "1", None, system, str(timeline), "7")
    canary = plan_of(table=CANARY, upserts=(Rows(tuple(c.name for c in CANARY.columns), [[value] for value in row]),))
    found = bench.session.open({P0: "id"})[P0]
    assert isinstance(found, Progress)
    to = Progress(found.next_offset + 1, (1, 5), 1_700_000_000_000_001)
    plans = [canary, plan_of(upserts=(rows_of(row_of(str(numbers[-1]))),))]
    bench.session.apply(Batch({P0: Claim("id", found)}, {P0: to}, plans, beats=beats))


def state(bench: Bench) -> SourceTable:
    return bench.session.tables()[T.id]


def test_the_canary_tells_what_is_in_kafka(bench: Bench) -> None:
    """Nothing until it came."""
    assert bench.session.settled() == 0
    apply(bench, 1)
    assert bench.session.settled() == 7


def test_another_source_is_refused(bench: Bench) -> None:
    """For good, by every session and for every partition, until somebody accepts it: then watermarks begin anew."""
    bench.session.open({P1: "id"})
    apply(bench, 1)
    applied = bench.store.ledger()[P0]
    with pytest.raises(FencedError):
        apply(bench, 2, system="2")
    other = bench.store.session()
    with pytest.raises(FencedError):
        other.apply(Batch({P1: Claim("id", Progress())}, {P1: Progress(1)}))
    for session in (bench.session, other):
        assert all(isinstance(found, SourceError) for found in session.open({P0: "id", P1: "id"}).values())
    assert bench.rows() == {("1", "a", "b")}
    assert bench.store.ledger() == {P0: applied, P1: Progress()}

    made_meanwhile = Partition("p.shop.w", 0)
    assert isinstance(other.open({made_meanwhile: "id"})[made_meanwhile], SourceError)
    audited, _ = other.moved_since(0)
    with pytest.raises(RefusedError):
        bench.store.accept(" ")
    bench.store.accept("it was upgraded")
    assert other.moved_since(audited)[1] == {P0, P1, made_meanwhile}
    assert other.open({P0: "id"}) == {P0: anew(applied)}
    other.close()
    apply(bench, 1, system="2")
    assert bench.store.told() == []


def test_beats_that_never_came(bench: Bench) -> None:
    """What came is applied, and the captured tables are incomplete, until somebody says that nothing is missing."""
    owed = event(2, T)._replace(table=TableId("shop", "owed"), complete=False)
    bench.do(events=(owed, event(3, T)._replace(table=TableId("shop", "left"), captured=False)))
    apply(bench, 1, 2)
    apply(bench, 2, 3)
    assert state(bench).complete
    apply(bench, 5)
    assert not state(bench).complete
    bench.do(events=(event(4, T),))
    assert not state(bench).complete, "an entry of the schema log does not bring what is missing"
    apply(bench, 8)

    assert bench.rows() == {(number, "a", "b") for number in ("2", "3", "5", "8")}
    (told,) = bench.store.told()
    assert "Beat 4 of the source's canary never came" in told
    assert "Beats 6 to 7 of the source's canary never came" in told
    bench.store.accept("nobody wrote then")
    assert state(bench).complete
    assert not bench.session.tables()[TableId("shop", "owed")].complete, "it is for another reason"
    assert bench.store.told() == []


def test_a_source_that_failed_over(bench: Bench) -> None:
    """It goes on, and is told of."""
    apply(bench, 1)
    apply(bench, 2, timeline=2)
    apply(bench, 3, timeline=2)
    (told,) = bench.store.told()
    assert "failed over to timeline 2" in told
    assert state(bench).complete
    bench.store.accept("the slot was synchronised")

    assert bench.store.told() == []
    with pytest.raises(RefusedError):
        bench.store.accept("twice")


def test_what_was_read_before_a_hole_does_not_undo_it(pipeline: Pipeline) -> None:
    """Another worker folds the schema log, and has read what it writes back."""
    PostgresStore(pipeline.settings, pipeline.replica_admin).close()
    name, whole = pipeline.settings.pipeline, SourceTable(1, True, True, False, None, None, T)  # noqa: FBT003
    beats = [Beat(name, number, datetime(2026, 1, 1, tzinfo=UTC), "1", 1) for number in (1, 3)]
    with closing(open_replica(pipeline.settings, name="test")) as connection, connection.begin():
        catalog.store(connection, name, {T.id: whole})
        identity.note(connection, name, beats)
        catalog.store(connection, name, {T.id: whole._replace(log_id=2)})
        assert catalog.load(connection, name) == {T.id: whole._replace(log_id=2, complete=False)}
