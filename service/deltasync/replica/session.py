"""One worker's session on the replica: opens partitions, applies batches, one transaction each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import psycopg
import sqlalchemy as sa
from psycopg import sql

from deltasync.change import Partition
from deltasync.debezium.schema_log import SchemaEvent
from deltasync.errors import FencedError, GapError, RefusedError, SourceError, StandbyError
from deltasync.failure import lacks_room
from deltasync.parking import Parked
from deltasync.plan import TablePlan
from deltasync.ports import Batch, Logs, Steps
from deltasync.progress import Claim, Progress
from deltasync.readable import Due
from deltasync.replica import by_hand, catalog, dead_letters, dropping, evolve, identity, ledger, pending, renaming
from deltasync.replica.engine import TRANSACTION_TIMEOUT_SINCE, driver, open_replica
from deltasync.replica.writer import Writer
from deltasync.settings import Settings
from deltasync.table import SourceTable, TableId

# A leading worker asks for moves by hand every 2 s; Kafka may keep it from that for half a minute.
_SILENT_S_MAX = 60
# A session of ours that failed may hold the lead for a moment longer.
_LEAD_S_MAX = 3


class Replica:
    """A session on a PostgreSQL replica (see `ports.Replica`)."""

    def __init__(self, settings: Settings) -> None:
        settings.need("replica.dsn")
        self._settings = settings
        self._connection: sa.Connection | None = None
        self._writer: Writer | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._lock = Lock()  # one transaction at a time, whichever thread's

    def open(self, ids: Mapping[Partition, str]) -> dict[Partition, Progress | GapError | SourceError]:
        """How far these partitions were applied (see `ledger.open_partitions`)."""
        with self._begin() as connection:
            return ledger.open_partitions(connection, self._settings.pipeline, ids)

    def parked(self, ids: Mapping[Partition, str]) -> dict[Partition, Parked]:
        """What was set aside of these partitions (see `dead_letters.parked`)."""
        with self._begin() as connection:
            return dead_letters.parked(connection, self._settings.pipeline, ids)

    def sets_aside(self) -> bool:
        """True where something of the pipeline is set aside."""
        with self._begin() as connection:
            return dead_letters.are_there(connection, self._settings.pipeline)

    def settled(self) -> int:
        """Below this number all transactions are in Kafka (see `ports.Replica`)."""
        with self._begin() as connection:
            return identity.settled(connection, self._settings.pipeline)

    def tables(self) -> dict[TableId, SourceTable]:
        """What is known of the source's tables."""
        with self._begin() as connection:
            return catalog.load(connection, self._settings.pipeline)

    def moved_since(self, audited: int) -> tuple[int, set[Partition]]:
        """The partitions that were moved by hand since (see `by_hand.moved_since`)."""
        with self._begin() as connection:
            return by_hand.moved_since(connection, self._settings.pipeline, audited)

    def apply(self, batch: Batch) -> int:
        """Apply a batch and move the ledger in one transaction; returns how many rows were written.

        Raises FencedError where the ledger is not where `claims` say; then nothing was written, as
        after any other error. So it does where `beats` tell of another source, which is written down. An error from
        COMMIT itself leaves open whether it took place: the fence of the next try answers that.
        """
        pipeline = self._settings.pipeline
        with self._begin() as connection:
            ledger.fence(connection, pipeline, batch.claims)
            refused = identity.note(connection, pipeline, batch.beats) if batch.beats else None
            if refused is None:
                if batch.events:
                    self._evolve(connection, batch.events)
                written = self._write(connection, batch)
                if batch.letters or batch.voids:
                    dead_letters.store(connection, pipeline, batch)
                    dead_letters.void(connection, pipeline, batch.voids)
                ledger.move(connection, pipeline, batch.claims, batch.to)
                return written
        raise FencedError(refused, remedy="The ledger says why, and what to do.")

    def start(self, batch: Batch) -> Callable[[], int]:
        """Apply a batch in a thread of its own (see `ports.Replica`)."""
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="apply")
        return self._thread.submit(self.apply, batch).result

    def _write(self, connection: sa.Connection, batch: Batch) -> int:
        if self._writer is None:
            return 0
        written = self._writer.write(batch.plans)
        for step, plans in enumerate(batch.rest or ()):
            if step == 0 and driver(connection).info.server_version >= TRANSACTION_TIMEOUT_SINCE:
                connection.execute(sa.text("SET LOCAL transaction_timeout = 0"))  # it is as long as the source's
            written += _fitting(self._writer, plans, batch.rest)
        return written

    def cancel(self) -> None:
        """Cancel the statement that runs now; callable from another thread."""
        connection = self._connection
        if connection is not None:
            driver(connection).cancel_safe(timeout=5)

    def close(self) -> None:
        """Close the session; what was not committed is rolled back. Idempotent."""
        connection, self._connection, self._writer = self._connection, None, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def carry_out(self, due: Due, claims: Mapping[Partition, Claim], logs: Logs) -> bool:
        """Carry out what is pending of a table (see `ports.Replica`)."""
        pipeline = self._settings.pipeline
        with self._begin() as connection:
            ledger.fence(connection, pipeline, {} if due.drops else claims)
            topic = due.table.topic(self._settings.topic_prefix)
            locked = ledger.lock(connection, pipeline, topic) if due.drops else {}
            tables = catalog.load(connection, pipeline, to_change=True)
            known = tables.get(due.table)
            if known is None or not _is_next(known, due):
                return True
            if driver(connection).info.server_version >= TRANSACTION_TIMEOUT_SINCE:
                connection.execute(sa.text("SET LOCAL transaction_timeout = 0"))  # a table may be written anew
            if known.pending[0].renamed:
                after = renaming.rename(connection, self._settings, tables, due.table, claims.values())
            else:
                if due.drops:
                    known = dropping.drop(connection, self._settings, known, locked, logs)
                cut = () if due.drops else claims.values()
                after = {due.table: pending.advance(driver(connection), known, self._settings.ddl, at_cut=cut)}
            catalog.store(connection, pipeline, after)
            self._forget(after)
        return after[due.table].held != pending.LOCKED

    def _evolve(self, connection: sa.Connection, events: Iterable[SchemaEvent]) -> None:
        """Follow entry by entry: what the one adds and fills, the next one may change again.

        One pipeline at a time, so that of two which announce one table the second finds the first.
        """
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended('deltasync source_table', 0))"))
        known = catalog.load(connection, self._settings.pipeline, to_change=True)
        changed: dict[TableId, SourceTable] = {}
        for event in events:
            for id_, table in evolve.fold([event], known | changed, self._settings.ddl.policy).items():
                before = changed.get(id_) or known.get(id_)
                changed[id_] = self._followed(driver(connection), table, before)
        catalog.store(connection, self._settings.pipeline, changed)
        self._forget(changed)

    def _followed(self, connection: psycopg.Connection, table: SourceTable, before: SourceTable | None) -> SourceTable:
        """The state of a table once the replica's fits it as far as it may, or is held: another pipeline's is."""
        if table.captured and not table.dropped and table.description is not None:
            shared = catalog.shared(connection, self._settings.pipeline, [table.description.id])
            if shared is not None:
                return table._replace(held=shared.held)
        return pending.followed(connection, table, before, self._settings.ddl)

    def _forget(self, tables: Iterable[TableId]) -> None:
        if self._writer:
            self._writer.forget({id_.schema for id_ in tables})

    def _take_lead(self, connection: psycopg.Connection) -> None:
        if not _lead(connection, self._settings.pipeline):
            self.close()
            raise StandbyError(
                f"Another worker applies the pipeline {self._settings.pipeline}, and one has to have all of it where "
                'consistency = "transaction".',
                remedy="Start deltasync run again to stand by: it takes over when the other one has ended.",
            )

    def _refuse_shared(self, connection: sa.Connection) -> None:
        """Tables that were filled by two pipelines before any of them was held: nobody knows whose rows are right."""
        pipeline = self._settings.pipeline
        try:
            with connection.begin():
                catalog.refuse_shared(driver(connection), pipeline, catalog.filled(catalog.load(connection, pipeline)))
        except BaseException:
            self.close()
            raise

    def _begin(self) -> _Transaction:
        return _Transaction(self, self._lock)

    def connected(self) -> sa.Connection:
        """The session's connection, opened where there is none. Raises what `open_replica` does, and StandbyError."""
        if self._connection is None:
            self._connection = open_replica(self._settings, name="run")
            if self._settings.consistency == "transaction":
                self._take_lead(driver(self._connection))
            self._refuse_shared(self._connection)
            ordered = self._settings.replica.constraints == "ordered"
            if not ordered:
                take_replica_role(driver(self._connection))
            self._writer = Writer(driver(self._connection), ordered=ordered)
        return self._connection


