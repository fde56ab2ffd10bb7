"""The replica of a table that is read again: a session of its own, with the shadow and its locks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress

import psycopg
import sqlalchemy as sa

from deltasync.change import Partition
from deltasync.debezium.rows import Rows
from deltasync.errors import DeltasyncError
from deltasync.plan import TablePlan
from deltasync.postgres.catalog import describe_table
from deltasync.progress import Claim
from deltasync.replica import by_hand, catalog, dead_letters, ledger, statements
from deltasync.replica.dead_letters import Outcome
from deltasync.replica.difference import Difference, Suspects, make_equal
from deltasync.replica.engine import TRANSACTION_TIMEOUT_SINCE, driver, open_replica
from deltasync.replica.session import take_replica_role
from deltasync.replica.writer import Writer
from deltasync.resync import shadow
from deltasync.settings import Settings
from deltasync.table import SourceTable, Table, TableId

# A worker's transaction ends by then.
_LOCK_S_MAX = 330


class Target:
    """See `attempt.Target`. Its locks end with its session, and so does what it remembers of the shadow."""

    def __init__(
        self, settings: Settings, table: TableId, topic: str, reason: str, tell: Callable[[str], None]
    ) -> None:
        self._settings, self._id, self._topic, self._reason, self._tell = settings, table, topic, reason, tell
        self._ordered = settings.replica.constraints == "ordered"
        self._resources = ExitStack()
        self._transaction: sa.Transaction | None = None
        self._replica = self._opened()
        self._connection = driver(self._replica)
        self._writer = Writer(self._connection)

    def _opened(self) -> sa.Connection:
        with ExitStack() as stack:
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
            self.name = shadow.taken(connection, self._settings.pipeline, self._id)
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

    def known(self) -> tuple[dict[TableId, SourceTable], Table | None]:
        with self._within():
            return catalog.load(self._replica, self._settings.pipeline), describe_table(self._connection, self._id)

    def claims(self) -> dict[Partition, Claim]:
        with self._within():
            self._audited, _ = by_hand.moved_since(self._replica, self._settings.pipeline, 0)
            return ledger.read(self._replica, self._settings.pipeline)

    def moved(self) -> set[Partition]:
        with self._within():
            return by_hand.moved_since(self._replica, self._settings.pipeline, self._audited)[1]

    def fill(self, target: Table, wanted: Table, rows: Iterable[bytes]) -> int:
        with self._within():
            self._suspects = None if target.is_keyless else Suspects(self._connection, target)
            shadow.make(self._connection, wanted)
            return shadow.fill(self._connection, wanted, rows, self._tell)

    def write(self, plans: Iterable[TablePlan], keys: Iterable[Rows]) -> None:
        with self._within():
            if self._suspects is not None:
                self._suspects.add(keys)
            self._writer.write(plans)

    def compare(self, wanted: Table) -> None:
        with self._within():
            shadow.analyze(self._connection, wanted)
            if self._suspects is not None:
                self._suspects.compare(wanted)

    @contextmanager
    def locked(self, target: Table) -> Iterator[Mapping[Partition, Sequence[Claim]]]:
        with self._within():
            found = ledger.lock(self._replica, self._settings.pipeline, self._topic)
            self._connection.execute(statements.lock(target))
            yield found

    def make_equal(self, target: Table, wanted: Table) -> Difference:
        return make_equal(self._connection, target, wanted, self._suspects, ordered=self._ordered)

    def advance(self, to: Mapping[Partition, Claim]) -> None:
        """What was set aside of the table is in what was read, or behind it."""
        for partition, claim in to.items():
            by_hand.advance(self._replica, self._settings.pipeline, partition, claim, self._reason)
        catalog.complete(self._replica, self._settings.pipeline, self._id)
        letters = dead_letters.of_table(self._settings.pipeline, self._id)
        dead_letters.end(self._replica, letters, Outcome.READ_ANEW, self._reason)

    def rollback(self) -> None:
        if self._transaction is not None:
            self._transaction.rollback()

    @contextmanager
    def _within(self) -> Iterator[None]:
        """In the transaction that is under way, else in one of its own."""
        if self._transaction is not None:
            yield
            return
        try:
            with self._replica.begin() as self._transaction:
                yield
        finally:
            self._transaction = None
