"""Small makers of tables, records and changes for unit tests."""

from __future__ import annotations

import json
from typing import Any

from deltasync.change import Change, Op, Partition, Position, Record
from deltasync.debezium.rows import RowDecoder
from deltasync.table import Column, SourceTable, Table, TypeName

PLACEHOLDER = "unavailable_0123456789"
P0 = Partition("p.shop.t", 0)


def column(name: str, type_name: str, sql_type: str | None = None, **more: Any) -> Column:  # noqa: ANN401 - fields of Column
    element = TypeName("pg_catalog", type_name.removeprefix("_")) if type_name.startswith("_") else None
    return Column(name, sql_type or type_name, TypeName("pg_catalog", type_name), element=element, **more)


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
    return RowDecoder(table, PLACEHOLDER)


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