def _is_next(table: SourceTable, due: Due) -> bool:
    """True where this change is still the next one, and is to be carried out."""
    first = table.pending[0] if table.pending and not table.is_arriving else None
    return first is not None and first.log_id == due.log_id and (first.action == "apply" or not first.leaves)


def _fitting(writer: Writer, plans: Sequence[TablePlan], steps: Steps | None) -> int:
    """Write a step, or as many together as it takes for unique values to find room."""
    while True:
        try:
            return writer.write_step(plans)
        except psycopg.Error as error:
            longer = steps.longer() if steps and lacks_room(error) else None
            if longer is None:
                raise
            plans = longer


def _lead(connection: psycopg.Connection, pipeline: str) -> bool:
    """Be the one worker of a pipeline as long as the session lasts; False where another one is.

    The server ends the session of a worker that is frozen, so that another one can go on.
    """
    try:
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(f"{_LEAD_S_MAX}s"))
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"deltasync {pipeline}"])
    except psycopg.errors.LockNotAvailable:
        connection.rollback()
        return False
    connection.execute(sql.SQL("SET idle_session_timeout = {}").format(f"{_SILENT_S_MAX}s"))
    connection.commit()
    return True


def take_replica_role(connection: psycopg.Connection) -> None:
    """From now on foreign keys are not checked, and only triggers that were enabled for replicas fire."""
    try:
        connection.execute("SET session_replication_role = replica")
        connection.commit()
    except psycopg.errors.InsufficientPrivilege:
        raise RefusedError(
            f"The role {connection.info.user} may not set session_replication_role on the replica.",
            remedy=(
                "Run deltasync replica setup with a superuser in DELTASYNC_REPLICA_ADMIN_DSN: it grants that. Where "
                'nobody can, set constraints = "ordered" in [replica]: foreign keys and triggers then act as usual.'
            ),
        ) from None


class _Transaction:
    """A transaction of the session, which ends with its connection where anything but the fence failed."""

    def __init__(self, replica: Replica, lock: Lock) -> None:
        self._replica = replica
        self._lock = lock
        self._transaction: sa.Transaction | None = None

    def __enter__(self) -> sa.Connection:
        self._lock.acquire()
        try:
            connection = self._replica.connected()
            self._transaction = connection.begin()
        except BaseException:
            self._lock.release()
            raise
        return connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._end(kind)
        finally:
            self._lock.release()

    def _end(self, kind: type[BaseException] | None) -> None:
        try:
            if self._transaction is not None and kind is None:
                self._transaction.commit()
            elif self._transaction is not None and kind is FencedError:
                self._transaction.rollback()
        except BaseException:
            self._replica.close()
            raise
        if kind is not None and kind is not FencedError:
            self._replica.close()
