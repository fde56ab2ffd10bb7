"""The replica in memory and PostgreSQL, behind one suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.bench import Bench, T, event
from tests.property.memory_store import MemoryStore
from tests.property.postgres_store import PostgresStore


@pytest.fixture(params=["memory", "real"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        store: MemoryStore | PostgresStore = MemoryStore()
    else:
        pipeline = request.getfixturevalue("pipeline")
        store = PostgresStore(pipeline.settings, pipeline.replica_admin)
    found = Bench(store, store.session())
    found.do(events=(event(1, T),))
    yield found
    found.session.close()
    store.close()
