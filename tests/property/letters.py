"""What makes a replica refuse rows, and what an operator does about the dead letters."""

from __future__ import annotations

from tests.property.connector import Connector
from tests.property.source import Source
from tests.property.store import Store

# So often an operator looks at what is set aside; what is left then is read anew.
_REPLAY_EVERY, _READ_ANEW_EVERY = 5, 100


class Letters:
    """The refusals of one scenario."""

    def __init__(self, source: Source, connector: Connector, store: Store, *, ordered: bool) -> None:
        self._source, self._connector, self._store, self._ordered = source, connector, store, ordered
        self.has_refused = False

    def refuse(self, where: int, n: int) -> None:
        """The replica refuses rows with values that some have on the source now."""
        name = sorted(self._source.shapes)[where % len(self._source.shapes)]
        shape, found = self._source.shapes[name], self._source.visible(name)
        columns = [*self._store.columns(name)]
        if not found or not columns or shape.table.is_keyless:
            return
        column = columns[n // 7 % len(columns)]
        rows = [self._source.row(name, identity) for identity in found[n % len(found) :][:3]]
        for text in {row.get(column) for row in rows} - {None}:
            self.has_refused = True
            self._store.refuse(shape.table, column, text or "")

    def are_astray(self) -> bool:
        """True where there are some though nothing was refused, and nothing is applied again."""
        return bool(self._store.letters()) and not self.has_refused and not self._may_be_again

    @property
    def _may_be_again(self) -> bool:
        return self._connector.began_anew or self._connector.watermark_forgotten

    def mend(self, turn: int) -> None:
        """Replay them, and where that is refused for good, read rows anew.

        Only what may be applied again is refused for good (see `Connector.replays`).
        """
        if turn == _REPLAY_EVERY:
            self._store.admit()
        if not turn % _REPLAY_EVERY:
            self._store.replay(ordered=self._ordered)
        if turn and self._may_be_again and not turn % _READ_ANEW_EVERY and self._store.letters():
            self._store.read_anew(lambda name: self._source.committed[name].values())
