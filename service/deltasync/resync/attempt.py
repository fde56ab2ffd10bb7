"""One try at one table: the order of steps in which it is read again, whoever the source, Kafka and the replica are.

    ledger, ends of the logs ─▶ running transactions end ─▶ snapshot ─▶ COPY into the shadow ─▶ the slot is behind it
      ─▶ read on from the ledger, leaving out what the snapshot holds ─▶ compare ─▶ lock the ledger, read up to it
      ─▶ differences, among the rows that differed and those that were written since

Nothing of the live table is changed before the last step, which is one transaction with the ledger: then the table
holds all before the ledger's offsets, as always, and all that the snapshot held is before them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from deltasync.change import Log, Partition, Record
from deltasync.compact import compact
from deltasync.debezium.rows import Rows
from deltasync.errors import GapError, RefusedError
from deltasync.plan import StaleDescriptionError, TablePlan, plan
from deltasync.progress import Claim
from deltasync.readable import Tables, stale
from deltasync.replica.changes import renames
from deltasync.replica.difference import Difference
from deltasync.replica.misfit import misfit
from deltasync.resync import shadow
from deltasync.resync.snapshot import Snapshot
from deltasync.resync.stream import ChangedError, Seen, Stream, begin, behind, ends, within
from deltasync.table import SourceTable, Table, TableId

# So long is waited for records at a time.
_POLL_S = 0.2


class Origin(Protocol):
    """The source in a snapshot; `table` is the description there, None where it is gone."""

    @property
    def snapshot(self) -> Snapshot: ...

    @property
    def table(self) -> Table | None: ...

    def copy(self, columns: tuple[str, ...]) -> Iterable[bytes]:
        """The table's rows as the replica takes them, one by one."""


class Source(Protocol):
    """Where the table comes from."""

    def opened(self) -> AbstractContextManager[Origin]:
        """The source in a snapshot that shows every transaction whose commit was in its log before the call."""

    def wait_for_kafka(self) -> None:
        """Return when Kafka holds all that was committed before the call. Raises UnreachableError in the end."""

    def complete(self, log_id: int) -> None:
        """Write down that nothing is owed of the table, up to this entry of the schema log."""


class Kafka(Protocol):
    """The table's topic, read apart from the group (see `kafka.reader.Reader`)."""

    def logs(self) -> dict[Partition, Log]: ...

    def add(self, offsets: Mapping[Partition, int]) -> None: ...

    def has_reached(self, offsets: Mapping[Partition, int]) -> bool: ...

    def read(self, rows_max: int, wait_s: float) -> list[Record]: ...


class Target(Protocol):
    """The replica: the table, the ledger, and the shadow that only this try uses."""

    name: str  # the shadow's

    def known(self) -> tuple[dict[TableId, SourceTable], Table | None]:
        """What is known of the source's tables, and the table as the replica has it."""

    def claims(self) -> dict[Partition, Claim]: ...

    def fill(self, target: Table, wanted: Table, rows: Iterable[bytes]) -> int:
        """Make the shadow anew, and fill it; returns how many rows there are."""

    def write(self, plans: Iterable[TablePlan], keys: Iterable[Rows]) -> None:
        """Carry out plans on the shadow, inside `locked` in its transaction; rows of these keys may differ by now."""

    def compare(self, wanted: Table) -> None:
        """Find which rows differ, while others write to the table."""

    def moved(self) -> set[Partition]:
        """The partitions that were moved by hand since `claims` were asked for, or of which records were replayed."""

    def locked(self, target: Table) -> AbstractContextManager[Mapping[Partition, Sequence[Claim]]]:
        """A transaction that has the ledger's rows of the topic, which it tells, and the table: nobody writes to it."""

    def make_equal(self, target: Table, wanted: Table) -> Difference:
        """Write what differs among the rows that did, and those of the keys that were written; inside `locked`."""

    def advance(self, to: Mapping[Partition, Claim]) -> None:
        """Move the ledger, tell the worker, and end what was set aside and owed of the table, inside `locked`."""

    def rollback(self) -> None:
        """Have `locked` write nothing."""


class Job(NamedTuple):
    """How a table is read: so many records at a time; `tell` hears what is done. With `dry_run` nothing is written."""

    table: TableId
    rows_max: int
    placeholder: str
    raw_text: bool
    canary: Table
    dry_run: bool = False
    tell: Callable[[str], None] = lambda _doing: None


