"""How a connector does, as Connect reports it, and what that amounts to."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

import msgspec

from deltasync.connect.diagnosis import Diagnosis, diagnose


class State(StrEnum):
    """Connect's own states of a connector and of a task."""

    UNASSIGNED = "UNASSIGNED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    RESTARTING = "RESTARTING"
    DESTROYED = "DESTROYED"


class Condition(StrEnum):
    """What the states of a connector and of its tasks amount to."""

    RUNNING = "running"
    STARTING = "starting"
    PAUSED = "paused"
    STOPPED = "stopped"
    IDLE = "running without a task"
    FAILED = "failed"


class Unit(msgspec.Struct, frozen=True):
    """The connector itself (`id` is None) or one of its tasks, and the worker that it runs on."""

    state: State
    worker_id: str = ""
    trace: str = ""
    id: int | None = None

    def __str__(self) -> str:
        return "connector" if self.id is None else f"task {self.id}"


class Failure(NamedTuple):
    """`part` is "connector" or "task N"."""

    part: str
    worker: str
    diagnosis: Diagnosis


class Status(msgspec.Struct, frozen=True):
    """A connector and its tasks, as `/connectors/NAME/status` reports them."""

    name: str
    connector: Unit
    tasks: tuple[Unit, ...] = ()

    @property
    def condition(self) -> Condition:
        """`Condition.IDLE` is also what a connector is in for a moment after its creation."""
        states = {task.state for task in self.tasks}
        if State.FAILED in states | {self.connector.state}:
            return Condition.FAILED
        match self.connector.state:
            case State.PAUSED:
                return Condition.PAUSED
            case State.STOPPED:
                return Condition.STOPPED
            case State.RUNNING if not states:
                return Condition.IDLE
            case State.RUNNING if states == {State.RUNNING}:
                return Condition.RUNNING
            case _:
                return Condition.STARTING

    def failures(self) -> Iterator[Failure]:
        """What has failed, and why."""
        for unit in (self.connector, *self.tasks):
            if unit.state is State.FAILED:
                yield Failure(str(unit), unit.worker_id, diagnose(unit.trace))
