"""Bring a connector to what it should be, and see it run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from deltasync.connect.client import ConnectClient, NoConnectorError, Offset, is_streaming
from deltasync.connect.reconcile import INITIAL, NO_DATA, SNAPSHOT_MODE, Plan, Step, continued, plan
from deltasync.connect.status import Condition, Status
from deltasync.connect.template import Connector
from deltasync.errors import DeltasyncError, RefusedError, UnreachableError

POLL_S = 0.2
# What fails at a start has failed after this time (measured: 4 s at most).
STEADY_S = 5.0
_SETTLED = {Condition.FAILED, Condition.PAUSED, Condition.STOPPED}


class Patience(NamedTuple):
    """How long to wait in all, how long a connector must have run to be believed, and by which clock."""

    timeout_s: float = 60.0
    steady_s: float = STEADY_S
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


PATIENT = Patience()


def check(client: ConnectClient, wanted: Sequence[Connector]) -> list[Plan]:
    """What `apply` would do, connector by connector, after Connect has found what differs valid. Changes nothing.

    Raises RefusedError with what Connect, or the connector itself, would refuse.
    """
    return [todo for _, todo in _checked(client, wanted)]


def apply(client: ConnectClient, wanted: Sequence[Connector]) -> list[Plan]:
    """Create and update what differs, once all of it is found valid. Idempotent; does not wait. Raises as `check`."""
    checked = _checked(client, wanted)
    for connector, todo in checked:
        if todo.step is not Step.NOTHING:
            client.put(connector.name, connector.config)
    return [todo for _, todo in checked]


def settle(client: ConnectClient, name: str) -> bool:
    """Keep a connector whose initial snapshot is complete from ever beginning another; True if that was news.

    It is restarted for that, which takes a moment. Raises NoConnectorError where it does not exist.
    """
    config = client.config(name)
    if config.get(SNAPSHOT_MODE, INITIAL) != INITIAL or not is_streaming(client.offsets(name)):
        return False
    client.put(name, {**config, SNAPSHOT_MODE: NO_DATA})
    return True


def actual(client: ConnectClient, name: str) -> dict[str, str] | None:
    """The connector's settings in Connect, or None where it does not exist."""
    try:
        return client.config(name)
    except NoConnectorError:
        return None


def wait_running(client: ConnectClient, name: str, patience: Patience, *, before: Status | None = None) -> Status:
    """Return as soon as the connector has failed, is paused or stopped, or has run for `steady_s` without a break.

    Also returns, with what it last saw, after `timeout_s`. `before` is the status before whatever was done to the
    connector: Connect goes on reporting an old failure for a moment. A new connector that has stored an offset has
    proved that it runs, and is not waited for any longer.
    """
    begun = patience.clock()
    had_offsets = bool(_offsets(client, name))
    steady_since: float | None = None
    while True:
        now, status = patience.clock(), find_status(client, name)
        condition = status.condition if status else Condition.STARTING
        if condition is not Condition.RUNNING:
            steady_since = None
        elif steady_since is None:
            steady_since = now
        if status and condition in _SETTLED and (status != before or now - begun >= patience.steady_s):
            return status
        if status and steady_since is not None:
            proved = not had_offsets and _offsets(client, name)
            if proved or now - steady_since >= patience.steady_s:
                return status
        if now - begun >= patience.timeout_s:
            return _last(status, name, patience.timeout_s)
        patience.sleep(POLL_S)


def delete(client: ConnectClient, name: str, *, reset_offsets: bool, patience: Patience = PATIENT) -> None:
    """Delete a connector; with `reset_offsets`, in the order that works: stop, delete offsets, delete.

    The slot stays in any case. Raises DeltasyncError where the connector does not come to a stop in time.
    """
    if reset_offsets:
        forget_offsets(client, name, patience)
    client.delete(name)


def forget_offsets(client: ConnectClient, name: str, patience: Patience = PATIENT) -> None:
    """Stop a connector and delete its offsets; it stays stopped.

    Raises DeltasyncError where it does not come to a stop in time.
    """
    client.stop(name)
    deadline = patience.clock() + patience.timeout_s
    while client.status(name).condition is not Condition.STOPPED:
        if patience.clock() >= deadline:
            raise DeltasyncError(
                f"The connector {name} did not stop within {patience.timeout_s:g} s; its offsets stay.",
                remedy="Read the log of Connect's worker, and delete it again.",
            )
        patience.sleep(POLL_S)
    client.reset_offsets(name)


def create_anew(client: ConnectClient, connector: Connector, patience: Patience = PATIENT) -> None:
    """Create a connector that has read nothing, whatever offsets one of its name has left; it begins with `resume`.

    Raises DeltasyncError where there is one, or Connect refuses it.
    """
    client.create_stopped(connector.name, connector.config)
    deadline = patience.clock() + patience.timeout_s
    while find_status(client, connector.name) is None and patience.clock() < deadline:
        patience.sleep(POLL_S)  # for a moment Connect does not know what it has made
    forget_offsets(client, connector.name, patience)


def find_status(client: ConnectClient, name: str) -> Status | None:
    """The connector's status, or None where it has none (yet)."""
    try:
        return client.status(name)
    except NoConnectorError:
        return None


def _checked(client: ConnectClient, wanted: Sequence[Connector]) -> list[tuple[Connector, Plan]]:
    """Each connector as it is to be from now on, and what that changes; found valid by Connect."""
    checked = []
    for connector in wanted:
        now = actual(client, connector.name)
        next_ = (
            connector
            if now is None
            else continued(connector, now, streaming=is_streaming(_offsets(client, connector.name)))
        )
        checked.append((next_, plan(next_, now)))
    for connector, todo in checked:
        if todo.step is not Step.NOTHING:
            _validate(client, connector)
    return checked


def _offsets(client: ConnectClient, name: str) -> Sequence[Offset]:
    try:
        return client.offsets(name)
    except NoConnectorError:
        return ()


def _last(status: Status | None, name: str, timeout_s: float) -> Status:
    if status is None:
        raise UnreachableError(
            f"Kafka Connect tells nothing about the connector {name} after {timeout_s:g} s.",
            remedy="Read the log of its workers.",
        )
    return status


def _validate(client: ConnectClient, wanted: Connector) -> None:
    problems = client.validate(wanted.name, wanted.config)
    if problems:
        listed = "; ".join(f"{problem.key}: {problem.message}" for problem in problems)
        raise RefusedError(
            f"Kafka Connect finds the connector {wanted.name} not valid: {listed}.",
            remedy=f"Correct {wanted.origin} or the settings behind its variables; nothing was changed.",
        )
