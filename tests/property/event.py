"""What the simulated source's log holds, and what becomes of a table that is altered."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from tests.property.kinds import CTID, Row, Shape

from deltasync.table import TableId

Key = tuple[str, Hashable]
END = "END"


class Reshaped(NamedTuple):
    """What becomes of a table and its rows: what columns are called now that it keeps, and what new ones hold."""

    shape: Shape
    names: Mapping[str, str]
    values: Mapping[str, str | None] = MappingProxyType({})

    def row(self, row: Row) -> Row:
        return {self.names.get(name, name): row[name] for name in row if name in {CTID, *self.names}} | dict(
            self.values
        )


class Event(NamedTuple):
    """One change in the order of the stream: `key` and `after` are JSON.

    `lacks` tells that values did not travel, `moves` that the row goes on under another key, `takes` which unique
    values the row has then, `together` that it does not fit in without the next ones. `order` is the change's number in
    its transaction. Where the end of each one is told, that is an event as well, with the op END. `was` and `now` are
    the row before and after it, `number` its transaction's in the order of their first changes.
    """

    transaction: int
    lsn: int
    committed_us: int
    table: TableId
    op: str
    key: bytes | None
    after: str | None
    lacks: bool = False
    moves: bool = False
    takes: tuple[Hashable, ...] = ()
    together: bool = False
    before: str | None = None
    order: int = 0
    was: Row | None = None
    now: Row | None = None
    number: int = 0
