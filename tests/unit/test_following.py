"""When a change of a table that nothing is written to is carried out."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.make import P0, PLACEHOLDER, TABLE, column, described

from deltasync.following import Following
from deltasync.lifecycle import Lifecycle
from deltasync.progress import Claim, Progress
from deltasync.readable import Due, Tables
from deltasync.replica.tables import CANARY
from deltasync.table import Table, Version

RETYPED = Table("shop", "t", (*TABLE.columns[:2], column("b", "text")), ("id",))
CHANGE = Version(2, RETYPED, "apply", lsn=100, xid=7)
TABLES = Tables({TABLE.id: described(pending=(CHANGE,))}, CANARY, PLACEHOLDER, raw_text=False)


class _Worker:
    """The assignment and the replica of a worker, as far as they are asked."""

    settled_xid, end, is_ours, is_spread = 8, 5, True, False

    def __init__(self) -> None:
        self.done: list[tuple[Due, Any]] = []

    def settled(self) -> int:
        return self.settled_xid

    def is_read(self, partition: object) -> bool:
        return self.is_ours and partition == P0

    def spread(self) -> frozenset[str]:
        return frozenset([P0.topic] if self.is_spread else [])

    def end_offsets(self, partitions: Any) -> dict[Any, int]:  # noqa: ANN401 - whatever is asked for
        return dict.fromkeys(partitions, self.end)

    def claim(self, _partition: object) -> Claim:
        return Claim("id", Progress(5))

    def due(self) -> dict[Due, Any]:
        return {}

    def exists(self, topic: str) -> bool:
        return topic != "p.shop.empty"

    def logs(self, partitions: object) -> object:
        raise AssertionError(partitions)

    def carry_out(self, due: Due, claims: Any, _logs: object) -> bool:  # noqa: ANN401 - a mapping
        self.done.append((due, claims))
        return True


def _done(**facts: Any) -> list[tuple[Due, Any]]:  # noqa: ANN401 - what is different
    worker: Any = _Worker()
    for name, value in facts.items():
        setattr(worker, name, value)
    Following("p", worker, worker, Lifecycle(lambda: 100.0)).carry_out(TABLES, lambda: None)
    return list(worker.done)


def test_it_is_carried_out_where_the_log_ends() -> None:
    """Behind the ledger's place, which is fenced."""
    assert _done() == [(Due(TABLE.id, 2), {P0: Claim("id", Progress(5))})]


@pytest.mark.parametrize("facts", [{"settled_xid": 7}, {"end": 6}, {"is_ours": False}, {"is_spread": True}])
def test_it_waits_for_rows_from_before(facts: dict[str, Any]) -> None:
    """Some may not be in Kafka, not applied, another worker's, or without an order."""
    assert _done(**facts) == []
