"""What an operator does about tables of the source that changed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress

from tests.property.kinds import Shape
from tests.property.source import Source
from tests.property.store import Store

from deltasync.errors import RefusedError
from deltasync.policy import Ddl
from deltasync.table import TableId

# What is said of a table whose columns were made before the source's changed, and are too narrow now.
_NARROW = "The replica's table"


class Operator:
    """`restart` has all workers begin anew; `level` makes the rows of a table right when it fits again."""

    def __init__(
        self, source: Source, store: Store, ddl: Ddl, *, restart: Callable[[], None], level: Callable[[str], None]
    ) -> None:
        self._source, self._store, self._ddl = source, store, ddl
        self._restart, self._level = restart, level

    def approve(self, where: int) -> None:
        """Have what waits of a table applied, if it may be."""
        names = sorted(self._source.shapes)
        with suppress(RefusedError):
            self._store.approve(self._id(names[where % len(names)]), self._ddl)

    def mend(self, troubles: Collection[str], *, approves: bool, is_told: bool) -> None:
        """Approve what waits; where that will not do, make the tables fit by hand, once all their changes are told."""
        held = self._store.held()
        for name, shape in self._source.shapes.items():
            is_narrow = any(f"{_NARROW} {shape.table.id} " in trouble for trouble in troubles)
            if name in held and approves and self._is_approved(name):
                continue
            if (name in held and (is_told or not approves)) or is_narrow:
                self._refit(name, shape, is_level=not approves)

    def _is_approved(self, name: str) -> bool:
        try:
            self._store.approve(self._id(name), self._ddl)
        except RefusedError:
            return False
        return True

    def _refit(self, name: str, shape: Shape, *, is_level: bool) -> None:
        self._store.refit(shape.table)
        if not is_level:
            self._level(name)
        self._restart()

    def _id(self, name: str) -> TableId:
        return self._source.shapes[name].table.id
