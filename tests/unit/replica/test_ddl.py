"""Types made on the replica from descriptions that came through Kafka."""

from __future__ import annotations

import pytest
from tests.unit.make import TABLE, attribute, column, foreign

from deltasync.errors import RefusedError
from deltasync.postgres.type_sql import type_sql
from deltasync.replica import ddl, types
from deltasync.table import Attribute, Table, TypeDefinition, TypeName

PAIR = TypeDefinition("shop", "pair", "c", attributes=(attribute(column("x y", "int4", "integer")),))


@pytest.mark.parametrize(
    ("it", "sql"),
    [
        (column("c", "numeric", "numeric(5,-2)"), "numeric(5,-2)"),
        (column("c", "interval", "interval second(3)"), "interval second(3)"),
        (column("c", "char", '"char"'), '"char"'),
        (foreign("c", "shop", "mood"), '"shop"."mood"'),
        (foreign("c", "shop", "_mood"), '"shop"."mood"[]'),
        (Attribute("c", "public.vector(3)", TypeName("public", "vector")), '"public"."vector"(3)'),
        (Attribute("c", 'shop."odd(3)"', TypeName("shop", "odd(3)")), '"shop"."odd(3)"'),
        (
            Attribute("c", "public.vector(3)[]", TypeName("public", "_vector"), TypeName("public", "vector")),
            '"public"."vector"(3)[]',
        ),
    ],
)
def test_types_of_columns(it: Attribute, sql: str) -> None:
    """With their modifiers, which nothing else may hide behind."""
    assert type_sql(it).as_string(None) == sql


def test_a_type_that_postgresql_does_not_print_is_refused() -> None:
    """A description is data, never SQL."""
    with pytest.raises(RefusedError):
        type_sql(column("c", "int4", "integer); DROP TABLE x; --"))


@pytest.mark.parametrize(
    ("type_", "sql"),
    [
        (TypeDefinition("shop", "m", "e", labels=("a", "it's")), """CREATE TYPE "shop"."m" AS ENUM ('a', 'it''s')"""),
        (PAIR, 'CREATE TYPE "shop"."pair" AS ("x y" integer)'),
        (
            TypeDefinition(
                "shop", "d", "d", attributes=(attribute(column("value", "varchar", "character varying(9)")),)
            ),
            'CREATE DOMAIN "shop"."d" AS character varying(9)',
        ),
        (
            TypeDefinition("shop", "r", "r", attributes=(attribute(column("subtype", "float8")),), multirange="rs"),
            'CREATE TYPE "shop"."r" AS RANGE (subtype = float8, multirange_type_name = "shop"."rs")',
        ),
    ],
)
def test_types_of_users(type_: TypeDefinition, sql: str) -> None:
    """Enum, composite, domain, range."""
    assert ddl.create_type(type_).as_string(None) == sql


def test_what_cannot_be_made_is_refused() -> None:
    """A base type is made by functions that are not described."""
    with pytest.raises(RefusedError, match=r"shop\.t"):
        ddl.create_type(TypeDefinition("shop", "t", "b"))


def test_a_type_that_is_another_one_is_a_difference() -> None:
    """Its rows would not fit, or lose an attribute; labels are added."""
    other = TypeDefinition("shop", "pair", "c", attributes=(attribute(column("x", "int4", "integer")),))
    ours, theirs = (Table("shop", "t", TABLE.columns, types=(type_,)) for type_ in (PAIR, other))

    assert "shop.pair" in (types.difference(ours, theirs) or "")
    assert types.difference(ours, ours) is None
    fewer, more = (_with_enum(labels) for labels in (("a",), ("a", "b")))
    assert types.difference(fewer, more) is None


def _with_enum(labels: tuple[str, ...]) -> Table:
    return Table("shop", "t", (), types=(TypeDefinition("shop", "m", "e", labels=labels),))
