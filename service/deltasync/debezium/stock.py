"""Records of a table from before Connect had the raw-text converter, put into the form that it would have given them.

They stay in the topics when the converter is switched on. A value that stock Debezium loses has no such form.
"""

from __future__ import annotations

from typing import Any

import msgspec

from deltasync.change import Change
from deltasync.debezium.values import Codec, codec, is_converted
from deltasync.errors import RecordError
from deltasync.table import Column, Table

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class StockForm:
    """The values of one table that come in another form since the converter is there; false where there are none."""

    def __init__(self, table: Table, placeholder: str) -> None:
        self._table = table
        self._placeholder = placeholder
        self._columns = [column for column in table.stored_columns if is_converted(column)]
        self._codecs = {column.name: codec(column, placeholder, raw_text=False) for column in self._columns}
        self._key = [column for column in self._columns if column.name in table.primary_key]

    def __bool__(self) -> bool:
        return bool(self._columns)

    def converted(self, change: Change) -> Change:
        """The change with its keys and rows in the converter's form.

        Raises RecordError (without the value) where stock Debezium does not carry a column exactly, absent
        ones included: it leaves some types out. Reads none but the columns at stake.
        """
        row = change.row and self._restated(change, change.row, self._columns)
        before = change.before
        if before is not None and change.run is not None:  # else it need not hold all columns, and nobody asks
            before = self._restated(change, before, self._columns)
        key, old_key = (
            self._restated(change, raw, self._key) if raw is not None and self._key else raw
            for raw in (change.key, change.old_key)
        )
        return change._replace(row=row, before=before, key=key, old_key=old_key)

    def _restated(self, change: Change, raw: bytes, columns: list[Column]) -> bytes:
        try:
            fields: dict[str, Any] = _fields.decode(raw)
        except (ValueError, RecursionError):
            raise self._lost(change, columns[0], "it is not Debezium's JSON") from None
        for column in columns:
            known = self._codecs[column.name]
            if known is None:
                raise self._lost(change, column, "stock Debezium loses values of this type")
            if column.name in fields:
                try:
                    fields[column.name] = self._text(known, fields[column.name])
                except ValueError as error:
                    raise self._lost(change, column, _harmless(error)) from None
        return msgspec.json.encode(fields)

    def _text(self, known: Codec, raw: msgspec.Raw) -> str | None:
        if bytes(raw) == b"null":
            return None
        value = msgspec.json.decode(raw, type=known.json_type)
        if value == known.unavailable:
            return self._placeholder
        return value if known.convert is None else known.convert(value)

    def _lost(self, change: Change, column: Column, why: str) -> RecordError:
        topic, number = change.partition
        return RecordError(
            f"A record of {self._table.id} is from before Connect had the raw-text converter, and the column "
            f"{column.name} ({column.sql_type}) cannot be told exactly from it: {why} ({topic}[{number}] offset "
            f"{change.offset}).",
            remedy=(
                "Have the row sent again: let it change on the source now that the converter is there, then step over "
                f"this record: deltasync ledger set {topic} {number} {change.offset + 1} --reason …"
            ),
        )


def _harmless(error: ValueError) -> str:
    return str(error) if isinstance(error, msgspec.MsgspecError) else "its value has no exact form"
