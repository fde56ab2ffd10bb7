"""Some seeds of the simulator against a real replica: the same worlds, PostgreSQL's own transactions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import pytest
import sqlalchemy as sa
from tests.conftest import Pipeline
from tests.property.postgres_store import PostgresStore
from tests.property.scenario import scenario
from tests.property.shrink import failure, watched

from deltasync.change import Partition
from deltasync.errors import FencedError
from deltasync.progress import Claim
from deltasync.replica import ledger

# Not those in which tables are read again: that is in memory alone.
_SEEDS = (*(seed for seed in range(33) if seed not in {17, 24, 28}), 105, 134)
_PART = 8
# These fail where the fence does not compare. That it locks is shown in memory alone: while the ledger is locked here,
# nothing else could happen.
_FENCED = (81, 183)
_FENCE = ledger.fence


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


@pytest.mark.parametrize("seed", _FENCED)
def test_without_the_fence(store: PostgresStore, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """A worker that was frozen writes what another one has written, and more."""

    def lock_only(connection: sa.Connection, pipeline: str, claims: Mapping[Partition, Claim]) -> None:
        with suppress(FencedError):
            _FENCE(connection, pipeline, claims)

    store.clear()
    assert failure(scenario(seed), lambda: store) is None
    monkeypatch.setattr(ledger, "fence", lock_only)
    store.clear()

    assert (failure(scenario(seed), lambda: store) or "").startswith("BrokenError: the ledger of")
