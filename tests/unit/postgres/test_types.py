"""Which tables can be carried exactly, by their columns."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.make import PLACEHOLDER, column, domain, foreign

from deltasync.debezium.values import codec
from deltasync.postgres.types import ARRAY, CARRIED, Needs, unsupported
from deltasync.table import Column, Table, TypeDefinition

ID = column("id", "int4", "integer", not_null=True)
KINDS = {"enum": "e", "composite": "c", "range": "r", "multirange": "m"}
CITEXT = TypeDefinition("public", "citext", "x", extension="citext")


def _column(key: str) -> Column:
    """A column of which `key` is the type_key."""
    if key in KINDS:
        return foreign("v", "shop", "thing", kind=KINDS[key])
    if key == ARRAY:
        return foreign("v", "shop", "_thing")
    extension, _, name = key.rpartition(":")
    return foreign("v", "public", name, extension=extension) if extension else column("v", key, f"{key}(9)")


def _table(*columns: Column, key: tuple[str, ...] = ("id",), types: tuple[TypeDefinition, ...] = ()) -> Table:
    return Table("shop", "thing", (ID, *columns), primary_key=key, types=types)


@pytest.mark.parametrize("key", sorted(CARRIED))
def test_what_is_carried_can_be_decoded(key: str) -> None:
    """The list that refuses tables beforehand and the codecs are of one mind."""
    it = _column(key)
    full = msgspec.structs.replace(_table(it), replica_identity="f")
    by_stock = not unsupported(_table(it), raw_text=False)
    by_stock_if_full = not unsupported(full, raw_text=False)

    assert unsupported(_table(it), raw_text=True) == []
    assert codec(it, PLACEHOLDER, raw_text=True) is not None
    assert by_stock == (CARRIED[key].needs is Needs.NOTHING)
    assert by_stock_if_full == (CARRIED[key].needs is not Needs.RAW_TEXT)
    assert (codec(it, PLACEHOLDER, raw_text=False) is not None) == by_stock_if_full


@pytest.mark.parametrize("type_", ["refcursor", "record", "pg_node_tree", "unknown"])
def test_other_types_are_neither(type_: str) -> None:
    """Not even with the converter."""
    assert unsupported(_table(_plain(type_)), raw_text=True) == [f"column v: the type {type_} is not carried exactly"]
    assert codec(_plain(type_), PLACEHOLDER, raw_text=True) is None


def _plain(type_: str) -> Column:
    return column("v", type_, type_)


def test_a_refusal_says_what_would_mend_it() -> None:
    """The converter, or all of the row in every record."""
    assert unsupported(_table(_plain("varbit")), raw_text=False) == [
        "column v: the type varbit needs the raw-text converter: DELTASYNC_CONNECT_RAW_TEXT"
    ]
    assert unsupported(_table(_plain("_bool")), raw_text=False) == [
        "column v: the type _bool needs REPLICA IDENTITY FULL, or the raw-text converter: DELTASYNC_CONNECT_RAW_TEXT"
    ]


def test_bits_of_no_length_are_refused() -> None:
    """Debezium drops leading zeros, and nothing says how many there were."""
    assert unsupported(_table(column("v", "bit", "bit")), raw_text=True)


def test_domains_are_carried_as_what_they_stand_for() -> None:
    """Save those over types of extensions, which the converter knows by name."""
    assert unsupported(_table(domain("v", column("v", "numeric"))), raw_text=False) == []
    assert unsupported(_table(domain("v", column("v", "varbit"))), raw_text=True) == []
    assert "raw-text" in unsupported(_table(domain("v", column("v", "varbit"))), raw_text=False)[0]
    assert unsupported(_table(domain("v", foreign("v", "public", "vector", extension="vector"))), raw_text=True)
    assert unsupported(_table(domain("v", column("v", "_int4"))), raw_text=True) == []
    assert "FULL" in unsupported(_table(domain("v", column("v", "_int4"))), raw_text=False)[0]
    assert "raw-text" in unsupported(_table(domain("v", column("v", "_time"))), raw_text=False)[0]


def test_a_users_type_of_a_known_name_is_another_type() -> None:
    """A base type is made by functions that only its server has."""
    assert unsupported(_table(foreign("v", "shop", "text")), raw_text=True)
    made = TypeDefinition("shop", "thing", "b")
    assert unsupported(_table(types=(made,)), raw_text=True) == [
        "the type shop.thing belongs to no extension and is made by functions"
    ]
    row = TypeDefinition("shop", "customer", "t")
    assert unsupported(_table(types=(row,)), raw_text=True) == ["the type shop.customer is the row type of a table"]


def test_keys_whose_equality_depends_on_the_locale() -> None:
    """Two rows of the source could be one on the replica."""
    citext = foreign("v", "public", "citext", extension="citext")
    pair = foreign("v", "shop", "pair", kind="c")

    assert unsupported(_table(citext), raw_text=False) == []
    assert "locale" in unsupported(_table(citext, key=("v",)), raw_text=False)[0]
    assert unsupported(_table(pair, key=("v",)), raw_text=False) == []
    assert "locale" in unsupported(_table(pair, key=("v",), types=(CITEXT,)), raw_text=False)[0]


def test_a_key_of_equal_but_different_texts() -> None:
    """A nondeterministic collation."""
    folded = column("v", "text", collation_exact=False)

    assert unsupported(_table(folded), raw_text=False) == []
    assert "collation" in unsupported(_table(folded, key=("v",)), raw_text=False)[0]


def test_generated_columns_are_skipped_except_in_a_key() -> None:
    """The replica computes them itself."""
    computed = column("v", "varbit", generated="s")

    assert unsupported(_table(computed), raw_text=False) == []
    assert "generated" in unsupported(_table(computed, key=("v",)), raw_text=False)[0]
    assert "no column" in unsupported(Table("shop", "thing", (computed,)), raw_text=False)[0]


def test_names_that_differ_only_by_case() -> None:
    """Debezium stops at them."""
    upper = msgspec.structs.replace(ID, name="ID")

    assert unsupported(_table(upper), raw_text=False) == ["the column names ID, id differ only by case"]
