"""A replica in memory: tables, the ledger and its fence, transactions. The reference for `replica/session.py`.

A transaction does all of its work at its end, at once; what can go wrong on the way is up to `at`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial

from deltasync.canary import Beat, Judgement, judge, refusal
from deltasync.change import Partition
from deltasync.debezium.schema_log import SchemaEvent
from deltasync.errors import FencedError, GapError, RecordError, RefusedError, SourceError
from deltasync.parking import Letter, Parked, Void
from deltasync.plan import TablePlan
from deltasync.policy import Ddl
from deltasync.ports import Batch, Logs, Steps, at_once
from deltasync.progress import Claim, Progress, placed
from deltasync.readable import Due
from deltasync.replica import approval, dropping, evolve
from deltasync.replica.constraints import parents_first
from deltasync.replica.ledger import added, fenced, recreated
from deltasync.replica.memory_evolve import advance, followed, names
from deltasync.replica.memory_table import (
    Foreign,
    MemoryTable,
    NotUniqueError,
    OperationalError,
    Row,
    check,
    constraints_of,
)
from deltasync.replica.misfit import misfit
from deltasync.replica.tables import CANARY
from deltasync.table import SourceTable, Table, TableId

_DDL = Ddl()


class Database:
    """What outlives sessions. `source_tables`, `tables` and the ledger may be read at any time."""

    def __init__(self) -> None:
        self.tables: dict[TableId, MemoryTable] = {CANARY.id: MemoryTable(CANARY)}
        self.source_tables: dict[TableId, SourceTable] = {}
        self.ledger: dict[Partition, dict[str, Progress]] = {}
        self.audit: list[Partition] = []
        self.letters: list[tuple[str, Letter]] = []  # with their topics' ids
        self.locks: dict[Partition, Replica] = {}
        self.foreign: list[Foreign] = []
        self.refused: str | None = None
        self.doubt: str | None = None
        self.missing: dict[TableId, str] = {}

    def place(self, partition: Partition, to: Claim, reason: str) -> None:
        """Move the ledger by hand (see `by_hand.place`)."""
        if not reason.strip():
            raise RefusedError("The ledger is not moved without a reason.", remedy="Say why: --reason TEXT.")
        of_topic = self.ledger.setdefault(partition, {})
        before = of_topic.pop(to.topic_id, None) or Progress(to.progress.next_offset)
        of_topic[to.topic_id] = placed(before, to.progress.next_offset)
        self.audit.append(partition)

    def read_anew(self, id_: TableId, to: Mapping[Partition, Claim]) -> None:
        """Go on from there with a table that was read again (see `resync.target.Target.advance`)."""
        for partition, claim in to.items():
            of_topic = self.ledger.setdefault(partition, {})
            before = of_topic.get(claim.topic_id)
            if before is None or before.next_offset != claim.progress.next_offset:
                of_topic[claim.topic_id] = claim.progress
            self.audit.append(partition)
        self.letters = [(topic_id, letter) for topic_id, letter in self.letters if letter.table != id_]
        self.missing.pop(id_, None)
        self.source_tables[id_] = self.source_tables[id_]._replace(complete=True)

    def accept(self, reason: str) -> None:
        """Go on with the source as it is (see `identity.accept`)."""
        if not reason.strip():
            raise RefusedError("A source is not accepted without a reason.", remedy="Say why: --reason TEXT.")
        if not (self.refused or self.doubt or self.missing):
            raise RefusedError("There is nothing to accept.", remedy="")
        for id_ in self.missing:
            self.source_tables[id_] = self.source_tables[id_]._replace(complete=True)
        self.missing, self.doubt = {}, None
        if self.refused is not None:
            self.refused = None
            self.tables[CANARY.id] = MemoryTable(CANARY)
            for partition, of_topic in self.ledger.items():
                topic_id, progress = next(reversed(of_topic.items()))
                self.place(partition, Claim(topic_id, Progress(progress.next_offset)), reason)

    def judge(self, beats: Sequence[Beat]) -> Judgement:
        """What beats tell beside the newest one applied."""
        rows = self.tables[CANARY.id].rows.values()
        known = next((_beat(row) for row in rows if beats and row["pipeline"] == beats[0].pipeline), None)
        return judge(known, beats)

    def note(self, told: Judgement) -> None:
        """Write down what beats told (see `identity.note`)."""
        self.refused, self.doubt = told.refused or self.refused, told.doubt or self.doubt
        for id_, table in self.source_tables.items() if told.hole else ():
            if table.captured and not table.dropped and (table.complete or id_ in self.missing):
                self.missing[id_] = f"{self.missing.get(id_, '')} {told.hole}".strip()
                self.source_tables[id_] = table._replace(complete=False)

    def drop(self, id_: TableId, known: SourceTable, logs: Logs) -> SourceTable:
        """Carry out the drop of a table (see `dropping.drop`)."""
        self.tables.pop(id_, None)
        self.letters = [(topic_id, letter) for topic_id, letter in self.letters if letter.table != id_]
        every = {p: of_topic for p, of_topic in self.ledger.items() if p.topic.endswith(f".{id_}")}
        claims = {p: [Claim(topic_id, found[topic_id]) for topic_id in found] for p, found in every.items()}
        early = dropping.early_logs(claims, known.pending[0], logs)
        for partition, log in early.items():
            every[partition][log.topic_id] = Progress(log.start_offset)
        self.audit += claims
        return dropping.gone(known, known.pending[0], early.values())

    def refit(self, table: Table) -> None:
        """Make a table what the source's is, by hand, and release it (see `setup._refit`)."""
        known = self.source_tables.get(table.id)
        old = known.description if known is not None else None
        self.tables[table.id] = self.tables[table.id].changed(table, names(old or table, table))
        if known is not None:
            self.source_tables[table.id] = evolve.released(known._replace(description=known.newest, pending=()))

    def approve(self, id_: TableId, ddl: Ddl) -> None:
        """Have all that is pending of a table applied (see `approval.approve`)."""
        table = self.source_tables.get(id_)
        if table is None or not (table.held or table.pending):
            raise RefusedError(f"Nothing of {id_} waits.", remedy="")
        approval.refuse(id_, table, ddl, is_spread=any(p.topic.endswith(f".{id_}") and p.number for p in self.ledger))
        self.source_tables[id_] = advance(self.tables, approval.approved(table), ddl)


