"""What the bench holds to be equal is equal."""

from __future__ import annotations

import psycopg
import pytest
from bench.prepare import digest
from bench.shapes import ticks
from tests.conftest import Pipeline

SHAPE = ticks()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE shop.orders SET total = total + 0.01 WHERE id = 7",
        "UPDATE shop.orders SET status = NULL WHERE id = 7",
        "DELETE FROM shop.orders WHERE id = 7",
        "INSERT INTO shop.orders (id) VALUES (1001)",
    ],
)
def test_one_row_makes_a_replica_different(pipeline: Pipeline, change: str) -> None:
    for dsn in (pipeline.source_admin, pipeline.replica_admin):
        with psycopg.connect(dsn) as connection:
            connection.execute(f"CREATE SCHEMA shop; {SHAPE.create}; {SHAPE.fill}".encode())
    assert digest(pipeline.source_admin, SHAPE) == digest(pipeline.replica_admin, SHAPE)

    with psycopg.connect(pipeline.replica_admin) as connection:
        connection.execute(change.encode())

    assert digest(pipeline.source_admin, SHAPE) != digest(pipeline.replica_admin, SHAPE)
