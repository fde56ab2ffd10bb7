"""What stands in the way of a set-up, told all at once."""

from __future__ import annotations

import pytest

from deltasync.errors import RefusedError
from deltasync.source.preflight import Server, refuse
from deltasync.source.statements import VERSION, Installed, Pipeline
from deltasync.table import Column, Table, TableId, TypeName

PIPELINE = Pipeline("shop", "shop_publication", "shop_slot", ("shop",), ())
SERVER = Server(
    version=18,
    wal_level="logical",
    slot_exists=False,
    slots_free=1,
    senders_free=1,
    schemas=("shop",),
    captured_elsewhere=(),
    publishes_more=False,
    tables=(),
)
ID = Column("id", "integer", TypeName("pg_catalog", "int4"), not_null=True)
PRICE = Table("shop", "price", (ID, Column("v", "refcursor", TypeName("pg_catalog", "refcursor"))), ("id",))


@pytest.mark.parametrize(
    ("server", "says", "do"),
    [
        (SERVER._replace(version=14), "PostgreSQL 14", "Upgrade"),
        (SERVER._replace(wal_level="replica"), "wal_level is replica", "ALTER SYSTEM"),
        (SERVER._replace(slots_free=0), "no free replication slot", "max_replication_slots"),
        (SERVER._replace(senders_free=0), "no free WAL sender", "max_wal_senders"),
        (SERVER._replace(publishes_more=True), "shop_publication is not a list", "Drop it"),
        (SERVER._replace(schemas=()), "no schema shop", "schemas"),
        (SERVER._replace(captured_elsewhere=("shop",)), "Another pipeline", "schemas"),
    ],
)
def test_a_server_that_will_not_do(server: Server, says: str, do: str) -> None:
    with pytest.raises(RefusedError) as refused:
        refuse(server, Installed(), PIPELINE)

    assert says in refused.value.what
    assert do in refused.value.remedy


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(RefusedError) as refused:
        refuse(SERVER._replace(version=14, wal_level="minimal"), Installed(version=VERSION + 1), PIPELINE)

    assert all(text in refused.value.what for text in ("PostgreSQL 14", "minimal", "newer deltasync"))


def test_a_slot_that_exists_needs_no_free_one() -> None:
    refuse(SERVER._replace(slot_exists=True, slots_free=0, senders_free=0), Installed(), PIPELINE)


def test_a_table_that_cannot_be_carried() -> None:
    with pytest.raises(RefusedError, match=r"shop\.price: column v: the type refcursor") as refused:
        refuse(SERVER._replace(tables=(PRICE,)), Installed(), PIPELINE)

    assert "exclude" in refused.value.remedy


@pytest.mark.parametrize(
    "table",
    [
        Table("shop", "keyless", PRICE.columns),
        Table("shop", "cache", PRICE.columns, ("id",), persistence="u"),
        Table("shop", "price_2020", PRICE.columns, ("id",), parent="shop.root"),
    ],
)
def test_a_table_that_is_not_captured_anyway_is_no_obstacle(table: Table) -> None:
    root = Table("shop", "root", (ID,), ("id",), kind="p")

    refuse(SERVER._replace(tables=(root, table)), Installed(), PIPELINE)
    refuse(SERVER._replace(tables=(PRICE,)), Installed(), PIPELINE._replace(exclude=(TableId("shop", "price"),)))
