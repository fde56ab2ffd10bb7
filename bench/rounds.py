"""The works, round by round, the contestants alternating within a round."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import httpx
import msgspec
import psycopg
from confluent_kafka import KafkaException

from bench.prepare import Tell
from bench.stage import Stage
from bench.works import Outcome, Work
from deltasync.errors import DeltasyncError

T = TypeVar("T")
# Of a run, as it is told while it goes on.
_SHOWN = ("per_s", "seconds", "p50_ms", "p99_ms", "percent_service")


class Run(msgspec.Struct, frozen=True):
    """One contestant in one round; `failure` is why it has no outcome."""

    work: str
    contestant: str
    round: int
    outcome: Outcome | None = None
    failure: str | None = None

    @property
    def is_ours(self) -> bool:
        return self.contestant.startswith("deltasync")


class Choice(NamedTuple):
    """What is to be run: all contestants of a work where none is named."""

    works: Sequence[Work]
    contestants: Collection[str]
    rounds: int
    scale: float


def run(stage: Stage, choice: Choice, tell: Tell) -> Iterator[Run]:
    """Every run as it ends: one that fails does not end the rest. Blocks for minutes to hours.

    Raises UnreachableError where a server has ended.
    """
    for work in choice.works:
        names = [name for name in work.contestants if not choice.contestants or name in choice.contestants]
        tell(f"{work.name}: preparing")
        start = _or_why(stage, lambda work=work: work.prepare(stage, choice.scale, tell))  # type: ignore[misc]
        for number in range(1, choice.rounds + 1):
            for name in names:
                if work.contestants[name] and number > 1:
                    continue
                said = f"{work.name}, round {number} of {choice.rounds}: {name}"
                tell(said)
                found = start if isinstance(start, str) else _or_why(stage, partial(_run_one, stage, start, name))
                failure, outcome = (found, None) if isinstance(found, str) else (None, found)
                tell(f"{said}: {_short(outcome, failure)}")
                yield Run(work.name, name, number, outcome, failure)


def _run_one(stage: Stage, start: Callable[[str], Outcome], name: str) -> Outcome:
    stage.collect_garbage()
    return start(name)


def _or_why(stage: Stage, do: Callable[[], T]) -> T | str:
    """What it returns, or why it failed. Raises UnreachableError where a server has ended."""
    try:
        return do()
    except (DeltasyncError, psycopg.Error, httpx.HTTPError, KafkaException) as error:
        stage.refuse_dead_servers()
        return f"{type(error).__name__}: {error}"


def _short(outcome: Outcome | None, failure: str | None) -> str:
    if outcome is None:
        return f"failed: {failure}"
    shown = {name: outcome.figures.get(name) for name in _SHOWN}
    figures = ", ".join(f"{name} {value:,.6g}" for name, value in shown.items() if value is not None)
    return f"{figures}, {'equal' if outcome.equal else 'DIFFERENT'}"
