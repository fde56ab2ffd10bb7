"""What a connector sets because of the tables that there are."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.make import column, domain

from deltasync.source.generated import date_overrides, excluded_columns
from deltasync.table import Table


def _table(*columns: str, name: str = "t") -> Table:
    found = tuple(column(one, "date" if one.startswith("d") else "text") for one in columns)
    return Table("shop", name, (column("id", "int8"), *found), ("id",))


def test_dates_are_read_as_days_beside_all_columns() -> None:
    """The list names the tables, and a setting each says how; tables without dates are left alone."""
    dates = date_overrides([_table("d", 'd"q'), _table("a", name="other")])

    infinite = "WHEN 'infinity' THEN 2146033979 WHEN '-infinity' THEN -2147472691"
    days = "CASE t.{0} {1} ELSE t.{0} - date '1970-01-01' END AS {0}"
    d, quoted = (days.format(name, infinite) for name in ('"d"', '"d""q"'))
    assert dates == {
        "snapshot.select.statement.overrides": "shop.t",
        "snapshot.select.statement.overrides.shop.t": f'SELECT t.*, {d}, {quoted} FROM "shop"."t" t',
    }
    assert date_overrides([_table("a")]) == {}


def test_a_domain_over_a_date_is_one() -> None:
    over = domain("v", column("v", "date"))
    assert len(date_overrides([Table("shop", "t", (column("id", "int8"), over), ("id",))])) == 2


@pytest.mark.parametrize("name", ["a.b", "a,b", "a'b", "a[b", "a\\b", " a"])
def test_names_that_debezium_would_read_otherwise_have_no_override(name: str) -> None:
    assert date_overrides([_table("d", name=name)]) == {}


def test_skipped_columns_are_not_read_at_all() -> None:
    table = _table("d", "a", "b")
    marked = msgspec.structs.replace(table.columns[2], skipped=True)
    table = msgspec.structs.replace(table, columns=(*table.columns[:2], marked, table.columns[3]))

    assert excluded_columns([table, _table("a")]) == {"column.exclude.list": r"shop\x{2e}t\x{2e}a"}
    select = date_overrides([table])["snapshot.select.statement.overrides.shop.t"]
    assert select.startswith('SELECT t."id", t."d", t."b", CASE')
    assert excluded_columns([_table("a")]) == {}
