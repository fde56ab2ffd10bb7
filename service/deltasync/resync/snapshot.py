"""Which transactions of the source a snapshot shows: pure.

Debezium tells of a transaction the lower 32 bits of its number, a snapshot has all 64.
"""

from __future__ import annotations

from typing import NamedTuple

_WRAP = 2**32


class Snapshot(NamedTuple):
    """What `pg_current_snapshot()` tells: all below `xmin` is over, nothing from `xmax` on, nor any of `running`."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read PostgreSQL's text of it: `xmin:xmax:xid,xid`."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, filter(None, running.split(",")))))

    def shows(self, transaction: int) -> bool:
        """True where a committed transaction, by the lower 32 bits of its number, is visible in the snapshot."""
        number = self._whole(transaction)
        return number < self.xmax and number not in self.running

    def _whole(self, transaction: int) -> int:
        """The number nearest to the snapshot's: no more than 2^31 are ever in use."""
        behind = (self.xmax - transaction + _WRAP // 2) % _WRAP - _WRAP // 2
        return self.xmax - behind