class Attempt:
    """One try at one table."""

    def __init__(self, job: Job, source: Source, kafka: Kafka, target: Target) -> None:
        self._job, self._id = job, job.table
        self._source, self._kafka, self._target = source, kafka, target
        self._read: dict[Partition, Log] = {}
        self._tables: Tables
        self._stream: Stream

    def run(self) -> tuple[int, Difference]:
        """Read the table again, and write what differs; returns how many rows the source has, and what that was.

        Raises ChangedError where the table is not what it was at the start any more: begin again.
        """
        known, description, target = self._known()
        wanted = shadow.like(target, description, self._target.name)
        claims, logs = self._target.claims(), self._kafka.logs()
        source_rows, seen = self._copy(description, target, wanted, ends(logs))
        self._stream = Stream(self._tables, seen)
        self._read_from(claims, logs)
        self._job.tell(f"{self._id}: waiting until Kafka holds what the snapshot does")
        self._source.wait_for_kafka()  # then the worker meets nothing of it behind the merge
        self._job.tell(f"{self._id}: reading on from where the ledger is")
        self._catch_up(wanted)
        self._job.tell(f"{self._id}: comparing")
        self._target.compare(wanted)
        self._job.tell(f"{self._id}: writing what differs")
        while (found := self._merge(known, target, wanted)) is None:
            self._catch_up(wanted)
        if not (known.complete or self._job.dry_run):
            self._source.complete(known.log_id)
        return source_rows, found

    def _known(self) -> tuple[SourceTable, Table, Table]:
        """What is known of the table, as the source announced it, and as the replica has it.

        Raises RefusedError where they do not fit, ChangedError where it is not known yet.
        """
        tables, target = self._target.known()
        self._tables = Tables(tables, self._job.canary, self._job.placeholder, raw_text=self._job.raw_text)
        known = tables.get(self._id)
        if known is None or known.description is None or not known.captured or target is None:
            raise ChangedError(_unknown(self._id))
        error = misfit(known.description, target)
        if known.held is not None or error is not None:
            why = known.held or (error and error.what.removesuffix("."))
            raise RefusedError(
                f"The replica's table {self._id} does not fit the source's: {why}.",
                remedy="Make it fit, then run deltasync replica setup.",
            )
        return known, known.description, target

    def _copy(
        self, description: Table, target: Table, wanted: Table, held: Mapping[Partition, int]
    ) -> tuple[int, Seen]:
        """Fill the shadow with the source's rows."""
        with self._source.opened() as source:
            if source.table is None or not _is_described(source.table, description):
                raise ChangedError(_changed(self._id))
            self._job.tell(f"{self._id}: reading rows")
            count = self._target.fill(target, wanted, source.copy(tuple(column.name for column in wanted.columns)))
            return count, Seen(source.snapshot, held)

    def _read_from(self, claims: Mapping[Partition, Claim], logs: Mapping[Partition, Log]) -> None:
        started = {p: begin(claims.get(p), log) for p, log in logs.items()}
        self._read |= logs
        self._stream.progress |= started
        self._kafka.add({partition: progress.next_offset for partition, progress in started.items()})

    def _logs_now(self) -> dict[Partition, Log]:
        """The topic's logs; new ones are read, too. Raises ChangedError where it is another topic."""
        logs = self._kafka.logs()
        if any(p not in logs or logs[p].topic_id != known.topic_id for p, known in self._read.items()):
            raise ChangedError(_changed(self._id))
        self._read_from({}, {p: log for p, log in logs.items() if p not in self._read})
        return logs

    def _catch_up(self, wanted: Table) -> None:
        """Bring the shadow up to where the logs end now, batch by batch."""
        to = ends(self._logs_now())
        while not self._kafka.has_reached(to):
            self._follow(wanted)

    def _follow(self, wanted: Table) -> None:
        """Apply a batch to the shadow."""
        try:
            changes = self._stream.take(self._kafka.read(self._job.rows_max, _POLL_S))
            plans = plan(compact(changes, self._tables.decoders), self._tables.decoders)
        except GapError as error:
            raise ChangedError(error) from None
        except StaleDescriptionError as error:
            raise ChangedError(stale(error.change).error) from None
        named = {"schema": wanted.schema, "name": wanted.name}
        on_shadow = [one._replace(table=replace(one.table, **named)) for one in plans]
        self._target.write(on_shadow, self._stream.keys())

    def _merge(self, known: SourceTable, target: Table, wanted: Table) -> Difference | None:
        """Write what differs and move the ledger, in one transaction; None where the ledger is far ahead of that."""
        with self._target.locked(target) as locked:
            logs = self._logs_now()
            self._refuse_changed(known, target)
            at = within(locked, logs)
            if behind(self._stream.progress, at) > self._job.rows_max:
                return None
            while not self._kafka.has_reached({p: claim.progress.next_offset for p, claim in at.items()}):
                self._follow(wanted)
            found = self._target.make_equal(target, wanted)
            self._target.advance(self._moved(at))
            if self._job.dry_run:
                self._target.rollback()
        return found

    def _refuse_changed(self, known: SourceTable, target: Table) -> None:
        """Raises ChangedError where the table is another one than the shadow was made for, or rows came unseen."""
        if self._target.moved() & self._read.keys():
            raise ChangedError(_moved_by_hand(self._id))
        tables, now = self._target.known()
        if tables.get(self._id) != known or now != target:
            raise ChangedError(_changed(self._id))

    def _moved(self, at: Mapping[Partition, Claim]) -> dict[Partition, Claim]:
        """Where the worker goes on: behind what was read here, or from where it is, also where it had stopped."""
        here = {p: Claim(self._read[p].topic_id, progress) for p, progress in self._stream.progress.items()}
        return {p: max(c, at.get(p, c), key=lambda claim: claim.progress.next_offset) for p, c in here.items()}


def _is_described(found: Table, description: Table) -> bool:
    """True where the table is what its description says: rows, their order in COPY, and which column a name means."""
    return _shape(found) == _shape(description) and not renames(description, found)


def _shape(table: Table) -> object:
    return table.primary_key, {column.name: column.sql_type for column in table.stored_columns}


def _unknown(table: TableId) -> RefusedError:
    return RefusedError(
        f"The replica does not know the table {table} yet.",
        remedy="Its announcement is on its way, if the connector and `deltasync run` run.",
    )


def _moved_by_hand(table: TableId) -> RefusedError:
    return RefusedError(
        f"The ledger of {table} was moved by hand meanwhile, or records of it were replayed.",
        remedy="Read the table again.",
    )


def _changed(table: TableId) -> RefusedError:
    return RefusedError(
        f"The table {table} on the source, or its topic, is not what the replica knows of it.",
        remedy="See `deltasync check`; once its change has come, read the table again.",
    )
