"""Small makers of tables, records and changes for unit tests."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from deltasync.change import NEW_KEY, Change, Op, Partition, Position, Record, Told
from deltasync.debezium.rows import RowDecoder
from deltasync.table import Attribute, Column, SourceTable, Table, TypeName

PLACEHOLDER = "unavailable_0123456789"
P0 = Partition("p.shop.t", 0)
# The row of such a delete goes on under another key.
MOVED = Told(((NEW_KEY, b"{}"),))


def column(name: str, type_name: str, sql_type: str | None = None, **more: Any) -> Column:  # noqa: ANN401 - fields of Column
    return Column(name, sql_type or type_name, *_named("pg_catalog", type_name), **more)


def foreign(name: str, schema: str, type_name: str, **more: Any) -> Column:  # noqa: ANN401 - fields of Column
    """A column of a type that is no built-in: `kind` or `extension` says what it is."""
    return Column(name, f"{schema}.{type_name}", *_named(schema, type_name), **more)


def domain(name: str, base: Column) -> Column:
    """A column of a domain over the type of `base`."""
    type_ = TypeName("shop", "d")
    return msgspec.structs.replace(base, name=name, sql_type="shop.d", type=type_, element=None, base=attribute(base))


def attribute(column: Column) -> Attribute:
    """The type of a column, without what else it is."""
    return Attribute(column.name, column.sql_type, column.type, column.element)


def _named(schema: str, type_name: str) -> tuple[TypeName, TypeName | None]:
    element = TypeName(schema, type_name.removeprefix("_")) if type_name.startswith("_") else None
    return TypeName(schema, type_name), element


TABLE = Table(
    "shop", "t", (column("id", "int8", "bigint", not_null=True), column("a", "text"), column("b", "numeric")), ("id",)
)


def described(table: Table = TABLE, **more: Any) -> SourceTable:  # noqa: ANN401 - fields of SourceTable
    fields: dict[str, Any] = {
        "log_id": 1,
        "captured": True,
        "complete": True,
        "dropped": False,
        "reason": None,
        "held": None,
        "description": table,
    }
    return SourceTable(**{**fields, **more})


def decoder(table: Table = TABLE) -> RowDecoder:
    return RowDecoder(table, PLACEHOLDER, raw_text=False)


def change(op: str, key: object = 1, row: dict[str, object] | None = None, **more: Any) -> Change:  # noqa: ANN401 - fields of Change
    fields: dict[str, Any] = {
        "table": TABLE.id,
        "op": Op(op),
        "key": None if op == "t" else compact_json({"id": key}),
        "row": None if op in "dt" else compact_json(row if row is not None else {"id": key, "a": "x", "b": "1.0"}),
        "position": Position(10, 10, 10),
        "partition": P0,
        "offset": 0,
    }
    return Change(**{**fields, **more})


def envelope(op: str, row: dict[str, object] | None = None, **source: object) -> dict[str, object]:
    known = {
        "connector": "postgresql",
        "schema": "shop",
        "table": "t",
        "ts_us": 10,
        "sequence": '["10","10"]',
        "snapshot": "false",
    }
    after = None if op in "dt" else row if row is not None else {"id": 1, "a": "x", "b": "1.0"}
    return {"before": None, "after": after, "source": {**known, **source}, "op": op, "ts_ms": 1}


def record(value: object, offset: int = 0, key: object = None, partition: Partition = P0) -> Record:
    raw_key = compact_json({"id": 1} if key is None else key)
    return Record(partition, offset, raw_key, None if value is None else compact_json(value))


def compact_json(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
