"""What the states of a connector and of its tasks amount to."""

from __future__ import annotations

import pytest

from deltasync.connect.status import Condition, State, Status, Unit


@pytest.mark.parametrize(
    ("connector", "tasks", "expected"),
    [
        ("RUNNING", ["RUNNING"], Condition.RUNNING),
        ("RUNNING", ["RUNNING", "FAILED"], Condition.FAILED),
        ("FAILED", [], Condition.FAILED),
        ("PAUSED", ["FAILED"], Condition.FAILED),
        ("RUNNING", [], Condition.IDLE),
        ("RUNNING", ["UNASSIGNED"], Condition.STARTING),
        ("RESTARTING", ["RUNNING"], Condition.STARTING),
        ("UNASSIGNED", [], Condition.STARTING),
        ("PAUSED", ["PAUSED"], Condition.PAUSED),
        ("STOPPED", [], Condition.STOPPED),
    ],
)
def test_condition(connector: str, tasks: list[str], expected: Condition) -> None:
    units = tuple(Unit(State(state), id=number) for number, state in enumerate(tasks))
    assert Status("c", Unit(State(connector)), units).condition is expected


def test_failures_name_the_part_and_the_worker() -> None:
    failed = Unit(State.FAILED, "w:8083", "X: Publication autocreation is disabled, please", id=0)
    (found,) = Status("c", Unit(State.RUNNING), (failed,)).failures()
    assert (found.part, found.worker) == ("task 0", "w:8083")
    assert "source setup" in found.diagnosis.remedy
