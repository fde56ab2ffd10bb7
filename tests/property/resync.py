"""`deltasync resync` of a simulated table, beside its workers and faults: the real steps, against what is in memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
from tests.property.connector import PREFIX, Connector
from tests.property.kinds import PLACEHOLDER, Row
from tests.property.source import Source

from deltasync.change import Log, Partition, Record
from deltasync.debezium.rows import Rows
from deltasync.errors import GapError, UnreachableError
from deltasync.kafka.memory import Broker
from deltasync.plan import TablePlan
from deltasync.progress import Claim
from deltasync.replica.difference import Difference
from deltasync.replica.memory import Database, Replica
from deltasync.replica.memory_table import MemoryTable
from deltasync.replica.tables import CANARY
from deltasync.resync.attempt import Attempt, Job
from deltasync.resync.snapshot import Snapshot
from deltasync.table import SourceTable, Table, TableId

# So often it looks whether what it waits for has come, by itself.
_LOOKS = 4
# Where it is then.
WAITS = "waits"

At = Callable[[str], object]


class Resync(NamedTuple):
    """Reads tables again. `at` is called wherever something else may happen meanwhile, or the command be killed."""

    source: Source
    connector: Connector
    broker: Broker
    database: Database
    at: At

    def run(self, name: str, rows_max: int) -> None:
        """Try once (see `Attempt.run`)."""
        id_ = self.source.shapes[name].table.id
        source = _Source(self.source, self.connector, name, self.at)
        target = _Target(self.database, id_, self.at)
        kafka = _Kafka(self.broker, f"{PREFIX}.{id_}", self.at)
        job = Job(id_, rows_max, PLACEHOLDER, raw_text=False, canary=CANARY)
        Attempt(job, source, kafka, target).run()


class _Origin(NamedTuple):
    snapshot: Snapshot
    table: Table
    rows: Sequence[Row]

    def copy(self, columns: tuple[str, ...]) -> Iterator[bytes]:
        for row in self.rows:
            yield msgspec.json.encode([row[name] for name in columns])


class _Source:
    """See `attempt.Source`."""

    def __init__(self, source: Source, connector: Connector, name: str, at: At) -> None:
        self._source, self._connector, self._name, self._at = source, connector, name, at

    @contextmanager
    def opened(self) -> Iterator[_Origin]:
        self._at("opens")
        self.wait_for_running()
        running, xmax = self._source.running(), self._source.draw() + 1
        snapshot = Snapshot(min(running, default=xmax), xmax, frozenset(running))
        table = self._source.described(self._name).table
        yield _Origin(snapshot, table, list(self._source.committed[self._name].values()))

    def wait_for_running(self) -> None:
        """Return when all that run now are over (see `origin.opened`)."""
        drawn = self._source.draw()
        for _ in range(_LOOKS):
            if min(self._source.running(), default=drawn) >= drawn:
                return
            self._at(WAITS)
        self._source.commit_all()  # somebody has them end

    def wait_for_kafka(self) -> None:
        sent = len(self._source.stream)
        for _ in range(_LOOKS):
            if self._connector.has_sent(sent):
                return
            self._at(WAITS)
        self._connector.release()
        self._connector.emit(len(self._source.stream))

    def complete(self, log_id: int) -> None:
        """Nothing is owed here."""


class _Kafka:
    """See `attempt.Kafka`."""

    def __init__(self, broker: Broker, topic: str, at: At) -> None:
        self._broker, self._topic, self._at = broker, topic, at
        self._reached: dict[Partition, int] = {}

    def logs(self) -> dict[Partition, Log]:
        self._ask("logs")
        partitions = [p for p in self._broker.partitions(self._topic) if p.topic == self._topic]
        return {partition: log for partition in partitions if (log := self._broker.log(partition))}

    def add(self, offsets: Mapping[Partition, int]) -> None:
        self._reached |= offsets

    def has_reached(self, offsets: Mapping[Partition, int]) -> bool:
        return all(self._reached[partition] >= offset for partition, offset in offsets.items())

    def read(self, rows_max: int, wait_s: float) -> list[Record]:  # noqa: ARG002 - nothing takes time
        self._ask("reads")
        found: list[Record] = []
        for partition, offset in self._reached.items():
            log = self._broker.log(partition)
            if log is None or log.start_offset > offset:
                raise GapError(f"{partition} does not hold {offset}.", remedy="")
            found += self._broker.records(partition, offset)[: rows_max - len(found)]
        self._reached |= {record.partition: record.offset + 1 for record in found}
        return found

    def _ask(self, what: str) -> None:
        self._at(what)
        if not self._broker.reachable:
            raise UnreachableError("The broker is down.", remedy="")


class _Target:
    """See `attempt.Target`."""

    name = "resync_table"

    def __init__(self, database: Database, id_: TableId, at: At) -> None:
        self._database, self._id, self._at = database, id_, at
        self._shadow: MemoryTable
        self._staged: MemoryTable | None = None
        self._to: Mapping[Partition, Claim] = {}
        self._suspects: set[Hashable] = set()
        self._audited = 0

    def known(self) -> tuple[dict[TableId, SourceTable], Table | None]:
        table = self._database.tables.get(self._id)
        return dict(self._database.source_tables), table.table if table is not None else None

    def claims(self) -> dict[Partition, Claim]:
        self._audited = len(self._database.audit)
        return {partition: claims[-1] for partition, claims in self._ledger().items()}

    def moved(self) -> set[Partition]:
        return set(self._database.audit[self._audited :])

    def fill(self, target: Table, wanted: Table, rows: Iterable[bytes]) -> int:  # noqa: ARG002 - see the protocol
        self._at("fills")
        names = [column.name for column in wanted.columns]
        found = [dict(zip(names, msgspec.json.decode(row), strict=True)) for row in rows]
        self._shadow = MemoryTable(wanted)
        self._shadow.fill(found)
        return len(found)

    def write(self, plans: Iterable[TablePlan], keys: Iterable[Rows]) -> None:
        self._suspects |= self._shadow.keys(keys)
        for plan in map(self._shadow.complete, plans):
            for act in (self._shadow.empty, self._shadow.delete, self._shadow.put):
                act(plan)

    def compare(self, wanted: Table) -> None:  # noqa: ARG002 - see the protocol
        here, there = self._database.tables[self._id].rows, self._shadow.rows
        both = here.keys() & there.keys()
        self._suspects |= (here.keys() | there.keys()) - {
            key for key in both if {**here[key], **there[key]} == here[key]
        }
        self._at("compared")

    @contextmanager
    def locked(self, target: Table) -> Iterator[Mapping[Partition, Sequence[Claim]]]:  # noqa: ARG002 - see the protocol
        session = Replica(self._database)
        try:
            found = self._ledger()
            self._lock(session, found)
            self._at("locked")
            yield found
            if self._staged is not None:
                self._commit(self._staged)
        finally:
            session.close()

    def make_equal(self, target: Table, wanted: Table) -> Difference:  # noqa: ARG002 - see the protocol
        here, there = self._database.tables[self._id], self._shadow.rows
        if not target.is_keyless:
            kept = {key: row for key, row in here.rows.items() if key not in self._suspects}
            there = kept | {key: row for key, row in there.items() if key in self._suspects}
        self._staged = here.replaced(there)
        return Difference()

    def advance(self, to: Mapping[Partition, Claim]) -> None:
        self._to = to

    def rollback(self) -> None:
        self._staged = None

    def _ledger(self) -> dict[Partition, list[Claim]]:
        topic = f"{PREFIX}.{self._id}"
        found = {p: of_topic for p, of_topic in self._database.ledger.items() if p.topic == topic}
        return {p: [Claim(id_, progress) for id_, progress in of_topic.items()] for p, of_topic in found.items()}

    def _lock(self, session: Replica, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            if self._database.locks.setdefault(partition, session) is not session:
                raise UnreachableError(f"{partition} is locked.", remedy="")

    def _commit(self, staged: MemoryTable) -> None:
        self._database.tables[self._id] = staged
        self._database.read_anew(self._id, self._to)
