"""The four servers of a stack, started as fast as their order allows."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from rich.console import Console

from deltasync.local import jars, java, postgres
from deltasync.local.connect import ConnectWorker
from deltasync.local.jars import Jars
from deltasync.local.kafka import KafkaServer
from deltasync.local.process import Process
from deltasync.local.state import State


class Part(Protocol):
    """What all parts of a stack have in common."""

    process: Process

    def wait(self) -> None: ...
    def is_ready(self) -> bool: ...


class _Caches(NamedTuple):
    kafka: java.Cache
    connect: java.Cache


class Servers:
    """Source and replica PostgreSQL, broker, Connect worker: attributes `source`, `replica`, `kafka`, `connect`.

    `started` names the parts that this object has started, in order; `undo` ends them.
    """

    def __init__(self, folder: Path, state: State) -> None:
        ports = state.ports
        self.source = postgres.PostgresServer("source", folder, ports.source, state.admin_password)
        self.replica = postgres.PostgresServer("replica", folder, ports.replica, state.admin_password)
        self.kafka = KafkaServer("kafka", folder, ports.kafka, ports.controller)
        self.connect = ConnectWorker("connect", folder, ports.connect, self.kafka.bootstrap)
        self.started: list[str] = []
        self._folder = folder
        self._home = Path(state.postgres_home)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.source, self.replica, self.kafka, self.connect)

    def start(self) -> None:
        """Start what does not run. Returns when databases and broker answer; Connect is still starting then.

        Raises PartError for the first part that does not start; `undo` ends what was started.
        """
        found = jars.ensure()
        installation = postgres.install(self._home)
        caches = _Caches(java.Cache("kafka", found.kafka), java.Cache("connect", found.kafka))
        self._make_missing(caches, found)
        self.start_part(self.kafka, lambda: self.kafka.start(found.kafka, caches.kafka))
        self.start_part(self.source, lambda: self.source.start(installation))
        self.start_part(self.replica, lambda: self.replica.start(installation))
        for part in (self.source, self.replica, self.kafka):
            part.wait()
        self.start_part(self.connect, lambda: self.connect.start(found, caches.connect))

    def _make_missing(self, caches: _Caches, found: Jars) -> None:
        """Have Java make its missing caches: start both parts that run on it, idle, and end them again."""
        running = self.kafka.process.find() or self.connect.process.find()
        if running or not any(cache.is_missing for cache in caches):
            return
        what = "Making Java's caches for Kafka and Connect (once, up to a minute; they start in half the time then)."
        Console(stderr=True).print(what, markup=False, soft_wrap=True)
        self.start_part(self.kafka, lambda: self.kafka.start(found.kafka, caches.kafka, make_cache=True))
        self.kafka.wait()
        self.start_part(self.connect, lambda: self.connect.start(found, caches.connect, make_cache=True))
        self.connect.wait()
        for part, cache in ((self.connect, caches.connect), (self.kafka, caches.kafka)):
            cache.keep(part.process)

    def start_part(self, part: Part, start: Callable[[], None]) -> None:
        """Start a part that does not run, and remember that it was started here."""
        if part.process.find() is None:
            self.started.append(part.process.name)
            start()

    def undo(self) -> None:
        """End what was started here."""
        stop(self._folder, self.started, at_once=True)
        self.started.clear()


def stop(folder: Path, names: Sequence[str], *, at_once: bool) -> None:
    """End these parts of the stack in `folder`, the last first: `at_once` where their data does not matter."""
    for name in reversed(names):
        if name in {"source", "replica"}:
            how = signal.SIGQUIT if at_once else signal.SIGINT
        else:
            how = signal.SIGKILL if at_once else signal.SIGTERM
        Process(name, folder).stop(how)
