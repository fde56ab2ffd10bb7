"""`deltasync resync`: read tables again from the source, and write to the replica what differs (see `attempt`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import msgspec

from deltasync.change import Log, Partition
from deltasync.errors import DeltasyncError, RecordError, RefusedError, UnreachableError
from deltasync.kafka.admin import Admin
from deltasync.kafka.reader import Reader
from deltasync.monitor.lag import topics
from deltasync.monitor.wait import Clock, wait_for_slot
from deltasync.replica.tables import CANARY
from deltasync.resync import attempt, origin
from deltasync.resync.stream import ChangedError
from deltasync.resync.target import Target
from deltasync.settings import Settings
from deltasync.table import TableId
from deltasync.verify.rounds import chosen

# So long a change of a table may be on its way through the schema log; one that goes on is left to a quieter hour.
_CHANGES_S_MAX = 20.0
_AGAIN_S = 1.0


class Resynced(msgspec.Struct, frozen=True):
    """What was written to one table of the replica: rows that were missing there, surplus, or different."""

    table: str
    source_rows: int
    missing: int
    surplus: int
    different: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """How tables are read again: `reason` is kept in the ledger's audit, `tell` hears what is done."""

    reason: str = "resync"
    timeout_s: float = 300.0
    dry_run: bool = False
    tell: Callable[[str], None] = lambda _doing: None


def resync(settings: Settings, names: Collection[str], job: Job) -> Iterator[Resynced]:
    """Make these captured tables of the replica equal to the source's, one after the other.

    Blocks while each is read, and yields what was written. Others may write to the source, and the worker may run.
    Raises SettingsError for a name that is not captured, RefusedError where that cannot be done, UnreachableError
    where a server does not answer or something is not over in time: then nothing of that table was written. One that
    is refused does not keep up those behind it.
    """
    settings.need("source.dsn", "replica.dsn", "kafka.bootstrap", "unavailable_value")
    refuse_whole_transactions(settings)
    refused: DeltasyncError | None = None
    for table in sorted(chosen(settings, names)):
        try:
            done = _until_unchanged(settings, table, job)
        except (RefusedError, RecordError) as error:
            job.tell(f"{table} is left as it is: {error.what}")
            refused = refused or error
        else:
            yield done
    if refused is not None:
        raise refused


def refuse_whole_transactions(settings: Settings) -> None:
    """Raises RefusedError where no table may be ahead of the others."""
    if settings.consistency == "transaction":
        raise RefusedError(
            'With consistency = "transaction" no table may be ahead of the others, as one that is read again is.',
            remedy="Empty the replica and read all of it anew: see the README, from one consistency to the other.",
        )


def _until_unchanged(settings: Settings, table: TableId, job: Job) -> Resynced:
    until = time.monotonic() + _CHANGES_S_MAX
    while True:
        try:
            return _attempted(settings, table, job)
        except ChangedError as changed:
            if time.monotonic() > until:
                raise changed.why from None
            job.tell(f"{table} begins again: {changed.why.what}")
            time.sleep(_AGAIN_S)


def _attempted(settings: Settings, table: TableId, job: Job) -> Resynced:
    """One try at one table."""
    started = time.monotonic()
    (topic,) = topics([table], settings.topic_prefix)
    placeholder = settings.unavailable_value or ""
    how = attempt.Job(
        table, settings.batch.rows_max, placeholder, settings.connect.raw_text, CANARY, job.dry_run, job.tell
    )
    with ExitStack() as stack:
        kafka = _Kafka(settings, topic)
        stack.callback(kafka.close)
        target = Target(settings, table, topic, job.reason, job.tell)
        stack.callback(target.close)
        source_rows, found = attempt.Attempt(how, _Source(settings, table, job), kafka, target).run()
    return Resynced(str(table), source_rows, *found, round(time.monotonic() - started, 3))


class _Kafka(Reader):
    """See `attempt.Kafka`."""

    def __init__(self, settings: Settings, topic: str) -> None:
        super().__init__(settings)
        self._admin, self._topic = Admin(settings), topic

    def logs(self) -> dict[Partition, Log]:
        return {partition: log for partition, log in self._admin.logs().items() if partition.topic == self._topic}


@dataclass(frozen=True)
class _Source:
    """See `attempt.Source`."""

    settings: Settings
    table: TableId
    job: Job

    def opened(self) -> AbstractContextManager[origin.Origin]:
        return origin.opened(self.settings, self.table, self.job.timeout_s, self.job.tell)

    def wait_for_kafka(self) -> None:
        why = wait_for_slot(self.settings, Clock.running(self.job.timeout_s))
        if why:
            raise UnreachableError(
                f"What was committed on the source does not reach Kafka: {why}.",
                remedy="Have the connector run, then read the tables again.",
            )

    def complete(self, log_id: int) -> None:
        origin.complete(self.settings, self.table, log_id, self.job.tell)
