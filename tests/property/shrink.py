"""Runs scenarios, and makes a failing one as small as it gets: transactions go first, then faults, then workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import structlog
from tests.property.commits import BrokenError
from tests.property.kinds import MARK
from tests.property.memory_store import MemoryStore
from tests.property.scenario import Op, Scenario, is_statement
from tests.property.scenario import scenario as of_seed
from tests.property.store import Store
from tests.property.world import HaltedError, World


@contextmanager
def watched() -> Iterator[None]:
    """Logs go nowhere, and one that holds a row's value fails the scenario."""
    before = structlog.get_config()

    def look(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if MARK in repr(event):
            raise BrokenError(f"a value is in a log: {event['event']}")
        raise structlog.DropEvent

    structlog.configure(processors=[look], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    try:
        yield
    finally:
        structlog.configure(**before)


def failure(scenario: Scenario, store: Callable[[], Store] = MemoryStore) -> str | None:
    """Run a scenario; what went wrong, or None. To halt is no failure (see `halts`)."""
    try:
        World(scenario, store()).run()
    except HaltedError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is found
        return f"{type(error).__name__}: {error}"
    return None


def halts(scenario: Scenario) -> bool:
    """True where the scenario ends with a partition that stopped rather than guess."""
    try:
        World(scenario, MemoryStore()).run()
    except Exception as error:  # noqa: BLE001 - what else went wrong is `failure`'s
        return isinstance(error, HaltedError)
    return False


def shrunk(scenario: Scenario) -> Scenario:
    """A smaller scenario that fails with the same kind of error."""
    wanted = (failure(scenario) or "").partition(":")[0]

    def fails(candidate: Scenario) -> bool:
        return (failure(candidate) or "").partition(":")[0] == wanted

    for keep in (lambda op: not is_statement(op), is_statement, lambda _op: False):
        scenario = _without("before", scenario, keep, fails)
        scenario = _without("ops", scenario, keep, fails)
    for simpler in (
        {"workers": 1},
        {"workers": 2},
        {"aborted_reads": 0},
        {"tombstones": False},
        {"full": ()},
        {"spread": ()},
        {"late": ()},
    ):
        candidate = scenario._replace(**simpler)
        if candidate.workers <= scenario.workers and fails(candidate):
            scenario = candidate
    return scenario


def _without(field: str, scenario: Scenario, keep: Callable[[Op], bool], fails: Callable[[Scenario], bool]) -> Scenario:
    """The scenario without what it fails without: halves first, then ever smaller parts, what is kept left alone."""
    size = len(getattr(scenario, field))
    while size:
        start = 0
        while start < len(ops := getattr(scenario, field)):
            part = tuple(op for op in ops[start : start + size] if keep(op))
            candidate = scenario._replace(**{field: ops[:start] + part + ops[start + size :]})
            if len(getattr(candidate, field)) < len(ops) and fails(candidate):
                scenario = candidate
                start += len(part)
            else:
                start += size
        size //= 2
    return scenario


def to_json(scenario: Scenario) -> str:
    """A line for `cases.jsonl`."""
    return msgspec.json.encode({"why": "", **scenario._asdict()}).decode()


def from_json(line: str) -> Scenario:
    """The scenario of a line of `cases.jsonl`."""
    fields = {**Scenario._field_defaults, **msgspec.json.decode(line)}
    return msgspec.convert([fields[name] for name in Scenario._fields], Scenario)


def report(seed: int, why: str) -> str:
    """What to read where a seed fails: the seed, why, and the smallest case."""
    case = shrunk(scenario := of_seed(seed))
    ops = "\n".join(f"    {op}" for op in (*case.before, ("snapshot",), *case.ops))
    return (
        f"seed {seed}: {why}\nshrunk from {len(scenario.ops)} to {len(case.ops)} steps: {failure(case)}\n"
        f"{case._replace(before=(), ops=())}\n{ops}\nTo keep it, add to tests/property/cases.jsonl:\n{to_json(case)}"
    )
