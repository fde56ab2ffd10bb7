"""How long a committed change takes until another session sees it on the replica: measured from outside the service."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import NamedTuple, Self

import psycopg

# Looking costs the replica little, and a latency is overstated by half of this on average.
_LOOK_S = 0.003
# A late change is looked for less often: what is measured errs by a fiftieth.
_LOOK_SHARE = 50
_WAITING_MAX = 500


class Seen(NamedTuple):
    """A change that became visible: when it was committed on the source (`time.monotonic()`), how much later it was."""

    committed_at: float
    latency_s: float


class Probe:
    """Looks for new orders on the replica; `seen` are those that it found. One thread, until the end of `with`."""

    def __init__(self, dsn: str) -> None:
        self.seen: list[Seen] = []
        self._dsn = dsn
        self._waiting: dict[int, float] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._failure: psycopg.Error | None = None
        self._thread = threading.Thread(target=self._look, name="probe", daemon=True)

    def placed(self, order: int, at: float) -> None:
        """An order was committed at this time. Where very many wait already, this one is not looked for."""
        with self._lock:
            if len(self._waiting) < _WAITING_MAX:
                self._waiting[order] = at

    def oldest_s(self) -> float:
        """For how long the oldest order has been waited for; 0 where none is. Raises what looking has failed with."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            return time.monotonic() - min(self._waiting.values()) if self._waiting else 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                while not self._stopped.wait(max(_LOOK_S, self.oldest_s() / _LOOK_SHARE)):
                    self._look_once(connection)
        except psycopg.Error as error:
            self._failure = error

    def _look_once(self, connection: psycopg.Connection) -> None:
        with self._lock:
            waiting = list(self._waiting)
        if not waiting:
            return
        found = connection.execute("SELECT id FROM shop.orders WHERE id = ANY(%s)", [waiting]).fetchall()
        now = time.monotonic()
        with self._lock:
            for (order,) in found:
                at = self._waiting.pop(order)
                self.seen.append(Seen(at, now - at))
