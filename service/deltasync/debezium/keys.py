"""Keys of rows, read from the rows where the key of a record is not their table's.

Of a table without a primary key Debezium takes the first unique index by its name, be it partial or of nullable
columns, and fills in what a delete does not carry. Of a table that was created or got its key a moment ago, it may not
see the key: it asks the catalog, and the transaction is not visible there before it has ended for all. But each row has
the key's columns, and so has what PostgreSQL tells of a row before its change.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import methodcaller

import msgspec

from deltasync.change import Change, Op
from deltasync.debezium.rows import NOT_A_FIELD, UnknownColumnError
from deltasync.errors import RecordError
from deltasync.table import Table

_NULL = msgspec.Raw(b"null")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_all_fields = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


class RowKeys:
    """Reads the keys of one version of a table from its rows. Construct it once: it compiles its decoder.

    With `is_keyless` there are none: all that a row holds tells it.
    """

    def __init__(self, table: Table) -> None:
        self.is_keyless = table.is_keyless
        self._table = table
        self._names = table.primary_key
        self._prefix = b"{" + msgspec.json.encode(self._names[0]) + b":" if self._names else b""
        fields = [
            (f"c{place}", msgspec.Raw, msgspec.field(name=name, default=_NULL))
            for place, name in enumerate(self._names)
        ]
        odd = any(map(NOT_A_FIELD.search, self._names))
        self._decoder = None if odd else msgspec.json.Decoder(msgspec.defstruct("Key", fields, gc=False))
        self._is_plain = len(self._names) == 1 and not odd

    def are_told(self, change: Change) -> bool:
        """True where a record's own key tells its row: it has the columns of the table's primary key.

        One with more columns than a single one does not fit the decoder of keys, which says so.
        """
        if self._table.is_told_by_rows:
            return False
        if change.key is None:
            return change.op is Op.TRUNCATE
        if self._is_plain:
            return change.key.startswith(self._prefix)
        try:
            return _fields.decode(change.key).keys() == set(self._names)
        except msgspec.MsgspecError:
            return False

    def are_all_told(self, keys: Sequence[bytes]) -> bool:
        """True where each of these keys of changed rows has the columns of the table's primary key."""
        if self._table.is_told_by_rows:
            return False
        if self._is_plain:
            return all(map(methodcaller("startswith", self._prefix), keys))
        names = set(self._names)
        try:
            return all(fields.keys() == names for fields in _all_fields.decode(b"[" + b",".join(keys) + b"]"))
        except msgspec.MsgspecError:
            return False

    def keyed(self, change: Change) -> Change:
        """The change with the key of its row, and the one that it had before where that was another.

        Raises RecordError where it does not hold the key's values, and UnknownColumnError where it has not its columns:
        they have other names in another version of the table.
        """
        if self.is_keyless or change.op is Op.TRUNCATE:
            return change
        old = None if change.before is None else self._key(change.before)
        key = old if change.row is None else self._key(change.row)
        if key is None or (change.before is not None and old is None):
            rows = [row for row in (change.before, change.row) if row is not None]
            if any(not _fields.decode(row).keys() >= set(self._names) for row in rows):
                raise UnknownColumnError
            raise _not_told(change, self._table)
        return change._replace(key=key, old_key=old if old != key else None)

    def _key(self, row: bytes) -> bytes | None:
        """The row's key as raw JSON; None where it lacks a column, or holds none of its values."""
        values = self._values(row)
        return None if _NULL in values else msgspec.json.encode(dict(zip(self._names, values, strict=True)))

    def _values(self, row: bytes) -> tuple[msgspec.Raw, ...]:
        if self._decoder is not None:
            return msgspec.structs.astuple(self._decoder.decode(row))
        fields = _fields.decode(row)
        return tuple(fields.get(name, _NULL) for name in self._names)


def _not_told(change: Change, table: Table) -> RecordError:
    return RecordError(
        f"The record at {change.partition} offset {change.offset} does not hold the key of {table.id} "
        f"({', '.join(table.primary_key)}).",
        remedy="See whether its REPLICA IDENTITY was changed on the source: run deltasync source setup again.",
    )
