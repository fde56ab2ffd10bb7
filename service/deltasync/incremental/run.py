"""`deltasync snapshot`: Debezium is asked to read tables again among the changes, and followed to the end.

    refuse ─▶ signal on the source ─▶ the connector: STARTED, chunk by chunk, COMPLETED ─▶ slot and ledger are behind it
                    └────────────── notifications, in a topic of their own ──────────────┘

The reads travel in the tables' topics, each where the stream has it, and are applied as any record. Nothing is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import msgspec
import psycopg

from deltasync.connect.apply import find_status
from deltasync.connect.client import ConnectClient
from deltasync.connect.status import Condition
from deltasync.errors import RefusedError, UnreachableError
from deltasync.failure import describe
from deltasync.incremental import signals, suitable
from deltasync.incremental.notices import Notices
from deltasync.incremental.reading import Reading, State
from deltasync.incremental.signals import Asked
from deltasync.monitor.wait import wait_until_applied
from deltasync.postgres.catalog import describe_table
from deltasync.postgres.connect import connect
from deltasync.postgres.types import skipping
from deltasync.replica import catalog
from deltasync.replica.engine import open_replica
from deltasync.settings import Settings
from deltasync.source.position import slot_state
from deltasync.table import Table, TableId
from deltasync.verify.rounds import chosen

_EVERY_S = 0.3
_TELL_EVERY_S = 1.0
# `run` restarts what failed for a passing reason sooner than this, the first three times.
_AWAY_S_MAX = 60.0
# A signal takes effect between two chunks.
_OBEYED_S_MAX = 60.0
# By then Connect has stored the connector's offsets, at intervals that are a minute by default.
_STORED_S_MAX = 180.0
_IN_OFFSETS = "incremental_snapshot_collections"


class Outcome(msgspec.Struct, frozen=True):
    """How a snapshot ended. All that it read is applied on the replica.

    `shifted` are tables that have dates by now which it would change, `altered` those that are not what they were.
    """

    reading: Reading
    shifted: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()


class Parts(NamedTuple):
    """The servers that are asked, open."""

    settings: Settings
    source: psycopg.Connection
    client: ConnectClient
    notices: Notices


@contextmanager
def opened(settings: Settings) -> Iterator[Parts]:
    """The source in autocommit, Connect, and the notifications. Raises SettingsError, UnreachableError."""
    settings.need("source.dsn", "replica.dsn", "kafka.bootstrap", "connect.url")
    try:
        with (
            connect(settings.source.conninfo() or "", name="snapshot", autocommit=True) as source,
            ConnectClient(settings.connect.url or "") as client,
            Notices(settings) as notices,
        ):
            yield Parts(settings, source, client, notices)
    except psycopg.OperationalError as error:
        raise UnreachableError(f"The source failed: {describe(error)}.", remedy="See whether it is up.") from None


def ask(parts: Parts, names: Collection[str], where: str | None) -> Asked:
    """Have the connector read these captured tables again, or the rows of each for which the condition holds.

    Returns once that is asked for. Raises SettingsError for a name that is not captured, and RefusedError where it
    would not be exact, or another snapshot is not over: then nothing was asked for.
    """
    settings, source = parts.settings, parts.source
    signals.refuse_unready(settings, source, parts.client)
    tables = _described(parts, sorted(chosen(settings, names)))
    with closing(open_replica(settings, name="snapshot")) as replica, replica.begin():
        known = catalog.load(replica, settings.pipeline)
    suitable.refuse(tables, known)
    suitable.refuse_large(source, tables)
    if where is not None:
        suitable.refuse_condition(source, [table.id for table in tables], where)
    old = suitable.old_dates(source, tables, where)
    if old:
        raise RefusedError(
            f"Dates from before 1582-10-15 would arrive as other ones: {', '.join(map(str, old))} has some.",
            remedy=f"deltasync resync reads them exactly: deltasync resync {' '.join(map(str, old))}",
        )
    running = parts.notices.newest()
    if running is not None and _goes_on(parts, running):
        raise RefusedError(
            f"Another snapshot is not over: {running}.",
            remedy="Wait for it (deltasync snapshot status --follow), or end it (deltasync snapshot stop).",
        )
    shapes = {str(table.id): suitable.shape(source, table) for table in tables}
    return signals.execute(settings, source, [str(table.id) for table in tables], where, shapes)


def follow(parts: Parts, asked: Asked, timeout_s: float, tell: Callable[[str], None]) -> Outcome:
    """Block until a snapshot that was asked for is over, and all that it read is applied on the replica.

    `tell` hears how far it is. Raises RefusedError where the connector passed it over, or records of these tables are
    set aside, UnreachableError where it does not run, or the replica is late by `timeout_s`: it may all come yet.
    """
    watch = _Watch(parts, tell)
    while (reading := parts.notices.newest()) is None or reading.id != asked.id or reading.state is not State.ENDED:
        if reading is not None and reading.id == asked.id:
            watch.tell(str(reading))
        elif not asked.lsn:
            raise RefusedError(f"The snapshot {asked.id} was never told of.", remedy="deltasync snapshot status")
        elif _has_passed(parts, asked):
            raise RefusedError(
                "The connector passed the signal over.", remedy="Run deltasync connectors apply, then ask again."
            )
        else:
            watch.tell("waiting for the connector to come to the signal")
        watch.refuse_away()
        time.sleep(_EVERY_S)
    tell("waiting until the replica holds what was read")
    _wait(parts, asked, timeout_s)
    return _outcome(parts, asked, reading)


def _wait(parts: Parts, asked: Asked, timeout_s: float) -> None:
    waited = wait_until_applied(parts.settings, timeout_s)
    if set(asked.tables).intersection(waited.set_aside):
        raise RefusedError(f"Not all that was read is applied: {waited.why}.", remedy="deltasync dead-letters list")
    if not (waited.complete or waited.set_aside):
        raise UnreachableError(
            f"The replica does not hold yet what was read: {waited.why}.", remedy="See deltasync lag, or wait."
        )


def newest(parts: Parts) -> tuple[Reading, Asked | None]:
    """The newest snapshot, and how it was asked for where deltasync did. Raises RefusedError where there was none."""
    reading = parts.notices.newest()
    if reading is None:
        raise RefusedError("No snapshot was told of.", remedy="deltasync snapshot start TABLE…")
    return reading, signals.asked(parts.source, reading.id)


def order(parts: Parts, send: Callable[[Settings, psycopg.Connection], None], wanted: State) -> Reading:
    """Pause, resume or stop the snapshot that goes on. Returns once the connector says so; one resumed may be over.

    Raises RefusedError where none goes on, or it is over meanwhile, and UnreachableError where no answer comes.
    """
    before = parts.notices.newest()
    if before is None or before.state is State.ENDED:
        raise RefusedError("No snapshot goes on.", remedy="deltasync snapshot status tells how the last one ended.")
    send(parts.settings, parts.source)
    until = time.monotonic() + _OBEYED_S_MAX
    while (reading := parts.notices.newest()) is not None:
        if reading.state is wanted or (wanted is State.RUNNING and reading.is_complete):
            return reading
        if reading.state is State.ENDED:
            raise RefusedError("The snapshot was over before.", remedy="deltasync snapshot status")
        if time.monotonic() > until:
            break
        time.sleep(_EVERY_S)
    raise UnreachableError(
        f"The connector did not answer within {_OBEYED_S_MAX:g} s; it may still do.",
        remedy="See deltasync connectors status, then deltasync snapshot status.",
    )


class _Watch:
    """Whether the connector runs while it is waited for, and what is told meanwhile."""

    def __init__(self, parts: Parts, tell: Callable[[str], None]) -> None:
        self._parts, self._tell = parts, tell
        self._ran = self._told = time.monotonic()
        self._text = ""

    def tell(self, text: str) -> None:
        """Say it if it is new, every second at most."""
        now = time.monotonic()
        if text != self._text and (not self._text or now - self._told >= _TELL_EVERY_S):
            self._text, self._told = text, now
            self._tell(text)

    def refuse_away(self) -> None:
        """Raises UnreachableError where the connector has not run for a minute."""
        status = find_status(self._parts.client, self._parts.settings.connector)
        if status is not None and status.condition is Condition.RUNNING:
            self._ran = time.monotonic()
        elif time.monotonic() - self._ran > _AWAY_S_MAX:
            raise UnreachableError(
                f"The connector does not run ({status.condition.value if status else 'it is not there'}).",
                remedy="See deltasync connectors status. When it runs, the snapshot goes on where it was: deltasync "
                "snapshot status --follow",
            )


def _goes_on(parts: Parts, reading: Reading) -> bool:
    """True where a snapshot is not over, and the connector, whose offsets may have been reset, knows of it."""
    if reading.state is State.ENDED:
        return False
    if time.time() - reading.told_ms / 1000 < _STORED_S_MAX:
        return True
    offsets = parts.client.offsets(parts.settings.connector)
    return any(_IN_OFFSETS in (found.offset or {}) for found in offsets)


def _has_passed(parts: Parts, asked: Asked) -> bool:
    """True where the connector has confirmed all up to behind the signal, and tells of no snapshot all the same."""
    slot = slot_state(parts.source, parts.settings.slot)
    if slot is None or (slot.confirmed_flush_lsn or 0) <= asked.lsn:
        return False
    reading = parts.notices.newest()
    return reading is None or reading.id != asked.id


def _described(parts: Parts, tables: Collection[TableId]) -> list[Table]:
    found = [table for id_ in tables if (table := describe_table(parts.source, id_))]
    return list(skipping(found, parts.settings.skipping, raw_text=parts.settings.connect.raw_text))


def _outcome(parts: Parts, asked: Asked, reading: Reading) -> Outcome:
    """What the source's tables were meanwhile that a snapshot does not see: truncated, written anew, altered."""
    tables = _described(parts, [TableId(*name.split(".", 1)) for name in asked.tables])
    now = {str(table.id): suitable.shape(parts.source, table) for table in tables}
    altered = tuple(name for name in asked.tables if now.get(name) != asked.shapes.get(name))
    shifted = suitable.old_dates(parts.source, [table for table in tables if str(table.id) not in altered], asked.where)
    return Outcome(reading, tuple(map(str, shifted)), altered)
