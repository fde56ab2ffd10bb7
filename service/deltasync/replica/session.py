"""One worker's session on the replica: opens partitions, applies batches, one transaction each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import psycopg
import sqlalchemy as sa

from deltasync.change import Partition
from deltasync.debezium.schema_log import SchemaEvent
from deltasync.errors import FencedError, GapError, RefusedError
from deltasync.failure import Verdict, describe, verdict
from deltasync.ports import Batch
from deltasync.progress import Progress
from deltasync.replica import by_hand, catalog, evolve, ledger
from deltasync.replica.engine import driver, open_replica
from deltasync.replica.writer import Writer
from deltasync.settings import Settings
from deltasync.table import SourceTable, TableId


class Replica:
    """A session on a PostgreSQL replica (see `ports.Replica`)."""

    def __init__(self, settings: Settings) -> None:
        settings.need("replica.dsn")
        self._settings = settings
        self._connection: sa.Connection | None = None
        self._writer: Writer | None = None

    def open(self, ids: Mapping[Partition, str]) -> dict[Partition, Progress | GapError]:
        """How far these partitions were applied (see `ledger.open_partitions`)."""
        with self._begin() as connection:
            return ledger.open_partitions(connection, self._settings.pipeline, ids)

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
        after any other error. An error from COMMIT itself leaves open whether it took place: the
        fence of the next try answers that.
        """
        pipeline = self._settings.pipeline
        with self._begin() as connection:
            ledger.fence(connection, pipeline, batch.claims)
            if batch.events:
                self._evolve(connection, batch.events)
            written = self._writer.write(batch.plans) if self._writer else 0
            ledger.move(connection, pipeline, batch.claims, batch.to)
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

    def _evolve(self, connection: sa.Connection, events: Iterable[SchemaEvent]) -> None:
        known = catalog.load(connection, self._settings.pipeline)
        changed = evolve.fold(events, known)
        for id_, table in changed.items():
            if table.captured and not table.dropped:
                changed[id_] = table._replace(held=self._fit(driver(connection), table, known.get(id_)))
        catalog.store(connection, self._settings.pipeline, changed)
        if self._writer:
            self._writer.forget({id_.schema for id_ in changed})

    def _fit(self, connection: psycopg.Connection, table: SourceTable, before: SourceTable | None) -> str | None:
        """Why the table is held; None where it fits. DDL that the replica refuses holds its own table only."""
        if table.held is not None or (before is not None and before.held is not None) or table.description is None:
            return table.held if table.held == evolve.HOLE else evolve.still_held(connection, table)
        try:
            with connection.transaction():
                return evolve.fit(connection, table.description, before.description if before else None)
        except (psycopg.Error, RefusedError) as error:
            if verdict(error) is Verdict.RETRY:
                raise
            return f"the replica refuses to follow its change: {describe(error)}"

    def _begin(self) -> _Transaction:
        if self._connection is None:
            self._connection = open_replica(self._settings, name="run")
            ordered = self._settings.replica.constraints == "ordered"
            if not ordered:
                _take_replica_role(driver(self._connection))
            self._writer = Writer(driver(self._connection), ordered=ordered)
        return _Transaction(self, self._connection)


def _take_replica_role(connection: psycopg.Connection) -> None:
    """Foreign keys are not checked, and only triggers that were enabled for replicas fire."""
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

    def __init__(self, replica: Replica, connection: sa.Connection) -> None:
        self._replica = replica
        self._connection = connection
        self._transaction: sa.Transaction | None = None

    def __enter__(self) -> sa.Connection:
        self._transaction = self._connection.begin()
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
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
