"""Some seeds of the simulator against a real replica: the same worlds, PostgreSQL's own transactions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conftest import Pipeline
from tests.property.postgres_store import PostgresStore
from tests.property.scenario import scenario
from tests.property.shrink import failure, watched

_SEEDS = range(30)


@pytest.fixture
def store(pipeline: Pipeline) -> Iterator[PostgresStore]:
    found = PostgresStore(pipeline.settings, pipeline.replica_admin)
    with watched():
        yield found
    found.close()


def test_seeds(store: PostgresStore) -> None:
    """A seed that fails here and not in memory shows a difference between the two replicas."""
    for seed in _SEEDS:
        store.clear()
        assert failure(scenario(seed), lambda: store) is None, f"seed {seed}"
