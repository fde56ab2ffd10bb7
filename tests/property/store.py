"""What a scenario asks of a replica: the one in memory and PostgreSQL answer alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from tests.property.connector import Connector
from tests.property.kinds import Row
from tests.property.resync import Resync
from tests.property.source import Source

from deltasync.change import Partition
from deltasync.kafka.memory import Broker
from deltasync.parking import Letter
from deltasync.policy import Ddl
from deltasync.ports import Replica
from deltasync.progress import Progress
from deltasync.replica.memory_table import Foreign, Unique
from deltasync.table import Table, TableId


class Store(Protocol):
    """The replica that outlives its sessions. Where a lock is waited for, nothing else would happen meanwhile."""

    pipeline: str
    waits_for_locks: bool

    def session(self, at: Callable[[str], object] = ..., *, ordered: bool = ..., ddl: Ddl = ...) -> Replica:
        """A session that calls `at` with the place where it is (see `replica.memory.Replica`).

        Foreign keys are checked where it is `ordered`.
        """

    def approve(self, table: TableId, ddl: Ddl) -> None:
        """Have what waits of a table applied, as an operator does. Raises RefusedError where that will not do."""

    def fill(self, table: Table, rows: Iterable[Row]) -> None:
        """Have a table hold these rows alone."""

    def fail(self) -> Exception:
        """What this database raises where it ends a session."""

    def end(self, session: Replica) -> None:
        """End a session's transaction from the server's side."""

    def rows(self, table: str, columns: Sequence[str]) -> list[Row]: ...

    def columns(self, table: str) -> dict[str, str]:
        """The columns that a table has by now, with their types; none where it is not there."""

    def ledger(self) -> dict[Partition, Progress]: ...

    def place(self, partition: Partition, topic_id: str, offset: int) -> None:
        """Move the ledger by hand."""

    def accept(self, reason: str) -> None:
        """Go on with the source as it is, by hand."""

    def told(self) -> list[str]:
        """What is to be accepted: of another source, of one that failed over, of beats that never came."""

    def constrain(self, table: Table, unique: Unique) -> None:
        """Make a table with unique indexes, as an operator may before the first record comes."""

    def held(self) -> set[str]:
        """The tables that wait until the replica's was made to fit."""

    def pending(self) -> set[str]:
        """The tables with changes that are not carried out."""

    def refit(self, table: Table) -> None:
        """Make a held table what the source's is, as an operator does, and release it."""

    def mend(self, table: Table, before: Row, after: Row) -> None:
        """Write a row by hand that has another key by now, as the source has it."""

    def relate(self, foreign: Foreign) -> None:
        """Add a foreign key between two tables that are there."""

    def resync(self, source: Source, connector: Connector, broker: Broker, at: Callable[[str], object]) -> Resync:
        """What reads tables again."""

    def refuse(self, table: Table, column: str, text: str) -> None:
        """Refuse rows with this value from now on."""

    def admit(self) -> None:
        """Refuse no rows for their values any more."""

    def letters(self) -> list[Letter]:
        """What is set aside."""

    def replay(self, *, ordered: bool) -> None:
        """Apply what is set aside, where it is not refused, as an operator does."""

    def read_anew(self, rows: Callable[[str], Iterable[Row]]) -> None:
        """Write the rows of what is set aside as they are now on the source, which has these `rows` of a table."""
