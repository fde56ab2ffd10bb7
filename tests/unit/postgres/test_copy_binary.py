"""COPY's binary format is for types whose binary form is the value and nothing else."""

from __future__ import annotations

import pytest

from deltasync.postgres.copy_binary import travels_in_binary
from deltasync.table import Attribute, Column, Table, TypeName

INT = TypeName("pg_catalog", "int4")
COLOUR, PAIR = TypeName("shop", "colour"), TypeName("shop", "pair")


def _column(type_: TypeName, kind: str = "b", element: TypeName | None = None) -> Column:
    return Column("c", str(type_), type_, element, kind=kind)


@pytest.mark.parametrize(
    ("column", "exact"),
    [
        (_column(INT), True),
        (_column(TypeName("pg_catalog", "_int4"), element=INT), True),
        (_column(COLOUR, "e"), True),
        (_column(TypeName("shop", "_colour"), "b", COLOUR), False),  # it holds the type's number
        (_column(PAIR, "c"), False),
        (_column(TypeName("pg_catalog", "regclass")), False),
        (_column(TypeName("pg_catalog", "_regclass"), element=TypeName("pg_catalog", "regclass")), False),
        (_column(TypeName("pg_catalog", "money")), False),
        (_column(TypeName("public", "citext")), False),
        (Column("c", "shop.d", TypeName("shop", "d"), base=Attribute("c", "integer", INT)), True),
        (Column("c", "shop.d", TypeName("shop", "d"), kind="c", base=Attribute("c", "shop.pair", PAIR)), False),
    ],
)
def test_by_type(column: Column, exact: bool) -> None:  # noqa: FBT001 - a parameter
    assert travels_in_binary(Table("shop", "t", (column,))) is exact


def test_what_does_not_travel_does_not_count() -> None:
    generated = Column("g", "shop.pair", PAIR, kind="c", generated="s")

    assert travels_in_binary(Table("shop", "t", (_column(INT), generated)))
