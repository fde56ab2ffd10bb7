"""A replica under the suites, and makers of what is applied to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.property.store import Store
from tests.unit.make import column

from deltasync.change import Log, Partition
from deltasync.debezium.rows import Rows
from deltasync.debezium.schema_log import SchemaEvent
from deltasync.plan import Moves, TablePlan
from deltasync.ports import Batch, Replica
from deltasync.progress import Claim, Progress
from deltasync.table import Table

P0, P1 = Partition("p.shop.t", 0), Partition("p.shop.u", 0)
T = Table("shop", "t", (column("id", "numeric", not_null=True), column("a", "text"), column("b", "text")), ("id",))
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


class Steps:
    """Steps, and what the one that does not fit in is together with the next ones."""

    def __init__(self, steps: Iterator[list[TablePlan]], together: list[TablePlan] | None = None) -> None:
        self._steps = steps
        self._together = together

    def __iter__(self) -> Iterator[list[TablePlan]]:
        return self._steps

    def longer(self) -> list[TablePlan] | None:
        return self._together


def no_logs(partitions: list[Partition]) -> dict[Partition, Log]:
    """What the broker says where nothing has to be read again: it is not asked."""
    raise AssertionError(partitions)


def event(id_: int, table: Table) -> SchemaEvent:
    return SchemaEvent(id_, "ddl", table.id, captured=True, complete=True, reason=None, description=table)


def rows_of(*rows: Mapping[str, str | None]) -> Rows:
    return Rows(tuple(rows[0]), [[row[name] for row in rows] for name in rows[0]])


def row_of(id_: str, a: str | None = "a", b: str | None = "b") -> dict[str, str | None]:
    return {"id": id_, "a": a, "b": b}


def plan_of(  # noqa: PLR0913 - the parts of a plan
    *,
    table: Table = T,
    truncate: bool = False,
    deletes: Rows | None = None,
    upserts: tuple[Rows, ...] = (),
    updates: tuple[Rows, ...] = (),
    moves: tuple[Moves, ...] = (),
    removes: Rows | None = None,
    inserts: Rows | None = None,
) -> TablePlan:
    return TablePlan(table, truncate, deletes, list(upserts), list(updates), list(moves), removes, inserts)
