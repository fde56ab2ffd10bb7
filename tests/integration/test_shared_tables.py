"""Two pipelines on one replica: the second does not fill what the first one fills."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from tests.conformance.bench import P0, T, event
from tests.conftest import Pipeline
from tests.property.postgres_store import PostgresStore
from tests.unit.make import column

from deltasync.errors import RefusedError
from deltasync.ports import Batch
from deltasync.progress import Claim, Progress
from deltasync.replica.session import Replica
from deltasync.replica.setup import setup
from deltasync.replica.teardown import teardown
from deltasync.settings import Settings, Source
from deltasync.table import Table, TableId

OTHER = Table("shop", "other", (column("id", "int4", not_null=True),), ("id",))


@pytest.fixture
def both(pipeline: Pipeline) -> Iterator[tuple[Settings, Settings]]:
    """The settings of two pipelines, of which the first one fills two tables."""
    store = PostgresStore(pipeline.settings, pipeline.replica_admin)
    first = pipeline.settings.model_copy(update={"source": Source(schemas=("shop",))})
    second = first.model_copy(update={"pipeline": "second"})
    assert announce(first) == {T.id: None, OTHER.id: None}
    yield first, second
    store.close()


@pytest.fixture
def replica(pipeline: Pipeline) -> Iterator[psycopg.Connection]:
    with psycopg.connect(pipeline.replica_admin, autocommit=True) as connection:
        yield connection


def announce(settings: Settings) -> dict[TableId, str | None]:
    """Announce two tables, as the source's schema log does; returns why they are held."""
    with closing(Replica(settings)) as session:
        session.open({P0: "id"})
        session.apply(Batch({P0: Claim("id", Progress())}, {P0: Progress(1)}, events=(event(1, T), event(2, OTHER))))
        return {id_: table.held for id_, table in session.tables().items()}


def test_the_second_holds_what_the_first_fills(both: tuple[Settings, Settings], replica: psycopg.Connection) -> None:
    """Until the first one ends; neither is kept from its start."""
    first, second = both
    replica.execute("UPDATE deltasync.source_table SET dropped = true WHERE table_name = 'other'")
    held = announce(second)
    assert f"by the pipeline {first.pipeline}" in str(held[T.id])
    assert held[OTHER.id] is None
    for settings in both:
        with closing(Replica(settings)) as session:
            session.tables()
    assert setup(second).held == {str(T.id): held[T.id]}
    assert setup(first).held == {}

    teardown(first)
    assert setup(second).released == [str(T.id)]


def test_what_two_filled_already_is_refused(both: tuple[Settings, Settings], replica: psycopg.Connection) -> None:
    """Nobody knows whose rows are right: neither starts, until one of them has ended."""
    first, second = both
    announce(second)
    replica.execute("UPDATE deltasync.source_table SET held = NULL")
    for settings in both:
        with closing(Replica(settings)) as session, pytest.raises(RefusedError, match=r"shop\.other is filled .*, too"):
            session.tables()
    teardown(second)
    with closing(Replica(first)) as session:
        assert set(session.tables()) == {T.id, OTHER.id}
