"""The difference between the connector that is wanted and the one that there is."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from deltasync.connect.masking import shown
from deltasync.connect.template import Connector

SNAPSHOT_MODE = "snapshot.mode"
INITIAL, NO_DATA = "initial", "no_data"
# Read by a connector's first start alone, and generated from tables that come and go: no change later on.
_FIRST_START_ONLY = ("snapshot.include.collection.list", "snapshot.select.statement.overrides")


class Step(StrEnum):
    """What applying a connector does to it."""

    CREATE = "create"
    UPDATE = "update"
    NOTHING = "unchanged"


class Change(NamedTuple):
    """One setting; None where it is absent. Plain secrets are masked, so `old` may equal `new`."""

    key: str
    old: str | None
    new: str | None


class Plan(NamedTuple):
    """How to get from the actual connector to the wanted one; `changes` is sorted by key."""

    name: str
    step: Step
    changes: tuple[Change, ...]


def continued(wanted: Connector, actual: Mapping[str, str], *, streaming: bool) -> Connector:
    """The wanted connector in place of one that exists: it goes on, and does not start anew.

    Once a snapshot is complete, no other may begin: if the stored offsets were lost, it would read the rows that
    are there, while those that were deleted meanwhile would stay on the replica for ever. With `no_data` the
    connector goes on at its slot.
    """
    config = {key: value for key, value in wanted.config.items() if not key.startswith(_FIRST_START_ONLY)}
    config |= {key: value for key, value in actual.items() if key.startswith(_FIRST_START_ONLY)}
    if config.get(SNAPSHOT_MODE) == INITIAL and (streaming or actual.get(SNAPSHOT_MODE) == NO_DATA):
        config[SNAPSHOT_MODE] = NO_DATA
    return wanted._replace(config=config)


def plan(wanted: Connector, actual: Mapping[str, str] | None) -> Plan:
    """What to do so that Connect holds exactly `wanted`; `actual` is None where there is no such connector."""
    old = {key: value for key, value in (actual or {}).items() if key != "name"}
    new = {key: value for key, value in wanted.config.items() if key != "name"}
    changes = tuple(
        Change(key, _shown(key, old), _shown(key, new))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )
    if actual is None:
        return Plan(wanted.name, Step.CREATE, changes)
    return Plan(wanted.name, Step.UPDATE if changes else Step.NOTHING, changes)


def _shown(key: str, config: Mapping[str, str]) -> str | None:
    return shown(key, config[key]) if key in config else None
