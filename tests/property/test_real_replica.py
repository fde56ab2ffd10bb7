"""Some seeds of the simulator against a real replica: the same worlds, PostgreSQL's own transactions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conftest import Pipeline
from tests.property.postgres_store import PostgresStore
from tests.property.scenario import scenario
from tests.property.shrink import failure, watched

# 134 fails in memory where the fence does not lock (test_guards.py).
_SEEDS = (*range(30), 105, 134)
_PART = 8


@pytest.fixture
def store(pipeline: Pipeline) -> Iterator[PostgresStore]:
    found = PostgresStore(pipeline.settings, pipeline.replica_admin)
    with watched():
        yield found
    found.close()


@pytest.mark.parametrize("first", range(0, len(_SEEDS), _PART))
def test_seeds(store: PostgresStore, first: int) -> None:
    """A seed that fails here and not in memory shows a difference between the two replicas."""
    for seed in _SEEDS[first : first + _PART]:
        store.clear()
        why = failure(scenario(seed), lambda: store)
        assert why is None, f"seed {seed}: {why}"
