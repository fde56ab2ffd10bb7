"""Asks Kafka, the replica and, where it can be reached, the source how far they are."""

from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import psycopg
import sqlalchemy as sa

from deltasync.errors import DeltasyncError, UnreachableError
from deltasync.failure import describe
from deltasync.kafka.admin import Admin
from deltasync.monitor.lag import Slot, Survey, unapplied
from deltasync.postgres.connect import connect
from deltasync.replica import ledger, observe
from deltasync.replica.engine import open_replica
from deltasync.settings import Settings
from deltasync.source import observe as source


class Surveyor:
    """Holds the connections between two surveys. `survey` raises UnreachableError for Kafka and the replica only."""

    def __init__(self, settings: Settings) -> None:
        settings.need("replica.dsn", "kafka.bootstrap")
        self._settings = settings
        self._admin = Admin(settings)
        self._replica = open_replica(settings, name="lag")
        self._source: psycopg.Connection | None = None
        self._source_note = "" if settings.source.dsn else "no [source] dsn is set"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._replica.close()
        if self._source is not None:
            self._source.close()

    def survey(self) -> Survey:
        """Ask everyone once; blocks for some round trips, and up to 3 s to read records where there is lag."""
        pipeline = self._settings.pipeline
        try:
            with self._replica.begin():
                claims = ledger.read(self._replica, pipeline)
                canary = observe.read_canary(self._replica, pipeline)
                tables = observe.read_tables(self._replica, pipeline)
        except sa.exc.SQLAlchemyError as error:
            raise UnreachableError(
                f"The replica cannot be asked: {describe(error)}.", remedy="See whether it is up."
            ) from None
        # Kafka after the ledger: what is applied between the two never makes the ledger run ahead of the log.
        logs = self._admin.logs()
        came_in = self._admin.came_in(unapplied(logs, claims))
        at = time.time()
        view = self._ask_source()
        clock_s = view.clock_us / 1e6 if view else at
        return Survey(
            at=at,
            logs=logs,
            claims=claims,
            came_in=came_in,
            tables=tables,
            canary_age_s=max(0.0, clock_s - canary.beat_at_us / 1e6) if canary else None,
            slot=self._slot(view),
            slot_note=self._source_note,
            workers=self._admin.members(),
        )

    def _ask_source(self) -> source.View | None:
        if self._settings.source.dsn is None:
            return None
        try:
            if self._source is None:
                self._source = connect(self._settings.source.conninfo() or "", name="lag", autocommit=True)
            view = source.view(self._source, self._settings.publication, self._settings.slot)
        except (DeltasyncError, psycopg.Error) as error:
            self._source_note = f"the source cannot be asked: {describe(error)}"
            connection, self._source = self._source, None
            if connection is not None:
                with suppress(psycopg.Error):
                    connection.close()
            return None
        self._source_note = "" if view.slot else f"the source has no slot {self._settings.slot}"
        return view

    def _slot(self, view: source.View | None) -> Slot | None:
        if view is None or view.slot is None:
            return None
        return Slot(self._settings.slot, view.slot.wal_status, view.slot.active, view.slot.retained_bytes)
