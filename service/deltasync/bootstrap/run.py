"""`deltasync bootstrap`: the rows of all captured tables past Kafka, and then the stream from the same moment on.

    slot and its snapshot ─▶ tables without keys, ledger at the topics' ends ─▶ COPY, part
      by part, several at once ─▶ keys, indexes ─▶ foreign keys ─▶ the connector begins at the slot, without a snapshot

What the snapshot shows is before the slot, all else behind it: no gap, and nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from deltasync.bootstrap import definitions, handover, origin, target
from deltasync.bootstrap.load import Load
from deltasync.bootstrap.origin import Origin
from deltasync.bootstrap.target import ANEW, DONE, LOADING, State, Target
from deltasync.connect import apply
from deltasync.connect.client import ConnectClient
from deltasync.connect.reconcile import NO_DATA, SNAPSHOT_MODE
from deltasync.connect.template import Connector, load
from deltasync.errors import RefusedError
from deltasync.kafka.admin import Admin
from deltasync.postgres.connect import connect
from deltasync.resync.origin import complete as complete_on_source
from deltasync.settings import Settings
from deltasync.source.generated import generated
from deltasync.source.position import slot_state
from deltasync.source.snapshot import template_variables
from deltasync.table import TableId

# So often a table may be emptied or changed between the begin of a slot and its own reading.
_TRIES = 5


@dataclass(frozen=True)
class Job:
    """How it is done: with so many `jobs` at once; `anew` gives up what an earlier one has done.

    `keys_only`: no indexes and constraints of the source's but the keys. `timeout_s` is for each thing that is waited
    for, and `tell` hears what is done.
    """

    jobs: int = 4
    anew: bool = False
    keys_only: bool = False
    timeout_s: float = 300.0
    tell: Callable[[str], None] = lambda _doing: None


class Loaded(msgspec.Struct, frozen=True):
    """One table: how many rows were loaded."""

    table: str
    rows: int


class Report(msgspec.Struct, frozen=True):
    """What was loaded, by earlier runs that were interrupted, too; `notes` tell what could not be made behind the rows.

    `resync` names tables of which a worker applied records that they held already: they have to be read again.
    """

    connector: str
    tables: tuple[Loaded, ...]
    rows: int
    seconds: float
    notes: tuple[str, ...] = ()
    resync: tuple[str, ...] = ()


def bootstrap(settings: Settings, job: Job) -> Report:
    """Fill the replica's empty tables, and start the connector behind that. Blocks.

    Interrupted at any moment, it goes on when it is called again: tables that are whole stay, others begin again.
    Raises RefusedError where the replica's tables hold rows, where a connector or a worker runs, or where going on
    would not be exact; SettingsError and UnreachableError as everything.
    """
    settings.need("source.dsn", "replica.dsn", "kafka.bootstrap", "connect.url", "unavailable_value")
    started = time.monotonic()
    with ConnectClient(settings.connect.url or "") as client, target.opened(settings) as replica:
        run = _Run(settings, job, replica, client)
        states = run.begun()
        connector = run.connector()
        notes = run.load(states)
        states = replica.states()
        notes += replica.relate(states)
        touched = run.hand_over(connector, states)
    rows = {id_: state.rows for id_, state in states.items()}
    return Report(
        connector.name,
        tuple(Loaded(str(id_), count) for id_, count in rows.items()),
        sum(rows.values()),
        round(time.monotonic() - started, 3),
        tuple(notes),
        tuple(map(str, touched)),
    )


class _Run(NamedTuple):
    """The steps of one call."""

    settings: Settings
    job: Job
    replica: Target
    client: ConnectClient

    def begun(self) -> dict[TableId, State]:
        """The tables of a load that was interrupted, if it can go on; none where one is to begin.

        Raises RefusedError for what is in the way.
        """
        settings, states = self.settings, self.replica.states()
        is_there = apply.find_status(self.client, settings.connector) is not None
        if is_there and (self.job.anew or not states or any(state.state != DONE for state in states.values())):
            raise RefusedError(
                f"The connector {settings.connector} is there: it goes on from where it is.",
                remedy=f"deltasync connectors delete {settings.connector} --reset-offsets, and drop its slot; then "
                f"deltasync bootstrap{' --anew' if states else ''}",
            )
        if Admin(settings).members():
            raise RefusedError(
                f"The pipeline {settings.pipeline} has workers that run.",
                remedy="Stop every deltasync run; start them when the load is over.",
            )
        if self.job.anew:
            origin.drop_slot(settings, settings.slot)
            self.replica.give_up(states)
            return {}
        if states and not is_there:
            self._refuse_moved(next(iter(states.values())).slot_lsn)
        return states

    def _refuse_moved(self, slot_lsn: int) -> None:
        """The slot has to be where it began: nobody has read it."""
        name = self.settings.slot
        with connect(self.settings.source.conninfo() or "", name="bootstrap", autocommit=True) as source:
            slot = slot_state(source, name)
        if slot is None or not slot.is_unread or slot.confirmed_flush_lsn != slot_lsn:
            what = "is not there any more" if slot is None else "has lost what it held, or was read by somebody"
            raise RefusedError(f"The slot {name} of the load that was interrupted {what}.", remedy=ANEW)

    def connector(self) -> Connector:
        """The connector as it will begin, found valid by Connect before anything is done."""
        (wanted,) = load([], template_variables(self.settings), generated(self.settings))
        wanted = wanted._replace(config={**wanted.config, SNAPSHOT_MODE: NO_DATA})
        apply.check(self.client, [wanted])
        return wanted

    def load(self, states: Mapping[TableId, State]) -> list[str]:
        """Bring the rows that are not there; returns what could not be made behind them.

        A table that was emptied or changed before it was read begins again in a later snapshot, as behind an
        interruption.
        """
        notes = self._loaded(states, 0)
        for attempt in range(1, _TRIES):
            states = self.replica.states()
            if all(state.state == DONE for state in states.values()):
                return notes
            notes += self._loaded(states, attempt)
        raise RefusedError("Tables of the source are emptied or changed all the time.", remedy="Choose a quieter hour.")

    def _loaded(self, states: Mapping[TableId, State], attempt: int) -> list[str]:
        settings, job, replica = self.settings, self.job, self.replica
        unfinished = {id_: state for id_, state in states.items() if state.state == LOADING}
        if states and not unfinished:
            return self._run(None, states)
        if states and settings.consistency == "transaction":
            raise RefusedError(
                f"The rows of {', '.join(map(str, unfinished))} cannot be of the same moment as those of other tables "
                'any more, and with consistency = "transaction" they have to be.',
                remedy=ANEW,
            )
        slot = f"{settings.slot}_{attempt}_load"[-63:] if states else settings.slot
        with origin.opened(settings, slot, lasting=not states, timeout_s=job.timeout_s, tell=job.tell) as source:
            if states:
                replica.go_on(source, unfinished)
            else:
                self._begin(source)
            return self._run(source, replica.states())

    def _begin(self, source: Origin) -> None:
        try:
            found = [] if self.job.keys_only else definitions.found(source.connection, source.captured)
            carried = [one for one in found if one.kind != "p"]
            self.replica.begin(source, Admin(self.settings).logs(), carried)
        except BaseException:
            origin.drop_slot(self.settings, self.settings.slot)  # nobody would know of it
            raise

    def _run(self, source: Origin | None, states: Mapping[TableId, State]) -> list[str]:
        found = Load(self.settings, source, states)
        found.run(self.job.jobs, self.job.tell)
        return found.notes

    def hand_over(self, connector: Connector, states: Mapping[TableId, State]) -> list[TableId]:
        """Start the stream; returns the tables that a worker spoiled meanwhile."""
        late = {id_: state for id_, state in states.items() if state.is_late}
        self.replica.complete([id_ for id_ in states if id_ not in late])
        self.job.tell(f"starting the connector {connector.name} at the slot")
        handover.start(self.settings, self.client, connector, self.job.timeout_s)
        touched = handover.step_over(self.settings, late, self.job.tell)
        self.replica.complete([id_ for id_ in late if id_ not in touched])
        owed = origin.owed(self.settings)
        for id_, log_id in self.replica.log_ids().items():
            if id_ in owed and id_ not in touched:
                complete_on_source(self.settings, id_, log_id, self.job.tell)
        self.replica.end()
        return touched
