"""The four servers of a stack, started as fast as their order allows."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from deltasync.local import jars, postgres
from deltasync.local.connect import ConnectWorker
from deltasync.local.kafka import KafkaServer
from deltasync.local.process import Process
from deltasync.local.state import State


class Part(Protocol):
    """What all parts of a stack have in common."""

    process: Process

    def wait(self) -> None: ...
    def is_ready(self) -> bool: ...


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
        self.start_part(self.kafka, lambda: self.kafka.start(found.kafka))
        self.start_part(self.source, lambda: self.source.start(installation))
        self.start_part(self.replica, lambda: self.replica.start(installation))
        for part in (self.source, self.replica, self.kafka):
            part.wait()
        self.start_part(self.connect, lambda: self.connect.start(found))

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
