"""`deltasync resync`: read tables again from the source, and write to the replica what differs.

    ledger, ends of the logs ─▶ running transactions end ─▶ snapshot ─▶ COPY into the shadow ─▶ the slot is behind it
      ─▶ read on from the ledger, leaving out what the snapshot holds ─▶ lock the ledger, read up to it ─▶ differences

Nothing of the live table is changed before the last step, which is one transaction with the ledger: then the table
holds all before the ledger's offsets, as always, and all that the snapshot held is before them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass

import msgspec
import psycopg
import sqlalchemy as sa
from msgspec.structs import replace

from deltasync.change import Log, Partition
from deltasync.compact import compact
from deltasync.errors import DeltasyncError, GapError, RecordError, RefusedError, UnreachableError
from deltasync.kafka.admin import Admin
from deltasync.kafka.reader import Reader
from deltasync.monitor.lag import topics
from deltasync.monitor.wait import Clock, wait_for_slot
from deltasync.plan import StaleDescriptionError, plan
from deltasync.postgres.catalog import describe_table
from deltasync.progress import Claim
from deltasync.readable import Tables, stale
from deltasync.replica import by_hand, catalog, dead_letters, ledger, statements
from deltasync.replica.dead_letters import Outcome
from deltasync.replica.difference import Difference, Suspects, make_equal
from deltasync.replica.engine import TRANSACTION_TIMEOUT_SINCE, driver, open_replica
from deltasync.replica.session import take_replica_role
from deltasync.replica.tables import CANARY
from deltasync.replica.writer import Writer, misfit
from deltasync.resync import origin, shadow
from deltasync.resync.stream import ChangedError, Seen, Stream, begin, behind, ends, within
from deltasync.settings import Settings
from deltasync.table import SourceTable, Table, TableId
from deltasync.verify.rounds import chosen

# So long a change of a table may be on its way through the schema log; one that goes on is left to a quieter hour.
_CHANGES_S_MAX = 20.0
_AGAIN_S = 1.0
_POLL_S = 0.2
# A worker's transaction ends by then.
_LOCK_S_MAX = 330


class Resynced(msgspec.Struct, frozen=True):
    """What was written to one table of the replica: rows that were missing there, surplus, or different."""

    table: str
    source_rows: int
    missing: int
    surplus: int
    different: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """How tables are read again: `reason` is kept in the ledger's audit, `tell` hears what is done."""

    reason: str = "resync"
    timeout_s: float = 300.0
    dry_run: bool = False
    tell: Callable[[str], None] = lambda _doing: None


def resync(settings: Settings, names: Collection[str], job: Job) -> Iterator[Resynced]:
    """Make these captured tables of the replica equal to the source's, one after the other.

    Blocks while each is read, and yields what was written. Others may write to the source, and the worker may run.
    Raises SettingsError for a name that is not captured, RefusedError where that cannot be done, UnreachableError
    where a server does not answer or something is not over in time: then nothing of that table was written. One that
    is refused does not keep up those behind it.
    """
    settings.need("source.dsn", "replica.dsn", "kafka.bootstrap", "unavailable_value")
    refuse_whole_transactions(settings)
    refused: DeltasyncError | None = None
    for table in sorted(chosen(settings, names)):
        try:
            done = _until_unchanged(settings, table, job)
        except (RefusedError, RecordError) as error:
            job.tell(f"{table} is left as it is: {error.what}")
            refused = refused or error
        else:
            yield done
    if refused is not None:
        raise refused


def refuse_whole_transactions(settings: Settings) -> None:
    """Raises RefusedError where no table may be ahead of the others."""
    if settings.consistency == "transaction":
        raise RefusedError(
            'With consistency = "transaction" no table may be ahead of the others, as one that is read again is.',
            remedy="Empty the replica and read all of it anew: see the README, from one consistency to the other.",
        )


def _until_unchanged(settings: Settings, table: TableId, job: Job) -> Resynced:
    until = time.monotonic() + _CHANGES_S_MAX
    while True:
        try:
            with closing(_Run(settings, table, job)) as run:
                return run.run()
        except ChangedError as changed:
            if time.monotonic() > until:
                raise changed.why from None
            job.tell(f"{table} begins again: {changed.why.what}")
            time.sleep(_AGAIN_S)


