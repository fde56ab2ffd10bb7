"""What the source's log and a snapshot tell of rows, in Debezium's JSON."""

from __future__ import annotations

import msgspec
from tests.property.kinds import Row, Shape, token, unavailable

from deltasync.table import Table


def told(shape: Shape, before: Row, after: Row | None) -> Row | None:
    """What the log has of a row before its change: its key, the rest of it is NULL. Without one, all."""
    if shape.table.is_keyless:
        return before
    if after is not None and (shape.key == shape.record_key or all(before[c] == after[c] for c in shape.key)):
        return None
    return {column: before[column] if column in shape.key else None for column in shape.kinds}


def key_of(shape: Shape, row: Row, *, snapshot: bool = False) -> bytes | None:
    """The key that Debezium gives to a record."""
    kinds, key = shape.kinds, shape.record_key
    if not key:
        return None
    return ("{" + ",".join(f'"{c}":{token(kinds[c], row[c], snapshot)}' for c in key) + "}").encode()


def image_of(shape: Shape, row: Row, lacking: frozenset[str] = frozenset(), *, snapshot: bool = False) -> str:
    """A row, but for the values that do not travel."""
    kinds = shape.kinds
    tokens = (unavailable(k) if c in lacking else token(k, row[c], snapshot) for c, k in kinds.items())
    return "{" + ",".join(f'"{c}":{t}' for c, t in zip(kinds, tokens, strict=True)) + "}"


def log_row(id_: int, table: Table) -> tuple[bytes, str]:
    """The key and the image of an entry of the schema log."""
    row = {"id": id_, "event": "ddl", "tag": "", "schema_name": "shop", "table_name": table.name}
    row |= {"captured": True, "complete": True, "description": msgspec.json.encode(table).decode()}
    return b'{"id":%d}' % id_, msgspec.json.encode(row).decode()
