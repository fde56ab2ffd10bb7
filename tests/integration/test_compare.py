"""Two real databases, compared row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import psycopg
import pytest
from tests.conftest import Pipeline

from deltasync.errors import RefusedError
from deltasync.source.setup import setup
from deltasync.table import TableId
from deltasync.verify.compare import How, TableComparison, compare

SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TYPE shop.status AS ENUM ('new', 'paid');
    CREATE TABLE shop.thing (
      id bigint, place text, price numeric, at timestamptz, note jsonb, tags text[], status shop.status, raw bytea,
      twice numeric GENERATED ALWAYS AS (price * 2) STORED, PRIMARY KEY (place, id));
    CREATE TABLE shop.keyless (a int, b text);
    ALTER TABLE shop.keyless REPLICA IDENTITY FULL;
    INSERT INTO shop.thing
      SELECT n, CASE n % 4 WHEN 0 THEN E'a\\tb' WHEN 1 THEN E'a\\\\b' WHEN 2 THEN 'Ä' ELSE 'a b' END, n / 7.0,
             timestamptz '2026-01-01 UTC' + n * interval '1 second',
             CASE WHEN n % 3 > 0 THEN jsonb_build_object('n', n) END, ARRAY[n::text, NULL, E'x\\ny'], 'new', '\\x00ff'
        FROM generate_series(1, 1000) AS n;
    INSERT INTO shop.keyless VALUES (1, 'x'), (1, 'x'), (2, NULL);
"""


class Two(NamedTuple):
    """Source and replica with the same rows; `compare` names each table's result."""

    source: psycopg.Connection[Any]
    replica: psycopg.Connection[Any]
    pipeline: Pipeline

    def compare(self) -> dict[str, TableComparison]:
        names = {"schemas": ["shop"], "publication": self.pipeline.settings.publication}
        found = compare(self.pipeline.source_admin, self.pipeline.replica_admin, **names)  # type: ignore[arg-type]
        return {table.table: table for table in found}


@pytest.fixture
def two(pipeline: Pipeline) -> Iterator[Two]:
    with ExitStack() as open_:
        source, replica = (
            open_.enter_context(psycopg.connect(dsn, autocommit=True))
            for dsn in (pipeline.source_admin, pipeline.replica_admin)
        )
        for side in (source, replica):
            side.execute(SCHEMA)
        setup(pipeline.settings)
        source.execute(f"ALTER PUBLICATION {pipeline.settings.publication} ADD TABLE shop.keyless")
        yield Two(source, replica, pipeline)


def test_equal_tables(two: Two) -> None:
    found = two.compare()

    assert found["shop.thing"] == TableComparison("shop.thing", source_rows=1000, replica_rows=1000, equal=1000)
    assert found["shop.keyless"] == TableComparison("shop.keyless", source_rows=3, replica_rows=3, equal=3)
    assert all(table.is_equal for table in found.values())


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE shop.thing SET price = 1.0, note = NULL WHERE id = 1", {"differing": 1}),
        ("UPDATE shop.thing SET tags[2] = 'NULL' WHERE id < 3", {"differing": 2, "columns": ["tags"]}),
        ("UPDATE shop.thing SET at = at + interval '1 microsecond' WHERE id = 7", {"differing": 1, "columns": ["at"]}),
        ("DELETE FROM shop.thing WHERE id % 2 = 0", {"missing": 500}),
        ("INSERT INTO shop.thing VALUES (1, 'zzz'), (1, '')", {"extra": 2}),
        ("UPDATE shop.thing SET id = 5000 WHERE id = 3", {"missing": 1, "extra": 1}),
    ],
)
def test_rows_that_differ_are_counted(two: Two, statement: str, expected: dict[str, object]) -> None:
    two.replica.execute(statement)
    found = two.compare()["shop.thing"]

    assert not found.is_equal
    assert {name: getattr(found, name) for name in expected} == expected
    assert (found.missing, found.extra, found.differing) == tuple(
        expected.get(name, 0) for name in ("missing", "extra", "differing")
    )


def test_the_replica_is_looked_at_when_it_has_settled(two: Two) -> None:
    """What the source commits meanwhile is in neither snapshot; what it had committed before is in both."""

    def settle() -> None:
        two.source.execute("UPDATE shop.thing SET price = 2 WHERE id = 1")
        two.replica.execute("UPDATE shop.thing SET price = 1 WHERE id = 1")

    two.source.execute("UPDATE shop.thing SET price = 1 WHERE id = 1")
    names = {"schemas": ["shop"], "publication": two.pipeline.settings.publication}
    thing = {TableId("shop", "thing")}
    sides = two.pipeline.source_admin, two.pipeline.replica_admin
    two.replica.execute("CREATE TABLE shop.own (id int)")

    assert [one.is_equal for one in compare(*sides, **names, how=How(only=thing))] == [False]  # type: ignore[arg-type]
    assert [str(one) for one in compare(*sides, **names, how=How(only=thing, settle=settle))] == ["shop.thing: equal"]  # type: ignore[arg-type]


def test_a_trailing_zero_and_a_generated_column_count(two: Two) -> None:
    for side, price in ((two.source, "2.5"), (two.replica, "2.50")):
        side.execute(f"UPDATE shop.thing SET price = {price} WHERE id = 9")

    assert two.compare()["shop.thing"].columns == ["price", "twice"]


def test_rows_without_a_key_are_counted(two: Two) -> None:
    two.replica.execute("DELETE FROM shop.keyless WHERE ctid = (SELECT min(ctid) FROM shop.keyless)")
    two.replica.execute("UPDATE shop.keyless SET b = '' WHERE a = 2")
    found = two.compare()["shop.keyless"]

    assert (found.equal, found.missing, found.extra) == (1, 2, 1)


def test_tables_and_columns_that_only_one_side_has(two: Two) -> None:
    two.replica.execute("ALTER TABLE shop.thing DROP raw, ADD more int, ALTER note TYPE json")
    two.replica.execute("DROP TABLE shop.keyless; CREATE TABLE shop.stranger (id int)")
    found = two.compare()

    assert found["shop.keyless"].structure == ["the replica has no such table"]
    assert found["shop.stranger"].structure == ["the source has no such table"]
    assert found["shop.thing"].structure == [
        "the replica has no column raw",
        "the source has no column more",
        "column note is jsonb on the source, json on the replica",
    ]
    assert not any(table.is_equal for table in found.values())


def test_nothing_captured_is_no_proof(two: Two) -> None:
    with pytest.raises(RefusedError, match="captures no table"):
        list(compare(two.pipeline.source_admin, two.pipeline.replica_admin, schemas=["none"], publication="none"))