class Replica:
    """A session (see `ports.Replica`).

    `at` is called with the name of each place where a transaction can fail: "begin", "fenced" (its locks are
    held, nothing is written), "committed" (all is written, the answer is on its way). What it raises, happens.
    Foreign keys are checked with `ordered` only. `ddl` says what becomes of changes of tables.
    """

    def __init__(
        self,
        database: Database,
        at: Callable[[str], object] = lambda _place: None,
        *,
        ordered: bool = False,
        ddl: Ddl = _DDL,
    ) -> None:
        self._database = database
        self._at = at
        self._foreign = database.foreign if ordered else ()
        self._ddl = ddl
        self._ended = False

    def open(self, ids: Mapping[Partition, str]) -> dict[Partition, Progress | GapError | SourceError]:
        self._begin()
        known = {(p.topic, id_) for p, of_topic in self._database.ledger.items() for id_ in of_topic}
        opened = {partition: self._open(partition, topic_id, known) for partition, topic_id in ids.items()}
        if self._database.refused is not None:
            return dict.fromkeys(ids, refusal(self._database.refused))
        return {**opened}

    def parked(self, ids: Mapping[Partition, str]) -> dict[Partition, Parked]:
        self._begin()
        found: dict[Partition, Parked] = {}
        for topic_id, letter in self._database.letters:
            partition = letter.record.partition
            if ids.get(partition) == topic_id:
                found[partition] = found.get(partition, Parked()).with_letter(letter)
        return found

    def sets_aside(self) -> bool:
        self._begin()
        return bool(self._database.letters)

    def settled(self) -> int:
        self._begin()
        rows = self._database.tables[CANARY.id].rows.values()
        return max((int(row["settled_xid"] or 0) for row in rows), default=0)

    def tables(self) -> dict[TableId, SourceTable]:
        self._begin()
        return dict(self._database.source_tables)

    def moved_since(self, audited: int) -> tuple[int, set[Partition]]:
        self._begin()
        return len(self._database.audit), set(self._database.audit[audited:])

    def apply(self, batch: Batch) -> int:
        self._begin()
        try:
            self._fence(batch.claims)
            self._at("fenced")
            if self._ended:
                raise OperationalError("25P03")
            written = self._commit(batch)
        finally:
            self.close()
        self._at("committed")
        return written

    def carry_out(self, due: Due, claims: Mapping[Partition, Claim], logs: Logs) -> bool:
        self._begin()
        try:
            self._fence({} if due.drops else claims)
            self._at("fenced")
            if self._ended:
                raise OperationalError("25P03")
            known = self._database.source_tables.get(due.table)
            if known is not None and known.pending and known.pending[0].log_id == due.log_id:
                if due.drops:
                    known = self._database.drop(due.table, known, logs)
                after = advance(self._database.tables, known, self._ddl, claims.values())
                self._database.source_tables[due.table] = after
        finally:
            self.close()
        self._at("committed")
        return True

    def replay(self, plans: Sequence[TablePlan], places: Collection[tuple[Partition, int]]) -> None:
        """Do by hand what the letters of these records say (see `deltasync.replay`), and tell their workers."""
        partitions = {partition for partition, _ in places}
        if any(self._database.locks.get(partition, self) is not self for partition in partitions):
            raise OperationalError("55P03")
        tables = dict(self._database.tables)
        self._write(tables, plans)
        for foreign in self._foreign:
            check(foreign, tables)
        self._database.tables = tables
        left = [
            (id_, one) for id_, one in self._database.letters if (one.record.partition, one.record.offset) not in places
        ]
        self._database.letters = left
        self._database.audit += partitions

    def start(self, batch: Batch) -> Callable[[], int]:
        """Apply a batch at once."""
        return at_once(partial(self.apply, batch))

    def cancel(self) -> None:
        """Nothing runs for long."""

    def close(self) -> None:
        self._ended = False
        for partition in [p for p, holder in self._database.locks.items() if holder is self]:
            del self._database.locks[partition]

    def end(self) -> None:
        """End the transaction that is under way, as the server does with one that idles: its session learns later."""
        self.close()
        self._ended = True

    def _begin(self) -> None:
        self._ended = False
        self._at("begin")

    def _open(self, partition: Partition, topic_id: str, known: Collection[tuple[str, str]]) -> Progress | GapError:
        """Open it; `known` are the topics that the ledger knew before, with their ids."""
        of_topic = self._database.ledger.get(partition)
        if of_topic is None and (partition.topic, topic_id) in known:
            return added(partition)
        if of_topic is None and partition.topic not in {topic for topic, _ in known}:
            of_topic = self._database.ledger[partition] = {topic_id: Progress()}
        return (of_topic or {}).get(topic_id) or recreated(partition)

    def _fence(self, claims: Mapping[Partition, Claim]) -> None:
        for partition, claim in claims.items():
            if self._database.locks.setdefault(partition, self) is not self:
                raise OperationalError("55P03")
            found = self._database.ledger.get(partition, {}).get(claim.topic_id)
            if found is None or found[:2] != claim.progress[:2]:
                raise fenced(partition, found and found[:2], claim)
        if self._database.refused is not None:
            raise FencedError(self._database.refused, remedy="")

    def _commit(self, batch: Batch) -> int:
        """All or nothing: what may raise comes before what is kept."""
        told = self._database.judge(batch.beats)
        if told.refused is not None:
            self._database.note(told)
            raise FencedError(told.refused, remedy="")
        tables = dict(self._database.tables)
        source_tables = self._evolved(tables, batch.events)
        count = self._write(tables, batch.plans)
        for plans in batch.rest or ():
            count += self._write_step(tables, plans, batch.rest)
        for foreign in self._foreign:
            check(foreign, tables)
        letters = self._set_aside(batch)
        self._database.tables, self._database.source_tables = tables, source_tables
        self._database.letters = letters
        self._database.note(told)
        for partition, progress in batch.to.items():
            self._database.ledger[partition][batch.claims[partition].topic_id] = progress
        return count

    def _set_aside(self, batch: Batch) -> list[tuple[str, Letter]]:
        found = self._database.letters
        for partition in {letter.record.partition for letter in batch.letters}:
            topic_id = batch.claims[partition].topic_id
            there = sum(id_ == topic_id and one.record.partition == partition for id_, one in found)
            if there != batch.parked.get(partition, 0):
                raise FencedError(f"{there} records of {partition} are set aside.", remedy="They are read again.")
        known = {(topic_id, one.record.partition, one.record.offset) for topic_id, one in found}
        added = [(batch.claims[one.record.partition].topic_id, one) for one in batch.letters]
        found = found + [
            (id_, one) for id_, one in added if (id_, one.record.partition, one.record.offset) not in known
        ]
        return [(topic_id, one) for topic_id, one in found if not any(map(partial(_is_void, one), batch.voids))]

    def _write_step(self, tables: dict[TableId, MemoryTable], plans: Sequence[TablePlan], steps: Steps | None) -> int:
        """Write a step, or as many together as it takes for unique values to find room."""
        while True:
            after = dict(tables)
            try:
                count = self._write(after, plans)
            except NotUniqueError:
                longer = steps.longer() if steps else None
                if longer is None:
                    raise
                plans = longer
            else:
                tables.update(after)
                return count

    def _write(self, tables: dict[TableId, MemoryTable], plans: Iterable[TablePlan]) -> int:
        """Carry out plans in the order of `Writer.write`, looking at foreign keys behind each statement."""
        found = {plan.table.id: _fitting(tables, plan).complete(plan) for plan in plans}
        tables.update({id_: tables[id_].copied() for id_ in found})
        order = list(found)
        late: list[TableId] = []
        if self._foreign:
            order = parents_first(found, constraints_of(self._foreign))
            referenced = {one.parent for one in self._foreign}
            late = [id_ for id_ in order if id_ in referenced and tables[id_].may_empty_last(found[id_])]
        count = 0

        def do(act: Callable[[MemoryTable, TablePlan], int], ids: Iterable[TableId]) -> None:
            nonlocal count
            for id_ in ids:
                count += act(tables[id_], found[id_])
                for foreign in self._foreign:
                    if foreign.acts or not foreign.deferrable:
                        check(foreign, tables)

        soon = [id_ for id_ in reversed(order) if id_ not in late]
        do(MemoryTable.empty, soon)
        do(MemoryTable.delete, soon)
        do(MemoryTable.put, order)
        do(MemoryTable.delete_last, reversed(late))
        return count

    def _evolved(self, tables: dict[TableId, MemoryTable], events: Iterable[SchemaEvent]) -> dict[TableId, SourceTable]:
        known = dict(self._database.source_tables)
        for event in events:
            for id_, table in evolve.fold([event], known, self._ddl.policy).items():
                known[id_] = followed(tables, table, known.get(id_), self._ddl)
        return known


def _is_void(letter: Letter, by: Void) -> bool:
    record = letter.record
    return (record.partition, letter.table) == (by.partition, by.table) and record.offset < by.offset


def _beat(row: Row) -> Beat:
    at = datetime.fromisoformat(row["beat_at"] or "")
    return Beat(
        row["pipeline"] or "", int(row["beat"] or 0), at, row["system_identifier"] or "", int(row["timeline"] or 0)
    )


def _fitting(tables: Mapping[TableId, MemoryTable], plan: TablePlan) -> MemoryTable:
    found = tables.get(plan.table.id)
    if found is None:
        raise RecordError(f"The table {plan.table.id} is not on the replica.", remedy="Run replica setup.")
    error = misfit(plan.table, found.table)
    if error is not None:
        raise error
    return found
