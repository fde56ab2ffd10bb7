"""Whole transactions: the replica is the source at some commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.property.connector import Connector
from tests.property.kinds import CTID, Row
from tests.property.source import Source
from tests.property.store import Store

from deltasync.change import Partition
from deltasync.progress import Progress


class BrokenError(AssertionError):
    """A promise was not kept."""


class Commits:
    """Made in front of the snapshot: the source as it is then is the first commit."""

    def __init__(self, source: Source, connector: Connector, store: Store, late: Iterable[str]) -> None:
        self._source, self._connector, self._store = source, connector, store
        self._late = frozenset(late)
        self.loaded: dict[Partition, int] = {}  # where the records of the snapshot end
        self._rows: dict[str, list[Row]] = {}  # of the replica
        self._seen = len(source.history)  # the commit at which the replica was seen last
        source.history.append({name: dict(rows) for name, rows in source.committed.items()})

    def see(self) -> None:
        """The replica is the source at some commit, and never at an earlier one than before."""
        ledger = self._store.ledger()
        if any(ledger.get(partition, Progress()).next_offset < end for partition, end in self.loaded.items()):
            return
        if self._connector.began_anew and self._connector.reads.any:
            return  # a transaction that was taken for an applied one (DESIGN.md, "Next") is there in reads alone
        names = self._source.shapes.keys() - self._late  # what is read by and by is the source when all was read
        rows = {name: self._store.rows(name, [*self._store.columns(name)]) for name in names}
        if rows == self._rows:
            return
        self._rows = rows
        found = {name: _known(rows[name]) for name in rows}
        for index, state in enumerate(self._source.history[self._seen :], self._seen):
            if all(_known(state[name].values()) == found[name] for name in found):
                self._seen = index
                return
        raise BrokenError(f"the replica is the source at no commit since {self._seen}")


def _known(rows: Iterable[Row]) -> Counter[frozenset[tuple[str, str]]]:
    """Rows without what is NULL, so that a column that was not there yet makes no difference."""
    told = ({name: text for name, text in row.items() if text is not None and name != CTID} for row in rows)
    return Counter(frozenset(row.items()) for row in told)
