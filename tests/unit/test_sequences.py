"""What is done about a replica's sequence."""

from __future__ import annotations

import pytest

from deltasync.sequences import Sequence, decide
from deltasync.table import TableId

ID = TableId("shop", "item_id_seq")


def _at(last: int, *, called: bool = True, step: int = 1) -> Sequence:
    return Sequence(ID, last, called, step, least=-10, greatest=10)


@pytest.mark.parametrize(
    ("source", "replica", "action", "exactly"),
    [
        (_at(5), _at(4), "set", "set"),
        (_at(5), _at(5), "level", "level"),
        (_at(5), _at(6, called=False), "level", "set"),
        (_at(5), _at(9), "ahead", "set"),
        (_at(1, called=False), _at(1, called=False), "level", "level"),
        (_at(1), _at(1, called=False), "set", "set"),
        (_at(-5, step=-1), _at(-4, step=-1), "set", "set"),
        (_at(-5, step=-1), _at(-9, step=-1), "ahead", "set"),
        (_at(5), None, "missing", "missing"),
        (_at(5), _at(1, step=2), "unlike", "unlike"),
        (_at(11), _at(1), "unlike", "unlike"),
    ],
)
def test_never_backwards_unless_exactly(source: Sequence, replica: Sequence | None, action: str, exactly: str) -> None:
    assert decide(source, replica, exact=False) == action
    assert decide(source, replica, exact=True) == exactly
