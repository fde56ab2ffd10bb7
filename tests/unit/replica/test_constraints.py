"""In which order tables that reference each other are written."""

from __future__ import annotations

from deltasync.replica.constraints import Constraints, parents_first
from deltasync.table import TableId

LINE, ORDERS, CUSTOMER, OTHER = (TableId("shop", name) for name in ("line", "orders", "customer", "other"))


def _references(*parents: TableId) -> Constraints:
    return Constraints(parents=frozenset(parents))


def test_parents_come_first() -> None:
    """Whatever order they came in; a parent that is not written has no place."""
    known = {LINE: _references(ORDERS, OTHER), ORDERS: _references(CUSTOMER, ORDERS)}

    assert parents_first([LINE, ORDERS, CUSTOMER], known) == [CUSTOMER, ORDERS, LINE]
    assert parents_first([LINE, CUSTOMER], known) == [LINE, CUSTOMER]


def test_rings_stay_as_they_come() -> None:
    """Only deferred foreign keys can hold there."""
    known = {LINE: _references(ORDERS), ORDERS: _references(LINE)}

    assert set(parents_first([LINE, ORDERS], known)) == {LINE, ORDERS}
