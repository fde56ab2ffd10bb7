"""What mends a column that cannot be carried, and what is made of names."""

from __future__ import annotations

import pytest

from deltasync.check.tables import mending, strangers, topic_part
from deltasync.finding import Gravity
from deltasync.table import Table

TABLE = Table("shop", "item", ())


@pytest.mark.parametrize(
    ("problem", "do"),
    [
        ("column v: the type money is not carried exactly", "Change the column."),
        (
            "column f: the type boolean[] needs REPLICA IDENTITY FULL",
            'ALTER TABLE "shop"."item" REPLICA IDENTITY FULL;',
        ),
        ("column v: it needs the raw-text converter: DELTASYNC_CONNECT_RAW_TEXT", "DELTASYNC_CONNECT_RAW_TEXT=true"),
    ],
)
def test_a_column_that_cannot_be_carried_is_mended_by(problem: str, do: str) -> None:
    assert do in mending(TABLE, problem)


def test_a_topic_name_holds_what_kafka_allows() -> None:
    assert topic_part("a b.c-d_ä") == "a_b.c-d__"


def test_a_name_of_no_table_is_told_with_the_nearest() -> None:
    named = ["shop.item", "shop.itme", "other.far"]
    near, far = sorted(strangers([TABLE], "[tables]", named, Gravity.WARNING), key=lambda one: one.what, reverse=True)

    assert near.what == "[tables] names shop.itme, and the captured schemas have no such table."
    assert near.remedy == "Did you mean shop.item? Correct or remove it."
    assert "[tables] names other.far" in far.what
    assert far.remedy == "Correct or remove it."
