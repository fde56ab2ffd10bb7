"""Whether a worker is ready, and why not: pure. Connect's RUNNING proves nothing, the canary on the replica does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from deltasync.canary import refusal
from deltasync.change import Partition
from deltasync.connect.status import Condition, Status
from deltasync.errors import DeltasyncError, SourceError
from deltasync.lifecycle import State
from deltasync.monitor.reason import Reason
from deltasync.ownership import PartitionState
from deltasync.replica import observe as replica
from deltasync.source import observe as source
from deltasync.table import TableId

T = TypeVar("T")

# DDL under way: the publication has changed, and the schema log's entry about it is on its way.
DIGEST_GRACE_S = 10.0
# A server that was not read for so long is taken for silent, although no call has failed yet.
SILENT_S_MAX = 15.0
# More tables or partitions than this in one answer tell nobody more.
_NAMED_MAX = 20


class Trouble(NamedTuple):
    """A partition of this worker that is not read now."""

    partition: Partition
    state: PartitionState
    error: DeltasyncError


class Reading(NamedTuple, Generic[T]):
    """What a server last told, when (monotonic), and why it does not tell more since."""

    value: T | None
    at: float
    error: DeltasyncError | None = None

    def trouble(self, now: float) -> DeltasyncError | None:
        """Why the server cannot be asked; None where it answers."""
        if self.error is None and now - self.at > SILENT_S_MAX:
            return DeltasyncError(f"It has not answered for {now - self.at:.0f} s.", remedy="See whether it is up.")
        return self.error


class Facts(NamedTuple):
    """All that is judged. `age_s` is the canary's (see freshness); what is not set up is None.

    `failing` is what the worker's own session on the replica meets; `differs_s` for how long the
    publication has not been what was announced; `lacks_commits`, that the source's log ends before what was applied.
    A connector that Connect does not know is None, too.
    """

    state: State
    failing: str | None
    troubles: Sequence[Trouble]
    age_s: float | None
    proven: bool
    differs_s: float
    replica: Reading[replica.View]
    kafka: Reading[None]
    source: Reading[source.View] | None = None
    connector: Reading[Status | None] | None = None
    lacks_commits: bool = False


def judge(facts: Facts, *, age_s_max: float, now: float) -> list[Reason]:
    """Every reason why the worker is not ready, what is nearest to the cause first; none if it is."""
    return [
        *_identity(facts),
        *_worker(facts),
        *_servers(facts, now),
        *_source(facts),
        *_connector(facts),
        *_canary(facts, age_s_max, now),
        *_tables(facts),
    ]


def _identity(facts: Facts) -> Iterator[Reason]:
    canary = facts.replica.value.canary if facts.replica.value else None
    if canary is not None and canary.refused is not None:
        error = refusal(canary.refused)
        yield Reason("Nothing of the pipeline is applied.", error.what, error.remedy)
    if canary is not None and canary.doubt is not None:
        yield Reason(
            "The source failed over.",
            canary.doubt,
            "Read the tables again where anything is missing (`deltasync resync`), then: deltasync ledger "
            "accept-source --reason …",
        )


def _worker(facts: Facts) -> Iterator[Reason]:
    if facts.state is not State.RUNNING:
        yield Reason(f"The worker is {facts.state.value}.", "It applies nothing now.", "Wait, or read its log.")
    troubles = [trouble for trouble in facts.troubles if not isinstance(trouble.error, SourceError)]
    for trouble in troubles[:_NAMED_MAX]:
        does = "waits" if trouble.state is PartitionState.WAITING else "is stopped"
        yield Reason(f"The partition {trouble.partition} {does}.", trouble.error.what, trouble.error.remedy)
    if len(troubles) > _NAMED_MAX:
        more = len(troubles) - _NAMED_MAX
        yield Reason(f"{more} more partitions wait or are stopped.", "Only some are named.", "Read the worker's log.")


def _servers(facts: Facts, now: float) -> Iterator[Reason]:
    trouble = facts.replica.trouble(now)
    if trouble is not None or facts.failing is not None:
        why = trouble.what if trouble else f"{facts.failing}."
        yield Reason("The replica cannot be used.", why, trouble.remedy if trouble else "Mend it; nothing is lost.")
    trouble = facts.kafka.trouble(now)
    if trouble is not None:
        yield Reason("Kafka cannot be used.", trouble.what, trouble.remedy)


def _source(facts: Facts) -> Iterator[Reason]:
    if facts.lacks_commits:
        yield Reason(
            "The source's log ends before what was applied.",
            "It failed over to a server, or went back to a backup, that lacks commits which the replica has. The "
            "connector passes nothing on until that log has come as far again: what is committed meanwhile is lost.",
            "Run `deltasync recover --force`: it goes on from where the source is, and reads the tables again.",
        )
    found = facts.source.value if facts.source else None
    if found is None:
        return
    if not found.publication:
        yield Reason(
            "The publication is missing on the source.",
            "It was dropped, or never made: what is committed meanwhile is lost to Kafka, and Connect does not notice.",
            "Run `deltasync source setup`, then `deltasync recover --force`: it reads the tables again.",
        )
    if found.slot is None:
        yield Reason(
            "The replication slot is missing on the source.",
            "It was dropped, or the connector has not made it yet.",
            "`deltasync connectors status` says which. Where it was dropped, run `deltasync recover`.",
        )
    elif found.slot.wal_status == "lost" or found.slot.invalidation_reason:
        yield _lost(found.slot.invalidation_reason)
    elif found.slot.wal_status == "unreserved":
        yield _unreserved()
    for table, code in found.holes[:_NAMED_MAX]:
        yield Reason(
            f"The schema log has a hole at {table}.",
            f"Its event trigger failed (SQLSTATE {code}), and the heartbeat could not make up for it.",
            "Run `deltasync source setup`: it fills the hole, or says why it cannot be.",
        )


def _lost(why: str | None) -> Reason:
    return Reason(
        "The replication slot is invalidated.",
        f"The source removed what the connector had not read{f' ({why})' if why else ''}; Connect does not notice.",
        "The changes since are lost to Kafka: `deltasync recover` makes another slot and reads the tables again.",
    )


def _unreserved() -> Reason:
    return Reason(
        "The replication slot is about to be invalidated.",
        "The connector is behind by more WAL than the source keeps (max_slot_wal_keep_size).",
        "Raise max_slot_wal_keep_size at once, and see why the connector is slow.",
    )


def _connector(facts: Facts) -> Iterator[Reason]:
    status = facts.connector.value if facts.connector else None
    for failure in status.failures() if status else ():
        why = failure.diagnosis.cause or failure.diagnosis.line
        yield Reason(f"The connector's {failure.part} has failed.", why, failure.diagnosis.remedy)


def _canary(facts: Facts, age_s_max: float, now: float) -> Iterator[Reason]:
    if not facts.proven:
        what = "Unproven: no beat of the source's canary has come since this worker started."
        why, remedy = _standstill(facts, now)
        yield Reason(what, why or "The initial snapshot is running, or the connector is not applied yet.", remedy)
    elif facts.age_s is not None and facts.age_s > age_s_max:
        what = f"The canary on the replica is {facts.age_s:.0f} s old; {age_s_max:g} s are allowed."
        why, remedy = _standstill(facts, now)
        yield Reason(what, why or "The connector does not pass changes on, or what it passes is late.", remedy)
    view = facts.replica.value
    if view is None or view.canary is None:
        return
    if view.canary.slot_wal_status in ("lost", "unreserved") and not (facts.source and facts.source.value):
        yield _lost(None) if view.canary.slot_wal_status == "lost" else _unreserved()
    if facts.differs_s > DIGEST_GRACE_S:
        yield Reason(
            "The publication does not hold the tables that were announced as captured.",
            f"It holds {view.canary.publication_tables}. It was changed past deltasync, or DDL was not logged.",
            "Run `deltasync source setup`: it brings both together. Read the tables again that were missing.",
        )


def _standstill(facts: Facts, now: float) -> tuple[str, str]:
    """What is known of why the canary stands still, and what to do; "" where nothing is."""
    if facts.kafka.trouble(now):
        return "Kafka cannot be used.", "Mend Kafka."
    trouble = facts.source.trouble(now) if facts.source else None
    if trouble is not None:
        return f"The source cannot be asked: {trouble.what}", trouble.remedy
    if facts.connector is None:
        return "", "See `deltasync connectors status`, and whether the source and Connect are up."
    trouble = facts.connector.trouble(now)
    if trouble is not None:
        return f"Connect cannot be asked: {trouble.what}", trouble.remedy
    if facts.connector.value is None:
        return "Connect knows no such connector.", "`deltasync connectors apply`."
    condition = facts.connector.value.condition
    slot = facts.source.value.slot if facts.source and facts.source.value else None
    remedy = "Read the log of Connect's worker, and see whether the source's publication and slot are there."
    match condition:
        case Condition.PAUSED | Condition.STOPPED:
            return f"The connector is {condition.value}.", "`deltasync connectors resume`."
        case Condition.FAILED:
            return "The connector has failed.", "`deltasync connectors status` says why, and what to do."
        case Condition.IDLE | Condition.STARTING:
            return f"The connector is {condition.value}.", remedy
        case Condition.RUNNING if facts.proven and slot is not None and slot.is_unread:
            return (
                "The connector is running, and nobody reads its slot: its connection to the source has died.",
                "Wait: after half a minute of that it is restarted. Where it is not, restart Connect's worker.",
            )
        case _:
            return "", remedy


def _tables(facts: Facts) -> Iterator[Reason]:
    known = facts.replica.value.tables if facts.replica.value else ()
    held = [(table.table, table.held) for table in known if table.captured and table.held]
    owed = [table.table for table in known if table.captured and not table.complete and table.missing is None]
    for table, why in held[:_NAMED_MAX]:
        yield Reason(
            f"The table {table} is held.",
            f"{why}.",
            "See `deltasync schema list`: approve what it shows, or make the replica's table fit the source's, then "
            "run `deltasync replica setup`.",
        )
    letters = facts.replica.value.letters if facts.replica.value else {}
    for table, (failed, records) in sorted(letters.items())[:_NAMED_MAX]:
        yield Reason(
            f"Of the table {table}, {records} records are set aside as dead letters.",
            f"{failed} of them could not be applied, the others wait behind those.",
            "`deltasync dead-letters list` says why. Mend that, and replay them.",
        )
    for missing, tables in _by_missing(known).items():
        yield Reason(
            f"Rows may be missing from {', '.join(map(str, tables[:_NAMED_MAX]))}"
            f"{f' and {len(tables) - _NAMED_MAX} more tables' if len(tables) > _NAMED_MAX else ''}.",
            missing,
            "Read these tables again from the source (`deltasync resync`), or see that nothing was committed then; "
            "after that: deltasync ledger accept-source --reason …",
        )
    for table in owed[:_NAMED_MAX]:
        yield Reason(
            f"The table {table} is incomplete.",
            "It held rows before it was captured, and these have not been read.",
            "Read it into the replica; until then only what changed since is there.",
        )


def _by_missing(known: Iterable[replica.Known]) -> dict[str, list[TableId]]:
    """The tables that lack what was sent with the same beats."""
    found: dict[str, list[TableId]] = {}
    for table in known:
        if table.captured and not table.complete and table.missing is not None:
            found.setdefault(table.missing, []).append(table.table)
    return found
