"""What becomes of a replica's tables as the source's change: the one in memory and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from tests.conformance.bench import P0, Bench, event, no_logs, plan_of, row_of, rows_of
from tests.property.postgres_store import PostgresStore
from tests.unit.make import column

from deltasync.change import Partition
from deltasync.debezium.schema_log import SchemaEvent
from deltasync.errors import FencedError, RefusedError
from deltasync.policy import Ddl
from deltasync.ports import Batch
from deltasync.progress import Claim, Progress
from deltasync.readable import Due
from deltasync.replica.pending import EARLY
from deltasync.table import SourceTable, Table

APPLY = Ddl(rename_column="apply", drop_column="apply", set_not_null="apply", widen_type="apply")
T = Table(
    "shop",
    "v",
    (column("id", "numeric", not_null=True, number=1), column("a", "text", number=2), column("b", "text", number=3)),
    ("id",),
)
ID, A, B = T.columns
LSN = 100


def _as(*columns: object) -> Table:
    return msgspec.structs.replace(T, columns=columns)


RENAMED = _as(ID, msgspec.structs.replace(A, name="z"), B)
REMADE = _as(ID, column("a", "text", number=4, missing="x", default="'x'::text"), B)
REQUIRED = _as(ID, msgspec.structs.replace(A, not_null=True), B)


def _told(id_: int, table: Table) -> SchemaEvent:
    return event(id_, table)._replace(lsn=LSN * id_)


@pytest.fixture
def v(bench: Bench) -> Iterator[Bench]:
    """The table `shop.v`, with a row; its changes are applied."""
    found = bench._replace(session=bench.store.session(ddl=APPLY))
    found.do(events=(event(11, T),))
    found.do(plan_of(table=T, upserts=(rows_of(row_of("1"), row_of("2", None)),)))
    yield found
    found.session.close()
    if isinstance(bench.store, PostgresStore):
        bench.store.clear()


def _here(v: Bench, lsn: int = 0) -> dict[Partition, Claim]:
    """The cut, behind rows up to that place."""
    found = v.store.ledger()[P0]
    to = found._replace(next_offset=found.next_offset + 1, watermark=(lsn, lsn))
    v.session.apply(Batch({P0: Claim("id", found)}, {P0: to}))
    return {P0: Claim("id", to)}


def _state(v: Bench) -> SourceTable:
    return v.session.tables()[T.id]


def _rows(v: Bench, *columns: str) -> set[tuple[str | None, ...]]:
    return {tuple(row[name] for name in columns) for row in v.store.rows("v", columns)}


def test_a_change_waits_for_its_place(v: Bench) -> None:
    """It is carried out in front of the first row from behind it, by who is there, and once."""
    v.do(events=(_told(12, RENAMED), _told(13, T)))
    assert [version.log_id for version in _state(v).pending] == [12, 13]
    with pytest.raises(FencedError):
        v.session.carry_out(Due(T.id, 12), {P0: Claim("id", Progress(v.offset() + 1))}, no_logs)
    assert v.session.carry_out(Due(T.id, 12), _here(v), no_logs)
    assert v.session.carry_out(Due(T.id, 12), _here(v), no_logs)

    assert ([version.log_id for version in _state(v).pending], _state(v).description) == ([13], RENAMED)
    assert _rows(v, "id", "z", "b") == {("1", "a", "b"), ("2", None, "b")}


def test_a_column_that_is_made_anew_holds_its_default(v: Bench) -> None:
    v.do(events=(_told(12, REMADE),))
    v.session.carry_out(Due(T.id, 12), _here(v), no_logs)

    assert _rows(v, "id", "a") == {("1", "x"), ("2", "x")}


def test_early_rows_hold_the_table(v: Bench) -> None:
    """Those from behind a change went into a column whose name is another one's; no word would do."""
    v.do(events=(_told(12, REMADE),))
    v.session.carry_out(Due(T.id, 12), _here(v, 12 * LSN), no_logs)
    assert (_state(v).held, _state(v).description) == (EARLY, T)
    with pytest.raises(RefusedError):
        v.store.approve(T.id, APPLY)


def test_early_rows_hold_the_table_for_what_is_told_later(v: Bench) -> None:
    """The name was given up by one change, and taken by the next one, which was not known then."""
    v.do(events=(_told(12, _as(ID, B)),))
    v.session.carry_out(Due(T.id, 12), _here(v, 14 * LSN), no_logs)
    assert (_state(v).held, _state(v).pending) == (None, ())
    v.do(events=(_told(13, REMADE),))

    assert _state(v).held == EARLY
    assert _rows(v, "id", "b") == {("1", "b"), ("2", "b")}


def test_what_the_replica_refuses_is_held(v: Bench) -> None:
    """NULL is there where it may not be any more."""
    v.do(events=(_told(12, REQUIRED),))
    v.session.carry_out(Due(T.id, 12), _here(v), no_logs)

    assert "refuses to follow" in (_state(v).held or "")
    assert [version.action for version in _state(v).pending] == ["hold"]


def test_an_operator_approves(v: Bench) -> None:
    """What waits is carried out at its place then."""
    held = v._replace(session=v.store.session())
    held.do(events=(_told(12, RENAMED),))
    assert _state(held).held is not None
    held.session.carry_out(Due(T.id, 12), _here(v), no_logs)
    assert _state(held).description == T
    held.store.approve(T.id, Ddl())
    held.session.carry_out(Due(T.id, 12), _here(v), no_logs)

    assert (_state(held).held, _state(held).description) == (None, RENAMED)
    held.session.close()
    with pytest.raises(RefusedError):
        v.store.approve(T.id, Ddl())
