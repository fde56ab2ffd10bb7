"""A model of Debezium's incremental snapshots: windows in the stream, and the reads that are left of them.

Measured on Debezium 3.7.0.Final: a chunk's rows come when its window closes, op r, `source.snapshot` incremental, with
a full `sequence` that does not go back; a row whose key was seen inside the window is left out. A connector that dies
inside reads the chunk anew.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tests.property.event import Event
from tests.property.source import Source


@dataclass
class _Window:
    """A chunk: all rows of a table. It opens and closes between two transactions; in between, the rows are read."""

    name: str
    low: int = 0
    high: int | None = None
    reads: list[Event] | None = None
    is_written: bool = False


class Reads:
    """The chunks that are to be read. `owed` are the tables that the initial snapshot left out: they are read once."""

    def __init__(self, source: Source, owed: Collection[str]) -> None:
        self._source = source
        self._windows = [_Window(name) for name in owed]

    @property
    def any(self) -> bool:
        """True where a chunk was begun."""
        return bool(self._windows)

    def turn(self, number: int) -> None:
        """Take the chunk that is under way a step on, or begin one of another table."""
        window = next((found for found in self._windows if found.high is None), None)
        if window is None:
            names = [name for name, shape in self._source.shapes.items() if shape.is_exact]
            if names:
                self._windows.append(_Window(names[number % len(names)], len(self._source.stream)))
        elif self._source.is_altered(window.name):
            return  # a chunk waits for the table's lock
        elif window.reads is None or self._is_altered(window):
            window.low, window.reads = self._since(window), list(self._source.read(window.name))
        else:
            window.high = len(self._source.stream)

    def finish(self) -> None:
        """Let the windows close."""
        while any(window.high is None for window in self._windows):
            self.turn(0)

    def due(self, index: int) -> list[Event]:
        """What is left of the windows that close in front of this change."""
        found = []
        for window in self._windows:
            if window.high is not None and window.high <= index and not window.is_written:
                window.is_written = True
                found += self._left(window, window.high)
        return found

    def restart(self, start: int) -> None:
        """Read the chunks anew whose windows were not closed in front of this change."""
        for window in self._windows:
            if window.high is None or window.high > start:
                window.low, window.high, window.reads, window.is_written = len(self._source.stream), None, None, False

    def _since(self, window: _Window) -> int:
        """Where the window opened; not in front of a TRUNCATE, of which Debezium's windows do not know, nor of DDL."""
        stream, end = self._source.stream, len(self._source.stream)
        is_new = any(event.op == "t" for event in stream[window.low :]) or self._is_altered(window)
        return end if is_new else window.low

    def _is_altered(self, window: _Window) -> bool:
        """True where the table was altered inside: its rows are read anew."""
        altered, inside = self._source.altered, self._source.stream[window.low :]
        return any(altered.get(event.lsn) == window.name for event in inside)

    def _left(self, window: _Window, high: int) -> list[Event]:
        inside = [event for event in self._source.stream[window.low : high] if event.table.name == window.name]
        if any(event.op == "t" for event in inside):
            return []
        seen = {event.key for event in inside}
        transaction, lsn = self._source.stream[high - 1][:2] if high else (-1, 0)
        left = [event for event in window.reads or () if event.key not in seen]
        return [event._replace(transaction=transaction, lsn=lsn) for event in left]
