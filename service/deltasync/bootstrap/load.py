"""Rows from the source to the replica, by several jobs at once, and what is made behind them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Lock

import psycopg
from psycopg import sql

from deltasync.bootstrap import origin, target
from deltasync.bootstrap.origin import ChangedError, Origin, Reader
from deltasync.bootstrap.parts import Part, Tally, parts
from deltasync.bootstrap.target import State
from deltasync.errors import DeltasyncError
from deltasync.postgres.copy_binary import travels_in_binary
from deltasync.postgres.copy_blocks import copy_blocks
from deltasync.settings import Settings
from deltasync.table import Table, TableId

_TELL_S = 2.0
_CANCEL_S = 0.5
_MAJOR = 10_000


class Load:
    """What is to be loaded, and how far it is. The jobs are threads: COPY and index builds leave the interpreter alone.

    `rows` and `notes` tell what was loaded of each table, and what could not be made behind its rows.
    """

    def __init__(self, settings: Settings, source: Origin | None, states: Mapping[TableId, State]) -> None:
        self._settings, self._source = settings, source
        self._states = states
        loading = [id_ for id_, state in states.items() if state.state == target.LOADING]
        sizes = source.sizes(loading) if source is not None else {}
        self._parts = deque(parts(sizes))
        self._loaded = deque(id_ for id_, state in states.items() if state.state == target.LOADED)
        self._parts_left = Counter(part.table for part in self._parts)
        self._bytes = sum(part.bytes for part in self._parts)
        self._bytes_done = self._tables_done = 0
        self._tables = len(loading) + len(self._loaded)
        self.rows = {id_: state.rows for id_, state in states.items()}
        self.notes: list[str] = []
        self._lock = Lock()
        self._ends = False
        self._failed: BaseException | None = None
        self._sessions: list[psycopg.Connection] = []

    def run(self, jobs: int, tell: Callable[[str], None]) -> None:
        """Load it all. Blocks; whatever ends this early, the jobs end with it. Raises what the first one failed by."""
        started = time.monotonic()
        with ThreadPoolExecutor(jobs, thread_name_prefix="bootstrap") as pool:
            working = {pool.submit(self._job) for _ in range(min(jobs, len(self._parts) + len(self._loaded)))}
            try:
                while self._failed is None and wait(working, _TELL_S).not_done:
                    tell(str(self._tally(time.monotonic() - started)))
                tell(str(self._tally(time.monotonic() - started)))
            finally:
                self._end(working)
        if self._failed is not None:
            raise self._failed

    def _tally(self, seconds: float) -> Tally:
        rows = sum(self.rows.values())
        return Tally(self._tables, self._tables_done, self._bytes, self._bytes_done, rows, seconds)

    def _end(self, working: Collection[Future[None]]) -> None:
        """A statement may begin behind a cancellation, so that it is repeated until all jobs have ended."""
        self._ends = True
        while wait(working, 0).not_done:
            for session in list(self._sessions):
                with suppress(psycopg.Error):  # its server may be gone
                    session.cancel_safe(timeout=_CANCEL_S)
            wait(working, _CANCEL_S)

    def _job(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            with self._lock:
                self._failed = self._failed or error

    def _work(self) -> None:
        """One job: a part at a time; the last part of a table brings what is made behind its rows."""
        with target.filling(self._settings) as replica:
            self._sessions.append(replica)
            while (id_ := self._unfinished()) is not None:
                self._finish(replica, id_)
            if self._source is not None and self._parts:
                with origin.readers(self._settings, self._source) as source:
                    self._sessions += [source.source, source.now]
                    self._copy_all(source, replica, self._source.captured)

    def _copy_all(self, source: Reader, replica: psycopg.Connection, tables: Mapping[TableId, Table]) -> None:
        versions = {session.info.server_version // _MAJOR for session in (source.source, replica)}
        while (part := self._part()) is not None:
            table = tables[part.table]
            try:
                with source.reading(part.table):
                    binary = len(versions) == 1 and travels_in_binary(table)
                    rows = self._pipe(source.source, replica, part, table, binary=binary)
            except ChangedError:
                self._give_back(part.table)
            else:
                if self._is_last(part, rows):
                    target.mark(replica, self._settings.pipeline, part.table, target.LOADED, self.rows[part.table])
                    replica.commit()
                    self._finish(replica, part.table)

    def _is_last(self, part: Part, rows: int) -> bool:
        with self._lock:
            self.rows[part.table] += rows
            self._bytes_done += part.bytes
            self._parts_left[part.table] -= 1
            return not self._parts_left[part.table]

    def _give_back(self, table: TableId) -> None:
        """Leave a table to a later snapshot: its parts are never all there."""
        with self._lock:
            self._parts = deque(part for part in self._parts if part.table != table)

    def _part(self) -> Part | None:
        with self._lock:
            return self._parts.popleft() if self._parts and not self._ends else None

    def _unfinished(self) -> TableId | None:
        with self._lock:
            return self._loaded.popleft() if self._loaded and not self._ends else None

    def _pipe(
        self, source: psycopg.Connection, replica: psycopg.Connection, part: Part, table: Table, *, binary: bool
    ) -> int:
        """Copy a part in a transaction of its own; returns how many rows it had."""
        how = sql.SQL("(FORMAT binary)" if binary else "")
        columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.stored_columns)
        read = sql.SQL("COPY ({}) TO STDOUT {}").format(origin.select(part, table), how)
        write = sql.SQL("COPY {} ({}) FROM STDIN {}").format(sql.Identifier(*table.id), columns, how)
        with replica.transaction(), replica.cursor() as writer:
            with writer.copy(write) as into:
                for block in copy_blocks(source, read):
                    self._refuse_ended()
                    into.write(block)
            return writer.rowcount

    def _finish(self, replica: psycopg.Connection, id_: TableId) -> None:
        """Keys, indexes and checks; foreign keys wait until all tables have them."""
        for one in sorted(self._states[id_].statements, key=lambda one: (not one.wanted, one.kind != "p")):
            self._refuse_ended()
            if not one.is_foreign and (why := target.made(replica, one)):
                self.notes.append(why)
            replica.commit()
        replica.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(*id_)))
        target.mark(replica, self._settings.pipeline, id_, target.DONE, self.rows[id_])
        replica.commit()
        with self._lock:
            self._tables_done += 1

    def _refuse_ended(self) -> None:
        if self._ends:
            raise DeltasyncError("The load was ended.", remedy="Run deltasync bootstrap again: it goes on.")
