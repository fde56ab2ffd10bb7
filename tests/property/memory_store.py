"""The replica in memory, for scenarios."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from tests.property.connector import Connector
from tests.property.kinds import PLACEHOLDER, Row
from tests.property.resync import Resync
from tests.property.source import Source

from deltasync.change import Partition
from deltasync.debezium.rows import RowDecoder, Rows
from deltasync.failure import Verdict, is_to_blame, lacks_room, verdict
from deltasync.kafka.memory import Broker
from deltasync.parking import Letter
from deltasync.plan import TablePlan
from deltasync.policy import Ddl
from deltasync.progress import Claim, Progress
from deltasync.readable import Tables
from deltasync.replay import Queue, plans_of, queues
from deltasync.replica.dead_letters import Stored
from deltasync.replica.memory import Database, Replica
from deltasync.replica.memory_table import Foreign, MemoryTable, OperationalError, Unique, value_of
from deltasync.replica.tables import CANARY
from deltasync.table import Column, Table, TableId

_DDL = Ddl()


class MemoryStore:
    """See `store.Store`."""

    pipeline = "p"
    waits_for_locks = False

    def __init__(self) -> None:
        self._database = Database()

    def session(
        self, at: Callable[[str], object] = lambda _place: None, *, ordered: bool = False, ddl: Ddl = _DDL
    ) -> Replica:
        return Replica(self._database, at, ordered=ordered, ddl=ddl)

    def approve(self, table: TableId, ddl: Ddl) -> None:
        self._database.approve(table, ddl)

    def fill(self, table: Table, rows: Iterable[Row]) -> None:
        self._database.tables[table.id].fill(rows)

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

    def pending(self) -> set[str]:
        return {id_.name for id_, table in self._database.source_tables.items() if table.pending}

    def refit(self, table: Table) -> None:
        self._database.refit(table)

    def mend(self, table: Table, before: Row, after: Row) -> None:
        self._database.tables[table.id].mend(before, after)

    def relate(self, foreign: Foreign) -> None:
        self._database.foreign.append(foreign)

    def resync(self, source: Source, connector: Connector, broker: Broker, at: Callable[[str], object]) -> Resync:
        return Resync(source, connector, broker, self._database, at)

    def refuse(self, table: Table, column: str, text: str) -> None:
        found = self._database.tables[table.id]
        found.refused |= {(column, text)}

    def admit(self) -> None:
        for table in self._database.tables.values():
            table.refused = frozenset()

    def letters(self) -> list[Letter]:
        return [letter for _, letter in self._database.letters]

    def replay(self, *, ordered: bool) -> None:
        crowded: dict[TableId, list[Queue]] = {}
        for queue in self._queues():
            if lacks_room(self._replay([queue], ordered=ordered)):
                crowded.setdefault(queue.table, []).append(queue)
        for together in crowded.values():
            self._replay(together, ordered=ordered)

    def _replay(self, found: Sequence[Queue], *, ordered: bool) -> BaseException:
        """See `deltasync.replay._replay`. Returns why not, where it is refused."""
        places = {(one.letter.record.partition, one.letter.record.offset) for queue in found for one in queue.letters}
        try:
            Replica(self._database, ordered=ordered).replay(plans_of(found, self._tables()), places)
        except Exception as error:
            if not is_to_blame(error) and verdict(error) is not Verdict.RETRY:  # its worker is at it just now
                raise
            return error
        return OperationalError()

    def read_anew(self, rows: Callable[[str], Iterable[Row]]) -> None:
        for queue in self._queues():
            (places,) = [{(queue.partition, one.letter.record.offset) for one in queue.letters}]
            decoder = self._tables().decoder(queue.table)
            columns = tuple(column.name for column in decoder.table.columns)
            if any(name not in row for row in rows(queue.table.name) for name in decoder.table.primary_key):
                continue  # it has other names on the source by now
            there = [row for row in rows(queue.table.name) if _is_one(decoder, row, queue)]
            upserts = [Rows(columns, [[row.get(name) for row in there] for name in columns])] if there else []
            plan = TablePlan(
                decoder.table, truncate=False, deletes=decoder.keys(queue.keys), upserts=upserts, updates=[], moves=[]
            )
            Replica(self._database).replay([plan], places)

    def _queues(self) -> list[Queue]:
        letters = sorted(self.letters(), key=lambda letter: (letter.record.partition, letter.record.offset))
        return queues((Stored(id_, letter, 0) for id_, letter in enumerate(letters)), self._tables())

    def _tables(self) -> Tables:
        return Tables(self._database.source_tables, CANARY, PLACEHOLDER, raw_text=False)

    def close(self) -> None:
        """Nothing is open."""


def _is_one(decoder: RowDecoder, row: Row, queue: Queue) -> bool:
    """True for the row of these letters, under any of its keys."""
    keys = decoder.keys(queue.keys)
    numeric = [decoder.table.column(name) for name in keys.columns]
    wanted = {_equal(values, numeric) for values in zip(*keys.values, strict=True)}
    return _equal([row[name] for name in keys.columns], numeric) in wanted


def _equal(values: Iterable[str | None], columns: Iterable[Column | None]) -> tuple[Hashable, ...]:
    found = zip(values, columns, strict=True)
    return tuple(value_of(text) if column and column.type.name == "numeric" else text for text, column in found)
