"""Which tables can be carried exactly, by their columns."""

from __future__ import annotations

import msgspec
import pytest

from deltasync.debezium.values import codec
from deltasync.postgres.types import CARRIED, CARRIED_AS_KEY, unsupported
from deltasync.table import Column, Table, TypeName

ID = Column("id", "integer", TypeName("pg_catalog", "int4"), not_null=True)
PLACEHOLDER = "unavailable_0123456789abcdef"


def _column(type_: str) -> Column:
    element = TypeName("pg_catalog", type_[1:]) if type_.startswith("_") else None
    return Column("v", type_, TypeName("pg_catalog", type_), element=element)


def _table(*columns: Column, key: tuple[str, ...] = ("id",)) -> Table:
    return Table("shop", "thing", (ID, *columns), primary_key=key)


@pytest.mark.parametrize("type_", sorted(CARRIED))
def test_what_is_carried_can_be_decoded(type_: str) -> None:
    assert unsupported(_table(_column(type_))) == []
    assert codec(_column(type_), PLACEHOLDER) is not None


@pytest.mark.parametrize("type_", ["money", "interval", "timetz", "name", "inet", "_numeric", "_bool", "_date"])
def test_other_types_are_neither(type_: str) -> None:
    assert unsupported(_table(_column(type_))) == [f"column v: the type {type_} is not carried exactly"]
    assert codec(_column(type_), PLACEHOLDER) is None


@pytest.mark.parametrize("type_", sorted(CARRIED - CARRIED_AS_KEY))
def test_not_everything_is_a_key(type_: str) -> None:
    table = _table(_column(type_), key=("id", "v"))

    assert unsupported(table) == [f"column v: the type {type_} is not carried as a key"]


def test_enums_are_carried_alone_but_neither_in_arrays_nor_in_domains() -> None:
    enum = Column("v", "shop.status", TypeName("shop", "status"), labels=("new", "paid"))
    array = msgspec.structs.replace(enum, sql_type="shop.status[]", element=TypeName("shop", "status"))
    domain = Column("v", "shop.positive", TypeName("shop", "positive"), domain=True)

    assert unsupported(_table(enum, key=("id", "v"))) == []
    assert unsupported(_table(array)) == ["column v: the type shop.status[] is not carried exactly"]
    assert unsupported(_table(domain)) == ["column v: the type shop.positive is not carried exactly"]


def test_a_users_type_of_a_known_name_is_another_type() -> None:
    assert unsupported(_table(Column("v", "shop.text", TypeName("shop", "text"))))


def test_a_key_of_equal_but_different_texts() -> None:
    folded = Column("v", "text", TypeName("pg_catalog", "text"), collation_exact=False)

    assert unsupported(_table(folded)) == []
    assert "collation" in unsupported(_table(folded, key=("v",)))[0]


def test_generated_columns_are_skipped_except_in_a_key() -> None:
    computed = Column("v", "money", TypeName("pg_catalog", "money"), generated="s")

    assert unsupported(_table(computed)) == []
    assert "generated" in unsupported(_table(computed, key=("v",)))[0]
    assert "no column" in unsupported(Table("shop", "thing", (computed,)))[0]


def test_names_that_differ_only_by_case() -> None:
    upper = msgspec.structs.replace(ID, name="ID")

    assert unsupported(_table(upper)) == ["the column names ID, id differ only by case"]
