"""Statements that have to work whatever a type or a column is called, and whatever the search path holds."""

from __future__ import annotations

import pytest
from tests.unit.make import column, domain, foreign

from deltasync.replica import statements
from deltasync.table import Column, Table


@pytest.mark.parametrize(
    ("key", "condition"),
    [
        (column("k", "int4"), 't."k" = s."k"'),
        (foreign("k", "shop", "pair", kind="c"), 't."k" = s."k"'),
        (foreign("k", "tools", "ltree", extension="ltree"), 't."k" OPERATOR("tools".=) s."k"'),
        (domain("k", foreign("v", "tools", "ltree", extension="ltree")), 't."k" OPERATOR("tools".=) s."k"'),
    ],
)
def test_keys_of_extension_types_are_found_by_their_own_operator(key: Column, condition: str) -> None:
    """The session's search path holds pg_catalog alone."""
    table = Table("shop", "t", (key,), ("k",))
    source = statements.unnested(table, ("k",))

    assert statements.delete(table, ("k",), source).as_string(None).endswith(condition)
    assert condition in statements.fetch(table, ("k",), ("k",)).as_string(None).replace('"k0"', '"k"')


@pytest.mark.parametrize(
    ("it", "value"),
    [
        (column("50%", "int4", "integer"), '"u"."50%"::integer AS "50%"'),
        (column("c", "char", '"char"'), '"pg_catalog"."charin"(textout("u"."c"))::"char" AS "c"'),
        (column("c", "regclass"), '"pg_catalog"."regclassin"(textout("u"."c"))::regclass AS "c"'),
    ],
)
def test_text_becomes_a_value_by_its_types_own_parser(it: Column, value: str) -> None:
    """As COPY reads it: some casts read less."""
    assert value in statements.unnested(Table("shop", "t", (it,)), (it.name,)).as_string(None)
