"""The difference between the connector that is wanted and the one that there is."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from deltasync.connect.masking import shown
from deltasync.connect.template import Connector

# Read by a connector's first start alone, and generated from tables that come and go: no change later on.
_FIRST_START_ONLY = frozenset({"snapshot.include.collection.list"})


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


def plan(wanted: Connector, actual: Mapping[str, str] | None) -> Plan:
    """What to do so that Connect holds exactly `wanted`; `actual` is None where there is no such connector."""
    old = {key: value for key, value in (actual or {}).items() if key != "name"}
    new = {key: value for key, value in wanted.config.items() if key != "name"}
    changes = tuple(
        Change(key, _shown(key, old), _shown(key, new))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and (actual is None or key not in _FIRST_START_ONLY)
    )
    if actual is None:
        return Plan(wanted.name, Step.CREATE, changes)
    return Plan(wanted.name, Step.UPDATE if changes else Step.NOTHING, changes)


def _shown(key: str, config: Mapping[str, str]) -> str | None:
    return shown(key, config[key]) if key in config else None
