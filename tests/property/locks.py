"""What the open transactions of the simulated source hold: rows, unique values, and rows that theirs reference."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from deltasync.table import Table

if TYPE_CHECKING:
    from tests.property.event import Event, Key
    from tests.property.kinds import Row, Shape


class Family(NamedTuple):
    """What foreign keys do on the source, and what may become of rows that others reference.

    `deletes` lets them go, `remakes` lets them take another key or come again.
    """

    on_delete: str = "no action"
    on_update: str = "no action"
    deletes: bool = True
    remakes: bool = True


class Transaction:
    """One that is open: its changes, and what it holds until its end."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.number = 0  # as the source counts them, by their first change
        self.touched: set[Key] = set()
        self.shared: set[Key] = set()  # what rows that it touched reference, or did
        self.truncated: set[str] = set()
        self.reshaped: set[str] = set()  # tables that it altered
        self.logged: list[tuple[int, Table]] = []  # entries of the schema log
        self.values: set[Key] = set()  # unique ones that it took or gave up

    def has(self, table: str) -> bool:
        """True where nobody else may use the table until its end."""
        return table in self.truncated or table in self.reshaped


class Locks:
    """Who holds what. A statement that would wait for another session's lock does nothing."""

    def __init__(self, shapes: Mapping[str, Shape], rows: Mapping[str, Mapping[Hashable, Row]], family: Family) -> None:
        self.open: dict[int, Transaction] = {}
        self.family = family
        self.parents = {shape.reference[1] for shape in shapes.values() if shape.reference}
        self.gone: set[Key] = set()  # rows that were referenced, and may not come again
        self._shapes = shapes
        self._rows = rows

    def lock(self, session: int, name: str, identities: Iterable[Hashable]) -> bool:
        keys = {(name, identity) for identity in identities}
        others = [transaction for number, transaction in self.open.items() if number != session]
        if any(other.has(name) or keys & (other.touched | other.shared) for other in others):
            return False
        self.open.setdefault(session, Transaction()).touched |= keys
        return True

    def references(self, session: int, name: str, row: Row, *, is_new: bool = True) -> bool:
        """True where what a row references, if anything, is there, and stays until the session ends its transaction.

        Of one that is not new it may be gone already.
        """
        reference = self._shapes[name].reference
        if reference is None or row[reference[0]] is None:
            return True
        column, parent = reference
        identity = (row[column],)
        others = [transaction for number, transaction in self.open.items() if number != session]
        if any(other.has(parent) or (parent, identity) in other.touched for other in others):
            return False
        self.open.setdefault(session, Transaction()).shared.add((parent, identity))
        return not is_new or identity in self._rows[parent]

    def below(self, name: str, identity: Hashable) -> list[tuple[str, Hashable, str]]:
        """The rows that reference this one, each with the column that does."""
        found = [
            (child, shape.reference[0])
            for child, shape in self._shapes.items()
            if shape.reference and shape.reference[1] == name
        ]
        return [
            (child, key, column)
            for child, column in found
            for key, row in self._rows[child].items()
            if (row[column],) == identity
        ]

    def may_leave(self, session: int, name: str, identity: Hashable, *, goes: bool) -> bool:
        """True where a row may give its key up: what references it is locked, so that it can follow."""
        if name not in self.parents:
            return True
        family, below = self.family, self.below(name, identity)
        may, action = (family.deletes, family.on_delete) if goes else (family.remakes, family.on_update)
        if not may or (below and action == "no action"):
            return False
        if not family.remakes:
            self.gone.add((name, identity))
        follows = goes and action == "cascade"
        return all(
            self.lock(session, child, (key,)) and (not follows or self.may_leave(session, child, key, goes=True))
            for child, key, _ in below
        )

    def take(
        self,
        session: int,
        name: str,
        gone: Mapping[Hashable, Row],
        rows: Mapping[Hashable, Row],
        *,
        deferred: bool = False,
    ) -> bool:
        """Give the unique values of rows up for those of others; False where one is taken, or waited for."""
        shape = self._shapes[name]
        freed = {value for row in gone.values() for value in shape.taken(row)}
        wanted = [value for row in rows.values() for value in shape.taken(row)]
        if not freed and not wanted:
            return True
        held = {v for identity, row in self._rows[name].items() if identity not in gone for v in shape.taken(row)}
        values = {(name, value) for value in freed.union(wanted)}
        others = [transaction for number, transaction in self.open.items() if number != session]
        is_taken = len(set(wanted)) < len(wanted) or held.intersection(wanted)
        if (is_taken and not deferred) or any(values & other.values for other in others):
            return False
        self.open[session].values |= values
        return True

    def is_altered(self, session: int, name: str) -> bool:
        return any(name in o.reshaped for number, o in self.open.items() if number != session)

    def is_used(self, session: int, name: str) -> bool:
        others = [transaction for number, transaction in self.open.items() if number != session]
        return any(o.has(name) or any(key[0] == name for key in o.touched) for o in others)
