"""The replica in memory, for scenarios."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.property.source import Row

from deltasync.change import Partition
from deltasync.progress import Claim, Progress
from deltasync.replica.memory import Database, Replica
from deltasync.replica.memory_table import Foreign, MemoryTable, OperationalError, Unique
from deltasync.table import Table, TableId


class MemoryStore:
    """See `store.Store`."""

    pipeline = "p"
    waits_for_locks = False

    def __init__(self) -> None:
        self._database = Database()

    def session(self, at: Callable[[str], object] = lambda _place: None, *, ordered: bool = False) -> Replica:
        return Replica(self._database, at, ordered=ordered)

    def fail(self) -> Exception:
        return OperationalError("57P01")

    def end(self, session: object) -> None:
        if isinstance(session, Replica):
            session.end()

    def rows(self, table: str, columns: Sequence[str]) -> list[Row]:
        found = self._database.tables.get(TableId("deltasync" if table == "source_canary" else "shop", table))
        return [{column: row[column] for column in columns} for row in found.rows.values()] if found else []

    def columns(self, table: str) -> dict[str, str]:
        found = self._database.tables.get(TableId("shop", table))
        return {column.name: column.sql_type for column in found.table.columns} if found else {}

    def ledger(self) -> dict[Partition, Progress]:
        return {p: next(reversed(of_topic.values())) for p, of_topic in self._database.ledger.items()}

    def place(self, partition: Partition, topic_id: str, offset: int) -> None:
        self._database.place(partition, Claim(topic_id, Progress(offset)), "a test")

    def accept(self, reason: str) -> None:
        self._database.accept(reason)

    def told(self) -> list[str]:
        found = (self._database.refused, self._database.doubt, *self._database.missing.values())
        return [what for what in found if what is not None]

    def constrain(self, table: Table, unique: Unique) -> None:
        self._database.tables[table.id] = MemoryTable(table, unique=unique)

    def held(self) -> set[str]:
        return {id_.name for id_, table in self._database.source_tables.items() if table.held is not None}

    def refit(self, table: Table) -> None:
        self._database.refit(table)

    def mend(self, table: Table, before: Row, after: Row) -> None:
        self._database.tables[table.id].mend(before, after)

    def relate(self, foreign: Foreign) -> None:
        self._database.foreign.append(foreign)

    def close(self) -> None:
        """Nothing is open."""
