"""Lag from what the servers said: records, seconds, rates, states."""

from __future__ import annotations

from typing import Any

import pytest

from deltasync.change import Log, Partition
from deltasync.monitor.lag import Lag, Survey, judge, topics, unapplied
from deltasync.progress import Claim, Progress
from deltasync.replica.observe import Known
from deltasync.table import TableId

ORDERS = Partition("p.shop.orders", 0)
LINES = Partition("p.shop.lines", 0)
CANARY = Partition("p.deltasync.canary", 0)


def known(name: str, *, captured: bool = True, held: str | None = None) -> Known:
    return Known(TableId("shop", name), captured, complete=True, held=held)


def survey(at: float = 100.0, **partitions: tuple[int, int]) -> Survey:
    """A survey of orders, lines, canary: for each its next and its end offset."""
    names = {"orders": ORDERS, "lines": LINES, "canary": CANARY}
    return Survey(
        at=at,
        logs={names[name]: Log("id", 0, end) for name, (_, end) in partitions.items()},
        claims={names[name]: Claim("id", Progress(at_)) for name, (at_, _) in partitions.items()},
        came_in={names[name]: at - 7.0 for name, (at_, end) in partitions.items() if at_ < end},
        tables=(known("orders"), known("lines")),
        canary_age_s=0.4,
    )


def states(found: Lag) -> dict[str, str]:
    return {one.table: one.state for one in found.tables}


def test_level() -> None:
    found = judge(survey(orders=(5, 5), lines=(0, 0), canary=(9, 9)), "p")
    assert (found.total.records, found.total.seconds, found.total.catch_up_s) == (0, 0.0, 0.0)
    assert states(found) == {"shop.orders": "level", "shop.lines": "level"}


def test_behind_by_the_age_of_the_first_unapplied_record() -> None:
    found = judge(survey(orders=(5, 15), lines=(2, 2), canary=(9, 9)), "p")
    assert (found.total.records, found.total.seconds) == (10, 7.0)
    assert states(found) == {"shop.orders": "behind", "shop.lines": "level"}
    assert {one.table: one.seconds for one in found.tables} == {"shop.orders": 7.0, "shop.lines": 0.0}


def test_control_topics_are_shown_but_not_counted() -> None:
    found = judge(survey(orders=(5, 5), canary=(8, 9)), "p")
    assert found.total.records == 0
    assert found.total.seconds == 7.0
    assert [(one.table, one.records) for one in found.partitions if one.control] == [("deltasync.canary", 1)]


def test_a_canary_that_stands_still_is_lag() -> None:
    found = judge(survey(orders=(5, 5))._replace(canary_age_s=31.0), "p")
    assert (found.total.records, found.total.seconds) == (0, 30.0)


def test_rates_and_the_time_to_catch_up() -> None:
    before = survey(98.0, orders=(0, 100), lines=(0, 0))
    found = judge(survey(100.0, orders=(50, 110), lines=(4, 4)), "p", before)
    assert found.total.rate == pytest.approx(27.0)
    assert found.total.catch_up_s == pytest.approx(60 * 2 / 40)


def test_what_grows_is_never_caught_up() -> None:
    found = judge(survey(100.0, orders=(50, 210)), "p", survey(99.0, orders=(40, 100)))
    assert (found.total.rate, found.total.catch_up_s) == (10.0, None)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"logs": {ORDERS: Log("another id", 0, 20)}}, "recreated"),
        ({"logs": {ORDERS: Log("id", 6, 20)}}, "gap"),
        ({"logs": {ORDERS: Log("id", 0, 4)}}, "gap"),
        ({"claims": {}}, "behind"),
        ({"tables": (known("orders", held="why"),)}, "held"),
        ({"tables": (known("orders", captured=False),)}, "not captured"),
    ],
)
def test_states(changes: dict[str, Any], state: str) -> None:
    found = judge(survey(orders=(5, 20))._replace(**changes), "p")
    assert states(found) == {"shop.orders": state}


def test_a_record_that_could_not_be_read_leaves_the_seconds_open() -> None:
    found = judge(survey(orders=(5, 20))._replace(came_in={}), "p")
    assert found.tables[0].seconds is None


def test_clocks_that_disagree_make_no_negative_lag() -> None:
    found = judge(survey(orders=(5, 20))._replace(came_in={ORDERS: 200.0}), "p")
    assert found.tables[0].seconds == 0.0


def test_the_first_unapplied_record() -> None:
    logs = {ORDERS: Log("id", 6, 20), LINES: Log("id", 0, 3), CANARY: Log("new", 0, 2)}
    claims = {ORDERS: Claim("id", Progress(5)), LINES: Claim("id", Progress(3)), CANARY: Claim("id", Progress(2))}
    assert unapplied(logs, claims) == {ORDERS: 6, CANARY: 0}


def test_topics_are_named_as_debezium_does() -> None:
    table = TableId("shop", "straße & co")
    assert topics([table], "p") == {"p.shop.stra_e___co": table}
