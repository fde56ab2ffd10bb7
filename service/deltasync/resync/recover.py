"""`deltasync recover`: behind a lost slot, the connector goes on at a new one, and all tables are read again.

The slot is there before the first snapshot of a table: what that does not show comes in the stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import psycopg

from deltasync.connect import apply
from deltasync.connect.client import ConnectClient
from deltasync.connect.reconcile import NO_DATA, SNAPSHOT_MODE
from deltasync.connect.template import load
from deltasync.errors import RefusedError, UnreachableError
from deltasync.kafka.admin import Admin
from deltasync.postgres.connect import connect
from deltasync.progress import Claim, Progress
from deltasync.replica import by_hand, catalog
from deltasync.replica.engine import open_replica
from deltasync.resync.run import Job, Resynced, refuse_whole_transactions, resync
from deltasync.settings import Settings
from deltasync.source.generated import generated
from deltasync.source.position import slot_state
from deltasync.source.snapshot import template_variables
from deltasync.source.teardown import wait_free

_EVERY_S = 0.2


def recover(settings: Settings, job: Job, *, force: bool) -> Iterator[Resynced]:
    """Give the connector a new slot, and read every captured table again; yields what was written to each.

    Safe to run again where it failed: with `force`, since the slot is sound by then. Raises RefusedError while the slot
    is sound, unless `force` is set; else as `resync`.
    """
    settings.need("source.dsn", "replica.dsn", "kafka.bootstrap", "connect.url", "unavailable_value")
    refuse_whole_transactions(settings)
    with connect(settings.source.admin_conninfo() or "", name="recover", autocommit=True) as source:
        slot = slot_state(source, settings.slot)
        if slot is not None and slot.wal_status != "lost" and not force:
            raise RefusedError(
                f"The slot {settings.slot} is there, and holds what the connector has not read yet.",
                remedy="Have the connector run. deltasync resync reads tables again; --force gives this slot up.",
            )
        # Until each is read again, readiness says so, whatever becomes of this command.
        with closing(open_replica(settings, name="recover")) as replica, replica.begin():
            catalog.owe(replica, settings.pipeline)
        with ConnectClient(settings.connect.url or "") as client:
            job.tell(f"making the slot {settings.slot} anew")
            _forget_slot(settings, client, source)
            _forget_places(settings, job.reason)
            client.resume(settings.connector)
        _wait_for_stream(settings, source, job.timeout_s)
        _tell_again(source)
    yield from resync(settings, (), job)


def _forget_slot(settings: Settings, client: ConnectClient, source: psycopg.Connection) -> None:
    """Have the connector forget where it was, so that it makes another slot when it goes on; without a snapshot.

    It must not run while its offsets go, nor while its slot does: it would make the slot at once, at its old offsets.
    """
    name = settings.connector
    config = apply.actual(client, name)
    if config is None:
        config = dict(load([], template_variables(settings), generated(settings))[0].config)
    client.put(name, {**config, SNAPSHOT_MODE: NO_DATA})
    apply.forget_offsets(client, name)
    if slot_state(source, settings.slot) is not None:
        wait_free(source, settings.slot)
        source.execute("SELECT pg_drop_replication_slot(%s)", [settings.slot])


def _forget_places(settings: Settings, reason: str) -> None:
    """Go on in each topic behind what the old slot sent, whatever the places in the source's log are there.

    On a standby that took the source's place they are smaller than those of commits that it lacks. What was not applied
    before is in what is read again, or told again.
    """
    ends = {p: Claim(log.topic_id, Progress(log.end_offset)) for p, log in Admin(settings).logs().items()}
    with closing(open_replica(settings, name="recover")) as replica, replica.begin():
        by_hand.begin_anew(replica, settings.pipeline, ends, reason)


def _wait_for_stream(settings: Settings, source: psycopg.Connection, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while True:
        slot = slot_state(source, settings.slot)
        if slot is not None and slot.active:
            return
        if time.monotonic() > until:
            raise UnreachableError(
                f"The connector {settings.connector} did not begin to stream within {timeout_s:g} s.",
                remedy="See deltasync connectors status; then run deltasync recover again.",
            )
        time.sleep(_EVERY_S)


def _tell_again(source: psycopg.Connection) -> None:
    """Send the schema log anew, of which entries are lost to the stream. Those that are known change nothing."""
    source.execute("UPDATE deltasync.schema_log SET tag = tag")
