"""What a replica does with a table that was dropped on the source: the one in memory and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.bench import P0, P1, Bench, T, event, no_logs, plan_of, row_of, rows_of
from tests.property.memory_store import MemoryStore
from tests.property.postgres_store import PostgresStore

from deltasync.change import Log, Record
from deltasync.debezium.schema_log import SchemaEvent
from deltasync.parking import Letter
from deltasync.policy import Ddl
from deltasync.ports import Batch
from deltasync.progress import Claim, Progress
from deltasync.readable import Due

_DDL = Ddl(drop_table="apply")
_DROP = SchemaEvent(2, "drop", T.id, captured=False, complete=True, reason=None, description=None, lsn=50, at_us=7)


@pytest.fixture(params=["memory", "real"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        store: MemoryStore | PostgresStore = MemoryStore()
    else:
        pipeline = request.getfixturevalue("pipeline")
        kafka = pipeline.settings.kafka.model_copy(update={"topic_prefix": "p"})
        store = PostgresStore(pipeline.settings.model_copy(update={"kafka": kafka}), pipeline.replica_admin)
    found = Bench(store, store.session(ddl=_DDL))
    found.do(events=(event(1, T),))
    yield found
    found.session.close()
    store.close()


def _at(bench: Bench, watermark: tuple[int, int]) -> None:
    """One more record of P0 sets a row aside, and writes another one."""
    here = bench.store.ledger()[P0]
    to = Progress(here.next_offset + 1, watermark, 5)
    letter = Letter(Record(P0, here.next_offset, b"{}", b"{}"), T.id, b"{}", error="no")
    plans = [plan_of(upserts=(rows_of(row_of("1")),))]
    bench.session.apply(Batch({P0: Claim("id", here)}, {P0: to}, plans, letters=[letter]))


@pytest.mark.parametrize(("place", "next_offset"), [(49, 2), (50, 0)])
def test_a_drop(bench: Bench, place: int, next_offset: int) -> None:
    """With what is set aside; where the ledger is behind the drop, the log is read again, into the next table."""
    bench.session.open({P1: "id"})
    _at(bench, (40, place))
    bench.do(events=(_DROP, event(3, T)._replace(lsn=60)))
    assert bench.rows() == {("1", "a", "b")}
    assert bench.session.carry_out(Due(T.id, 1, drops=True), {}, no_logs)
    assert bench.rows() == {("1", "a", "b")}

    ends = {P0: Log("id", 0, 9)}
    assert bench.session.carry_out(Due(T.id, 2, drops=True), {}, lambda _: ends)
    known = bench.session.tables()[T.id]
    assert (known.description, known.pending, known.gone_lsn, known.gone_at_us) == (T, (), 50, 7)
    assert (bench.rows(), bench.session.parked({P0: "id"})) == (set(), {})
    assert bench.offset() == (next_offset and next_offset + 1)
