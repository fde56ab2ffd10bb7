"""The works, round by round, the contestants alternating within a round."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import httpx
import msgspec
import psycopg
from confluent_kafka import KafkaException

from bench.prepare import Tell
from bench.stage import Stage
from bench.works import Outcome, Work
from deltasync.errors import DeltasyncError, UnreachableError


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
    """Every run as it ends. Blocks for minutes to hours; raises PartError where a work cannot be prepared."""
    for work in choice.works:
        tell(f"{work.name}: preparing")
        start = work.prepare(stage, choice.scale, tell)
        for number in range(1, choice.rounds + 1):
            for name, once in work.contestants.items():
                if (choice.contestants and name not in choice.contestants) or (once and number > 1):
                    continue
                tell(f"{work.name}, round {number} of {choice.rounds}: {name}")
                done = _run_one(stage, Run(work.name, name, number), start)
                tell(f"{work.name}, round {number} of {choice.rounds}: {name}: {_short(done)}")
                yield done


def _run_one(stage: Stage, asked: Run, start: Callable[[str], Outcome]) -> Run:
    """A contestant that fails does not end the rest. Raises UnreachableError where a server has ended."""
    try:
        return msgspec.structs.replace(asked, outcome=start(asked.contestant))
    except UnreachableError:
        raise
    except (DeltasyncError, psycopg.Error, httpx.HTTPError, KafkaException) as error:
        stage.refuse_dead_servers()
        return msgspec.structs.replace(asked, failure=f"{type(error).__name__}: {error}")


def _short(done: Run) -> str:
    if done.outcome is None:
        return f"failed: {done.failure}"
    shown = {
        name: done.outcome.figures.get(name) for name in ("per_s", "seconds", "p50_ms", "p99_ms", "percent_service")
    }
    figures = ", ".join(f"{name} {value:,.6g}" for name, value in shown.items() if value is not None)
    return f"{figures}, {'equal' if done.outcome.equal else 'DIFFERENT'}"
