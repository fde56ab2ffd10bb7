"""The tables without a key: what they must hold where their partition stops, and what an operator does about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from tests.property.connector import PREFIX, Connector
from tests.property.kinds import CTID, Row
from tests.property.source import Source
from tests.property.store import Store

from deltasync.change import Partition
from deltasync.kafka.memory import Broker


def counted(rows: Iterable[Row], columns: Sequence[str]) -> Counter[tuple[str | None, ...]]:
    """How often each row is there; a column that was not there yet is NULL."""
    return Counter(tuple(row.get(column) for column in columns) for row in rows)


class Keyless:
    """Made when the snapshot is read. `move` places a partition's ledger."""

    def __init__(
        self,
        source: Source,
        connector: Connector,
        broker: Broker,
        store: Store,
        move: Callable[[Partition, int], None],
    ) -> None:
        self._source = source
        self._connector = connector
        self._broker = broker
        self._store = store
        self._move = move
        self._base = {name: list(rows.values()) for name, rows in source.committed.items()}
        self._start = len(source.stream)
        self.loaded: dict[Partition, int] = {}  # where the records of the snapshot end

    def holds(self, partition: Partition) -> bool:
        """True for the partition of such a table."""
        return self._source.is_keyless(self._name(partition))

    def lacking(self, partition: Partition, offset: int) -> int | None:
        """The first record from here on that tells something new; the others come again, or nobody can read them."""
        sent = self._connector.sent.get(partition, {})
        known = self._known(partition, offset)
        return min((at for at, place in sent.items() if at >= offset and place > known), default=None)

    def place(self, partition: Partition, offset: int, *, back: bool) -> None:
        """An operator goes back to where the table was read, if it was, or vouches for what comes next."""
        first = next(iter(self._broker.records(partition, 0)), None)
        if back and first is not None and first.value is not None and b'"op":"r"' in first.value:
            self._move(partition, 0)
        elif self.lacking(partition, offset) == offset:
            self._move(partition, offset)

    def surplus(self, partition: Partition, offset: int) -> str | None:
        """What the table holds otherwise than the source's did where its partition has stopped, if anything."""
        if offset < self.loaded.get(partition, 0):
            return None  # its snapshot is not read to the end
        name = self._name(partition)
        columns = [*self._store.columns(name)]
        wanted, found = counted(self._at(name, offset), columns), counted(self._store.rows(name, columns), columns)
        return None if wanted == found else f"{wanted - found} missing, {found - wanted} surplus"

    def step_over(self, partition: Partition, offset: int) -> None:
        """An operator lets a partition that has stopped go on with what its table lacks."""
        lacking = self.lacking(partition, offset)
        if lacking is not None:
            self._move(partition, lacking)

    def _at(self, name: str, offset: int) -> list[Row]:
        known = self._known(Partition(f"{PREFIX}.shop.{name}", 0), offset)
        rows = {row[CTID]: row for row in self._base[name]}
        for place, event in enumerate(self._source.stream[self._start :], self._start):
            if event.table.name != name or place > known:
                continue
            if event.op == "t":
                rows.clear()
            if event.was is not None:
                del rows[event.was[CTID]]
            if event.now is not None:
                rows[event.now[CTID]] = event.now
        return list(rows.values())

    def _known(self, partition: Partition, offset: int) -> float:
        sent = self._connector.sent.get(partition, {})
        return max((place for at, place in sent.items() if at < offset), default=-1.0)

    def _name(self, partition: Partition) -> str:
        return partition.topic.removeprefix(f"{PREFIX}.shop.")
