"""Records from before the raw-text converter: exact in its form, or refused."""

from __future__ import annotations

import pytest
from tests.unit.make import P0, PLACEHOLDER, change, column, compact_json

from deltasync.change import Change
from deltasync.debezium.rows import UNAVAILABLE, RowDecoder
from deltasync.debezium.stock import StockForm
from deltasync.errors import RecordError
from deltasync.table import Table

ARRAYS = Table(
    "shop", "t", (column("id", "_int4"), column("a", "text"), column("n", "_int8"), column("b", "_text")), ("id",)
)


def _change(op: str, **row: object) -> Change:
    made = change(op)
    return made._replace(row=compact_json(row) if row else None, key=compact_json({"id": [1, 2]}))


def test_arrays_become_their_text_and_the_rest_stays() -> None:
    """Key and row; NULL, absent and unavailable stay three things."""
    placeholder = list(PLACEHOLDER.encode())
    old = _change("u", id=[1, 2], a="[1]", n=placeholder, b=['x"y', None])
    now = StockForm(ARRAYS, PLACEHOLDER).converted(old)

    decoder = RowDecoder(ARRAYS, PLACEHOLDER, raw_text=True)
    assert decoder.row(now.row or b"") == {"id": "{1,2}", "a": "[1]", "n": UNAVAILABLE, "b": r'{"x\"y",NULL}'}
    assert decoder.keys([now.key or b""]).values == [["{1,2}"]]
    assert now._replace(row=None, key=None) == old._replace(row=None, key=None)
    deleted = StockForm(ARRAYS, PLACEHOLDER).converted(_change("d"))
    assert (deleted.row, deleted.key) == (None, b'{"id":"{1,2}"}')
    partial = StockForm(ARRAYS, PLACEHOLDER).converted(_change("u", id=[1, 2], n=None))
    assert partial.row == b'{"id":"{1,2}","n":null}'


@pytest.mark.parametrize("type_", ["varbit", "timetz", "polygon", "int2vector", "_money", "_timestamp"])
@pytest.mark.parametrize("row", [{"id": 1, "v": "0101"}, {"id": 1, "v": None}, {"id": 1}])
def test_what_stock_debezium_loses_is_refused(type_: str, row: dict[str, object]) -> None:
    """`0101` may be base64, NULL an int2vector, absent a money[]: nothing of it is guessed."""
    form = StockForm(Table("shop", "t", (column("id", "int8"), column("v", type_)), ("id",)), PLACEHOLDER)
    with pytest.raises(RecordError, match=r"before Connect had the raw-text converter, and the column v") as refused:
        form.converted(change("u", row=row))

    assert f"ledger set {P0.topic} {P0.number} 1 " in refused.value.remedy
    assert form.converted(change("d")) == change("d")


@pytest.mark.parametrize("value", ["{1}", [None, None], [[1]], ["x"]])
def test_a_value_that_does_not_fit_is_refused_without_being_shown(value: object) -> None:
    form = StockForm(Table("shop", "t", (column("id", "int8"), column("v", "_int4")), ("id",)), PLACEHOLDER)
    with pytest.raises(RecordError, match="column v"):
        form.converted(change("c", row={"id": 1, "v": value}))


def test_tables_without_such_types_are_left_alone() -> None:
    assert not StockForm(Table("shop", "t", (column("id", "int8"), column("v", "text")), ("id",)), PLACEHOLDER)
