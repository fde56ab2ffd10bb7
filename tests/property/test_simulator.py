"""2,000 seeds of the simulator, and the cases that once failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.property.connector import Connector
from tests.property.scenario import scenario
from tests.property.shrink import failure, from_json, halts, report, watched

CASES = Path(__file__).with_name("cases.jsonl").read_text(encoding="utf-8").splitlines()
KNOWN = Path(__file__).with_name("known.jsonl").read_text(encoding="utf-8").splitlines()
_SEEDS = 2000
_PART = 100


@pytest.fixture(autouse=True)
def _watched() -> Iterator[None]:
    with watched():
        yield


@pytest.mark.parametrize("first", range(0, _SEEDS, _PART))
def test_seeds(first: int) -> None:
    """Whatever happens on the way, the replica ends as the source (see README.md)."""
    for seed in range(first, first + _PART):
        why = failure(scenario(seed))
        if why is not None:
            pytest.fail(report(seed, why), pytrace=False)


@pytest.mark.parametrize("line", CASES)
def test_cases(line: str) -> None:
    """What failed once, as small as it got."""
    assert failure(from_json(line)) is None


@pytest.mark.parametrize("line", KNOWN)
def test_known(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing tells whether a key change without its values was applied before, its partition stops."""
    monkeypatch.setattr(Connector, "replays", lambda _connector, _start: True)

    case = from_json(line)
    assert halts(case) or " stopped: " in (failure(case) or "")


def test_few_seeds_halt() -> None:
    """Most of what is simulated has an end that can be compared."""
    assert sum(halts(scenario(seed)) for seed in range(200)) <= 4
