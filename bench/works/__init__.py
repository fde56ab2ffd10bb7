"""What is measured: one module a kind of work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from bench.prepare import Tell
from bench.stage import Stage


class Outcome(msgspec.Struct, frozen=True):
    """What one run measured, by name, and whether the replica (of `capture`: the topic) holds what it has to."""

    figures: dict[str, float]
    equal: bool


class Pair(msgspec.Struct, frozen=True):
    """A ratio to be told: `figure` of one contestant by that of another; `best sink` is whichever has the highest."""

    one: str
    other: str
    figure: str = "per_s"


class Work(Protocol):
    """A work that every contestant is given in the same way.

    `prepare` does once what they share, and returns what runs one of them. Both block, and raise PartError.
    """

    @property
    def name(self) -> str: ...
    @property
    def says(self) -> str: ...
    @property
    def contestants(self) -> Mapping[str, bool]: ...  # by name: whether it takes part in the first round only
    @property
    def pairs(self) -> Sequence[Pair]: ...
    def prepare(self, stage: Stage, scale: float, tell: Tell) -> Callable[[str], Outcome]: ...
