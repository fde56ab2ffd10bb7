"""Which tables an incremental snapshot reads exactly."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.make import TABLE, column, described, domain

from deltasync.errors import RefusedError
from deltasync.incremental.suitable import obstacles, refuse
from deltasync.table import SourceTable, Table


def keyed(type_name: str) -> Table:
    return replace(TABLE, columns=(column("id", type_name), column("k", "int4")), primary_key=("k", "id"))


@pytest.mark.parametrize("type_name", ["int4", "uuid", "text", "numeric"])
def test_keys_that_are_read_exactly(type_name: str) -> None:
    assert not obstacles(keyed(type_name), described())


@pytest.mark.parametrize(
    ("table", "known", "why"),
    [
        (TABLE, None, "does not know yet"),
        (TABLE, described(captured=False), "does not know yet"),
        (TABLE, described(held="it changed"), "held: it changed"),
        (replace(TABLE, primary_key=()), described(), "no primary key"),
        (replace(TABLE, replica_identity="i"), described(), "no primary key"),
        (keyed("date"), described(), "id date"),
        (replace(TABLE, columns=(domain("id", column("d", "date")),)), described(), "id date"),
        (keyed("timestamptz"), described(), "id timestamptz"),
        (keyed("_int4"), described(), "id _int4"),
        (replace(TABLE, columns=(column("id", "int8"), column("r", "text", skipped=True))), described(), "left alone"),
        (replace(TABLE, name="t.t"), described(), "for a pattern"),
    ],
)
def test_what_would_not_be_exact_is_refused(table: Table, known: SourceTable | None, why: str) -> None:
    assert why in obstacles(table, known)


def test_each_is_named_with_the_remedy() -> None:
    tables = [TABLE, keyed("date"), replace(TABLE, name="other")]
    with pytest.raises(RefusedError, match=r"shop\.other: the replica does not know") as error:
        refuse(tables[:1] + tables[2:], {TABLE.id: described()})
    assert error.value.remedy.endswith("deltasync resync shop.other")
