"""Asks the servers again and again, each on a thread of its own, and keeps what they last told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import structlog

from deltasync.errors import DeltasyncError, UnreachableError
from deltasync.failure import describe
from deltasync.monitor.health import Reading

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

log = structlog.get_logger(__name__)


class Reader(Protocol[T_co]):
    """Asks one server. After a failure of `read`, `close` is called, and the next `read` connects anew."""

    def read(self) -> T_co:
        """Blocks while the server answers."""

    def close(self) -> None:
        """Idempotent."""


class Watch(Generic[T]):
    """One server, read every `every_s` from `start` to `stop`. A failure is kept and logged once, never raised."""

    def __init__(self, name: str, every_s: float, reader: Reader[T], tell: Callable[[T], None] | None = None) -> None:
        """`tell` is called with everything that was read, on the watching thread."""
        self.latest: Reading[T] = Reading(None, time.monotonic())
        self._name, self._every_s, self._reader, self._tell = name, every_s, reader, tell
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the reading that is under way; does not wait for it."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            self.latest = self._read()
            self._ended.wait(self._every_s)
        self._reader.close()

    def _read(self) -> Reading[T]:
        try:
            found = self._reader.read()
            if self._tell is not None:
                self._tell(found)
        except Exception as error:  # noqa: BLE001 - whatever it is, the service goes on and health says it
            known = error if isinstance(error, DeltasyncError) else _unknown(self._name, error)
            if self.latest.error is None or self.latest.error.what != known.what:
                log.warning("cannot be watched", server=self._name, reason=known.what, do=known.remedy)
            self._reader.close()
            return Reading(self.latest.value, time.monotonic(), known)
        return Reading(found, time.monotonic())


def _unknown(name: str, error: Exception) -> DeltasyncError:
    return UnreachableError(f"Asking {name} failed: {describe(error)}.", remedy="See whether it is up, and its log.")
