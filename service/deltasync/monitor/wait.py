"""Waits until everything that was committed on the source before the call is visible on the replica."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import NamedTuple

import msgspec
import psycopg
import sqlalchemy as sa

from deltasync.change import Log, Partition
from deltasync.errors import DeltasyncError, RefusedError, UnreachableError
from deltasync.failure import describe
from deltasync.kafka.admin import Admin
from deltasync.monitor.lag import applied_to, topics
from deltasync.postgres.connect import connect
from deltasync.progress import Claim
from deltasync.replica import dead_letters, ledger, observe
from deltasync.replica.engine import open_replica
from deltasync.settings import Settings
from deltasync.source.position import beat, current_lsn, slot_state

_EVERY_S = 0.1


class Behind(msgspec.Struct, frozen=True):
    """A partition that was not applied in time."""

    topic: str
    partition: int
    next_offset: int
    end_offset: int
    records: int


class Waited(msgspec.Struct, frozen=True):
    """How a wait ended. `complete`: all is visible. `as_far_as`: "source", or "kafka" where it cannot be asked.

    Where it is not complete, `why` says what did not come, and `behind` which partitions are not applied. Where all
    else is visible, `set_aside` names the tables of which records are dead letters.
    """

    complete: bool
    as_far_as: str
    seconds: float
    why: str = ""
    behind: tuple[Behind, ...] = ()
    set_aside: tuple[str, ...] = ()


class Clock(NamedTuple):
    """When a wait began, and when it is to end, by the monotonic clock."""

    started: float
    until: float

    @classmethod
    def running(cls, timeout_s: float) -> Clock:
        """A wait that begins now."""
        now = time.monotonic()
        return cls(now, now + timeout_s)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.until

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)


def wait_until_applied(
    settings: Settings, timeout_s: float, tell: Callable[[str], None] = lambda _doing: None
) -> Waited:
    """Block until all is applied that the source had committed before the call, or until `timeout_s` have passed.

    Three steps: the connector has confirmed to the source's slot all that was committed; what Kafka holds
    then is noted; the ledger reaches it. Without [source] dsn the first is left out. Tables that are not
    captured are not waited for. `tell` hears which step is under way. Raises UnreachableError where a
    server does not answer.
    """
    settings.need("replica.dsn", "kafka.bootstrap")
    clock = Clock.running(timeout_s)
    as_far_as = "kafka"
    if settings.source.dsn is not None:
        as_far_as = "source"
        tell("waiting until Kafka holds what the source has committed")
        why = wait_for_slot(settings, clock)
        if why:
            return Waited(False, as_far_as, clock.seconds, why)  # noqa: FBT003 - the field says what
    tell("waiting until the replica holds what Kafka does")
    behind = _wait_for_ledger(settings, clock)
    if behind:
        records = sum(one.records for one in behind)
        why = f"{len(behind)} partitions are behind by {records} records"
        return Waited(False, as_far_as, clock.seconds, why, behind)  # noqa: FBT003 - the field says what
    letters = _set_aside(settings)
    told = ", ".join(f"{records} records of {table}" for table, records in letters.items())
    why = f"all else is visible, but {told} are set aside (deltasync dead-letters list)" if told else ""
    return Waited(not why, as_far_as, clock.seconds, why, set_aside=tuple(letters))


def _set_aside(settings: Settings) -> dict[str, int]:
    """How many records of each table are not visible although all is level."""
    with closing(open_replica(settings, name="wait")) as replica, replica.begin():
        letters = dead_letters.counts(replica, settings.pipeline)
    return {str(table): records for table, (_, records) in sorted(letters.items())}


def wait_for_slot(settings: Settings, clock: Clock) -> str:
    """Wait until the slot is confirmed behind all that is committed now; returns why it is not, "" where it is."""
    try:
        with closing(connect(settings.source.conninfo() or "", name="wait", autocommit=True)) as source:
            wanted = current_lsn(source)
            # A record behind `wanted`, so that there is something to confirm.
            beat(source, settings.pipeline, settings.publication, settings.slot)
            while True:
                slot = slot_state(source, settings.slot)
                if slot is not None and (slot.confirmed_flush_lsn or 0) >= wanted:
                    return ""
                if clock.is_over or (slot is not None and slot.wal_status == "lost"):
                    break
                time.sleep(_EVERY_S)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
        raise RefusedError(
            "The source has no canary to write.", remedy="Run deltasync source setup, or unset [source] dsn."
        ) from None
    except psycopg.Error as error:
        raise UnreachableError(f"The source failed: {describe(error)}.", remedy="See whether it is up.") from None
    if slot is None:
        return f"the source has no slot {settings.slot}{_connector(settings)}"
    if slot.wal_status == "lost":
        return f"the slot {settings.slot} is invalidated: what it held is lost to Kafka{_connector(settings)}"
    missing = wanted - (slot.confirmed_flush_lsn or 0)
    return (
        f"the slot {settings.slot} does not move on: the connector has {missing} bytes of WAL still to confirm"
        f"{_connector(settings)}"
    )


def _connector(settings: Settings) -> str:
    """What Connect says of the connector, as the end of a sentence."""
    if settings.connect.url is None:
        return ""
    from deltasync.connect.client import ConnectClient  # noqa: PLC0415 - only when something is wrong

    try:
        with ConnectClient(settings.connect.url, retry_s_max=1.0) as client:
            return f"; the connector {settings.connector} is {client.status(settings.connector).condition.value}"
    except DeltasyncError as error:
        return f"; {error.what.removesuffix('.')}"


def _wait_for_ledger(settings: Settings, clock: Clock) -> tuple[Behind, ...]:
    """Wait until the ledger reaches what Kafka holds now; returns the partitions where it does not."""
    wanted = Admin(settings).logs()
    with closing(open_replica(settings, name="wait")) as replica:
        while True:
            try:
                with replica.begin():
                    claims = ledger.read(replica, settings.pipeline)
                    tables = observe.read_tables(replica, settings.pipeline)
            except sa.exc.SQLAlchemyError as error:
                raise UnreachableError(
                    f"The replica failed: {describe(error)}.", remedy="See whether it is up."
                ) from None
            passed_over = topics((known.table for known in tables if not known.captured), settings.topic_prefix)
            behind = _behind({p: log for p, log in wanted.items() if p.topic not in passed_over}, claims)
            if not behind or clock.is_over:
                return behind
            time.sleep(_EVERY_S)


def _behind(wanted: Mapping[Partition, Log], claims: Mapping[Partition, Claim]) -> tuple[Behind, ...]:
    """The partitions whose ledger is not where it is wanted. Pure."""
    found = ((p, applied_to(claims.get(p), log), log.end_offset) for p, log in wanted.items())
    return tuple(Behind(p.topic, p.number, now, end, end - now) for p, now, end in found if now < end)