class _Run:
    """One try at one table."""

    def __init__(self, settings: Settings, table: TableId, job: Job) -> None:
        self._settings, self._id, self._job = settings, table, job
        self._started = time.monotonic()
        (self._topic,) = topics([table], settings.topic_prefix)
        self._ordered = settings.replica.constraints == "ordered"
        self._read: dict[Partition, Log] = {}
        self._resources = ExitStack()
        self._admin = Admin(settings)
        self._reader = Reader(settings)
        self._resources.callback(self._reader.close)
        self._replica = self._opened()
        self._connection = driver(self._replica)
        self._stream: Stream

    def _opened(self) -> sa.Connection:
        """A session of its own: its locks end with it, and so does what it remembers of the shadow."""
        with ExitStack() as stack:
            stack.push(self._resources)
            replica = open_replica(self._settings, name="resync")
            stack.callback(replica.close)
            connection = driver(replica)
            connection.execute(f"SET lock_timeout = '{_LOCK_S_MAX}s'")
            if connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
                connection.execute("SET transaction_timeout = 0")
            connection.commit()
            if not self._ordered:
                take_replica_role(connection)
            shadow.sweep(connection)
            self._name = shadow.taken(connection, self._settings.pipeline, self._id)
            stack.pop_all()
        self._resources.callback(self._end)
        return replica

    def close(self) -> None:
        """Drop the shadow. Idempotent."""
        self._resources.close()

    def _end(self) -> None:
        """Whatever the session was in the middle of: drop the shadow by another one, where this one cannot."""
        self._replica.invalidate()
        self._replica.close()
        with suppress(DeltasyncError, psycopg.Error), closing(open_replica(self._settings, name="resync")) as replica:
            name = shadow.taken(driver(replica), self._settings.pipeline, self._id)
            shadow.drop(driver(replica), name)
            driver(replica).commit()

    def run(self) -> Resynced:
        """Read the table again, and write what differs."""
        known, description, target = self._known()
        wanted = shadow.like(target, description, self._name)
        claims, logs = self._claims(), self._logs()
        source_rows, seen = self._copy(description, wanted, ends(logs))
        self._stream = Stream(self._tables, seen)
        self._writer = Writer(self._connection)
        self._suspects = self._suspected(target)
        self._read_from(claims, logs)
        self._wait_for_slot()
        self._job.tell(f"{self._id}: reading on from where the ledger is")
        self._catch_up(wanted)
        self._compare(wanted)
        self._job.tell(f"{self._id}: writing what differs")
        while (found := self._merge(known, target, wanted)) is None:
            self._catch_up(wanted)
        if not (known.complete or self._job.dry_run):
            origin.complete(self._settings, self._id, known.log_id, self._job.tell)
        return Resynced(str(self._id), source_rows, *found, round(time.monotonic() - self._started, 3))

    def _known(self) -> tuple[SourceTable, Table, Table]:
        """What is known of the table, as the source announced it, and as the replica has it.

        Raises RefusedError where they do not fit, ChangedError where it is not known yet.
        """
        with self._replica.begin():
            tables = catalog.load(self._replica, self._settings.pipeline)
            target = describe_table(self._connection, self._id)
        self._tables = Tables(
            tables, CANARY, self._settings.unavailable_value or "", raw_text=self._settings.connect.raw_text
        )
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

    def _claims(self) -> dict[Partition, Claim]:
        with self._replica.begin():
            self._audited, _ = by_hand.moved_since(self._replica, self._settings.pipeline, 0)
            return ledger.read(self._replica, self._settings.pipeline)

    def _logs(self) -> dict[Partition, Log]:
        return {partition: log for partition, log in self._admin.logs().items() if partition.topic == self._topic}

    def _copy(self, description: Table, wanted: Table, held: Mapping[Partition, int]) -> tuple[int, Seen]:
        """Fill the shadow with the source's rows."""
        tell = self._job.tell
        with origin.opened(self._settings, self._id, self._job.timeout_s, tell) as source:
            if source.table is None or _shape(source.table) != _shape(description):
                raise ChangedError(_changed(self._id))
            tell(f"{self._id}: reading rows")
            with self._replica.begin():
                shadow.make(self._connection, wanted)
                columns = tuple(column.name for column in wanted.columns)
                count = shadow.fill(self._connection, wanted, source.copy(columns), tell)
            return count, Seen(source.snapshot, held)

    def _read_from(self, claims: Mapping[Partition, Claim], logs: Mapping[Partition, Log]) -> None:
        started = {p: begin(claims.get(p), log) for p, log in logs.items()}
        self._read |= logs
        self._stream.progress |= started
        self._reader.add({partition: progress.next_offset for partition, progress in started.items()})

    def _logs_now(self) -> dict[Partition, Log]:
        """The topic's logs; new ones are read, too. Raises ChangedError where it is another topic."""
        logs = self._logs()
        if any(p not in logs or logs[p].topic_id != known.topic_id for p, known in self._read.items()):
            raise ChangedError(_changed(self._id))
        self._read_from({}, {p: log for p, log in logs.items() if p not in self._read})
        return logs

    def _wait_for_slot(self) -> None:
        """Wait until Kafka holds all that the snapshot does: then the worker meets nothing of it behind the merge."""
        self._job.tell(f"{self._id}: waiting until Kafka holds what the snapshot does")
        why = wait_for_slot(self._settings, Clock.running(self._job.timeout_s))
        if why:
            raise UnreachableError(
                f"What was committed on the source does not reach Kafka: {why}.",
                remedy="Have the connector run, then read the tables again.",
            )

    def _catch_up(self, wanted: Table) -> None:
        """Bring the shadow up to where the logs end now, batch by batch."""
        to = ends(self._logs_now())
        while not self._reader.has_reached(to):
            with self._replica.begin():
                self._follow(wanted)

    def _follow(self, wanted: Table) -> None:
        """Apply a batch to the shadow, in the caller's transaction."""
        try:
            changes = self._stream.take(self._reader.read(self._settings.batch.rows_max, _POLL_S))
            plans = plan(compact(changes, self._tables.decoders), self._tables.decoders)
        except GapError as error:
            raise ChangedError(error) from None
        except StaleDescriptionError as error:
            raise ChangedError(stale(error.change).error) from None
        if self._suspects is not None:
            self._suspects.add(self._stream.keys())
        named = {"schema": wanted.schema, "name": wanted.name}
        self._writer.write(one._replace(table=replace(one.table, **named)) for one in plans)

    def _suspected(self, target: Table) -> Suspects | None:
        if target.is_keyless:
            return None
        with self._replica.begin():
            return Suspects(self._connection, target)

    def _compare(self, wanted: Table) -> None:
        """Find what differs while the worker goes on; what is written from here on is in the stream."""
        with self._replica.begin():
            shadow.analyze(self._connection, wanted)
        if self._suspects is not None:
            self._job.tell(f"{self._id}: comparing")
            with self._replica.begin():
                self._suspects.compare(wanted)

    def _merge(self, known: SourceTable, target: Table, wanted: Table) -> Difference | None:
        """Write what differs and move the ledger, in one transaction; None where the ledger is far ahead of that."""
        with self._replica.begin() as transaction:
            locked = ledger.lock(self._replica, self._settings.pipeline, self._topic)
            self._connection.execute(statements.lock(target))
            logs = self._logs_now()
            self._refuse_changed(known, target)
            at = within(locked, logs)
            if behind(self._stream.progress, at) > self._settings.batch.rows_max:
                return None
            while not self._reader.has_reached({p: claim.progress.next_offset for p, claim in at.items()}):
                self._follow(wanted)
            found = make_equal(self._connection, target, wanted, self._suspects, ordered=self._ordered)
            self._advance(at)
            if self._job.dry_run:
                transaction.rollback()
        return found

    def _refuse_changed(self, known: SourceTable, target: Table) -> None:
        """Raises ChangedError where the table is another one than the shadow was made for, or rows came unseen."""
        if by_hand.moved_since(self._replica, self._settings.pipeline, self._audited)[1] & self._read.keys():
            raise ChangedError(_moved(self._id))
        now = catalog.load(self._replica, self._settings.pipeline).get(self._id)
        if now != known or describe_table(self._connection, self._id) != target:
            raise ChangedError(_changed(self._id))

    def _advance(self, at: Mapping[Partition, Claim]) -> None:
        """Have the worker go on behind what was read here, or from where it is, also where it had stopped.

        What was set aside of the table is in what was read, or behind it.
        """
        for partition, progress in self._stream.progress.items():
            here = Claim(self._read[partition].topic_id, progress)
            to = max(here, at.get(partition, here), key=lambda claim: claim.progress.next_offset)
            by_hand.advance(self._replica, self._settings.pipeline, partition, to, self._job.reason)
        catalog.complete(self._replica, self._settings.pipeline, self._id)
        letters = dead_letters.of_table(self._settings.pipeline, self._id)
        dead_letters.end(self._replica, letters, Outcome.READ_ANEW, self._job.reason)


def _shape(table: Table) -> object:
    """What of a description the rows and their order in COPY depend on."""
    return table.primary_key, {column.name: column.sql_type for column in table.stored_columns}


def _unknown(table: TableId) -> RefusedError:
    return RefusedError(
        f"The replica does not know the table {table} yet.",
        remedy="Its announcement is on its way, if the connector and `deltasync run` run.",
    )


def _moved(table: TableId) -> RefusedError:
    return RefusedError(
        f"The ledger of {table} was moved by hand meanwhile, or records of it were replayed.",
        remedy="Read the table again.",
    )


def _changed(table: TableId) -> RefusedError:
    return RefusedError(
        f"The table {table} on the source, or its topic, is not what the replica knows of it.",
        remedy="See `deltasync check`; once its change has come, read the table again.",
    )
