"""What an operator does about tables that changed on the source, and those whose rows on the replica are wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

from tests.property.connector import PREFIX, Connector
from tests.property.kinds import Shape
from tests.property.resync import WAITS, Resync
from tests.property.source import Source
from tests.property.store import Store
from tests.property.worker import Killed

from deltasync.errors import RecordError, RefusedError, UnreachableError
from deltasync.kafka.memory import Broker
from deltasync.parking import Letter
from deltasync.policy import Ddl
from deltasync.replica.memory_table import IntegrityError
from deltasync.resync.stream import ChangedError
from deltasync.table import TableId

# What is said of a table whose columns were made before the source's changed, and are too narrow now.
_NARROW = "The replica's table"
_MISSING = "are missing: "
# What happens while the command waits; so often it is tried.
_A_WHILE, _TRIES = 4, 3
# One of so many commands is killed, at one of so many places.
_KILLED, _PLACES = 3, 12
# So often an operator looks at what is owed.
_EVERY = 3
_PATIENCE = 60


class Operator:
    """With `ddl` changes of tables are approved, else they are made by hand alone.

    `restart` has all workers begin anew; `meanwhile` lets so many other things happen.
    `went_on` is told of a table that was read again: its ledger may have passed what nobody can read. `skip` has a
    table's partitions go on where their logs begin.
    """

    def __init__(  # noqa: PLR0913 - all that there is
        self,
        source: Source,
        connector: Connector,
        broker: Broker,
        store: Store,
        ddl: Ddl | None,
        *,
        restart: Callable[[], None],
        meanwhile: Callable[[int], None],
        went_on: Callable[[str], None],
        skip: Callable[[str], None],
    ) -> None:
        self._source, self._connector, self._broker, self._store = source, connector, broker, store
        self._ddl, self.approves = ddl or Ddl(), ddl is not None
        self._restart, self._meanwhile, self._went_on, self._skip = restart, meanwhile, went_on, skip
        self._is_reading = False
        self.owed: set[str] = set()  # tables whose rows may be wrong until they are read again
        self.has_damaged = False

    def approve(self, where: int) -> None:
        """Have what waits of a table applied, if it may be."""
        with suppress(RefusedError):
            self._store.approve(self._id(self._name(where)), self._ddl)

    def damage(self, where: int, n: int) -> None:
        """Somebody writes to the replica: rows go, or have another value."""
        name = self._name(where)
        shape, columns = self._source.shapes[name], self._store.columns(name)
        rows = self._store.rows(name, [*columns])
        if not rows or shape.table.is_keyless:
            return
        chosen = n // 3 % len(rows)
        names = [column for column in shape.free if column in columns]
        if n % 3 and names:
            column = names[n % len(names)]
            rows[chosen][column] = shape.kinds[column].text(n)
        else:
            del rows[chosen]
        self._store.fill(shape.table, rows)
        self.owed.add(name)
        self.has_damaged = True

    def expire(self, where: int, n: int) -> None:
        """Retention takes records that were not applied."""
        partitions = self._broker.partitions(f"{PREFIX}.shop.")
        if not partitions:
            return
        partition = partitions[where % len(partitions)]
        log, progress = self._broker.log(partition), self._store.ledger().get(partition)
        if log is not None and progress is not None and progress.next_offset < log.end_offset:
            self._broker.expire(partition, progress.next_offset + 1 + n % (log.end_offset - progress.next_offset))
            self.owed.add(partition.topic.removeprefix(f"{PREFIX}.shop."))
            self.has_damaged = True

    def resync(self, where: int, n: int, rows_max: int) -> None:
        """Read a table again, while other things happen, or until the command is killed."""
        self._read(self._name(where), n, rows_max)

    def settle(self, turn: int, rows_max: int, letters: Iterable[Letter]) -> None:
        """Read what is owed.

        A table that changed on the source cannot be read before its partition has come to the change: where records are
        missing on the way there, it goes on without them first. What is set aside because of that ends likewise.
        """
        if self.has_damaged and turn > _PATIENCE:
            self.owed |= {letter.table.name for letter in letters}
        for name in sorted(self.owed) if turn % _EVERY == 0 else ():
            self._read(name, 1, rows_max)
            if name in self.owed and turn > _PATIENCE:
                self._skip(name)

    def mend(self, troubles: Collection[str], *, is_told: bool) -> None:
        """Approve what waits; where that will not do, make the tables fit by hand, once all their changes are told."""
        held = self._store.held()
        for name, shape in self._source.shapes.items():
            is_narrow = any(f"{_NARROW} {shape.table.id} " in trouble for trouble in troubles)
            is_gap = any(f"{PREFIX}.{shape.table.id}[" in trouble and _MISSING in trouble for trouble in troubles)
            if is_gap and self.has_damaged:
                self.owed.add(name)
            if name in held and self.approves and self._is_approved(name):
                continue
            if (name in held and (is_told or not self.approves)) or is_narrow:
                self._refit(name, shape)

    def _read(self, name: str, n: int, rows_max: int) -> None:
        if self._is_reading:
            return
        self._is_reading = True
        steps = 0

        def at(place: str) -> None:
            nonlocal steps
            steps += 1
            if n % _KILLED == 0 and steps == n // _KILLED % _PLACES:
                raise Killed
            self._meanwhile(_A_WHILE if place == WAITS else (n >> steps) % 3)

        command = self._store.resync(self._source, self._connector, self._broker, at)
        try:
            if any(self._is_read(command, name, rows_max) for _ in range(_TRIES)):
                self.owed.discard(name)
                self._went_on(name)
        except Killed:
            return  # nothing was written: it is tried again
        finally:
            self._is_reading = False

    def _is_read(self, command: Resync, name: str, rows_max: int) -> bool:
        try:
            command.run(name, rows_max)
        except (ChangedError, UnreachableError):
            self._meanwhile(_A_WHILE)
            return False
        except (RefusedError, RecordError, IntegrityError):
            return False
        return True

    def _is_approved(self, name: str) -> bool:
        try:
            self._store.approve(self._id(name), self._ddl)
        except RefusedError:
            return False
        return True

    def _refit(self, name: str, shape: Shape) -> None:
        self._store.refit(shape.table)
        if self.approves:
            self.owed.add(name)
        self._restart()

    def _name(self, where: int) -> str:
        return sorted(self._source.shapes)[where % len(self._source.shapes)]

    def _id(self, name: str) -> TableId:
        return self._source.shapes[name].table.id
