"""What goes to disk comes back, in the order of its changes."""

from __future__ import annotations

import pytest
from tests.unit.make import change

from deltasync.change import Partition
from deltasync.errors import RecordError
from deltasync.spool import Place, Spool, Spooled

A, B = Partition("p.shop.a", 0), Partition("p.shop.a", 1)


def _changes(*orders: int) -> list[Spooled]:
    return [
        Spooled(Place(order // 2, stays=True, number=order), change("u", order, transaction="7")) for order in orders
    ]


def test_changes_come_back_by_their_order() -> None:
    """Whichever partitions they were in, however many there are, and as often as they are asked for."""
    spool = Spool(10**7)
    spool.append(A, _changes(*range(1, 3000, 2)))
    spool.append(B, _changes(*range(0, 2000, 2)))
    spool.append(B, _changes(*range(2000, 3000, 2)))

    for _ in range(2):
        assert list(spool) == _changes(*range(3000))
    spool.close()
    spool.close()


def test_the_room_has_an_end() -> None:
    spool = Spool(1000)

    with pytest.raises(RecordError, match="more changes than fit into 1000 bytes"):
        spool.append(A, _changes(*range(100)))
    spool.close()
