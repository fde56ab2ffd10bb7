"""The works, round by round, the contestants alternating within a round."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import httpx
import msgspec
import psycopg
from confluent_kafka import KafkaException

from bench.contestants import SINK
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

    The first sink does its work once before, uncounted: until Java has compiled it, it takes twice as long.
    Raises UnreachableError where a server has ended.
    """
    is_warm = False
    for work in choice.works:
        tell(f"{work.name}: preparing")
        start = _or_why(stage, lambda work=work: work.prepare(stage, choice.scale, tell))  # type: ignore[misc]
        for number, name in _turns(work, choice):
            said = f"{work.name}, round {number} of {choice.rounds}: {name}"
            if isinstance(start, str):
                tell(f"{said}: {start}")
                yield Run(work.name, name, number, failure=start)
                continue
            once = partial(_run_one, stage, start, name)
            if name.startswith(SINK) and not is_warm:
                tell(f"{work.name}: {name}, uncounted")
                _or_why(stage, once)
                is_warm = True
            tell(said)
            found = _or_why(stage, once)
            failure, outcome = (found, None) if isinstance(found, str) else (None, found)
            tell(f"{said}: {failure or _short(outcome)}")
            yield Run(work.name, name, number, outcome, failure)


def _turns(work: Work, choice: Choice) -> Iterator[tuple[int, str]]:
    for number in range(1, choice.rounds + 1):
        for name, first_only in work.contestants.items():
            if (not choice.contestants or name in choice.contestants) and not (first_only and number > 1):
                yield number, name


def _run_one(stage: Stage, start: Callable[[str], Outcome], name: str) -> Outcome:
    stage.collect_garbage()
    return start(name)


def _or_why(stage: Stage, do: Callable[[], T]) -> T | str:
    """What it returns, or why it failed. Raises UnreachableError where a server has ended."""
    try:
        return do()
    except (DeltasyncError, psycopg.Error, httpx.HTTPError, KafkaException) as error:
        stage.refuse_dead_servers()
        return f"failed, {type(error).__name__}: {error}"


def _short(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    shown = {name: outcome.figures.get(name) for name in _SHOWN}
    figures = ", ".join(f"{name} {value:,.6g}" for name, value in shown.items() if value is not None)
    return f"{figures}, {'equal' if outcome.equal else 'DIFFERENT'}"
