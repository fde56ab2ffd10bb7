"""What the loop asks of Kafka and of the replica: the real ones and those in memory answer alike. Pure.

`tests/conformance` holds each implementation to what is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, NoReturn, Protocol

from deltasync.canary import Beat
from deltasync.change import Log, Partition, Record
from deltasync.debezium.schema_log import SchemaEvent
from deltasync.errors import GapError, SourceError
from deltasync.parking import Letter, Parked, Void
from deltasync.plan import TablePlan
from deltasync.progress import Claim, Progress
from deltasync.readable import Due
from deltasync.table import SourceTable, TableId


class Owner(Protocol):
    """Told about partitions from inside `poll`, on the polling thread."""

    def on_assign(self, partitions: Mapping[Partition, Log]) -> Mapping[Partition, int]:
        """Return the offset at which each partition is read; one that is left out is not read."""

    def on_revoke(self, partitions: Iterable[Partition], *, lost: bool) -> None:
        """The partitions belong to others now; `lost` if that has been so for a while."""

    def on_missing(self, partition: Partition) -> None:
        """The log does not hold the offset that was to be read next."""

    def on_damaged(self, partition: Partition) -> None:
        """What is to be read next has another checksum than it was written with."""


class Consumer(Protocol):
    """One member of the consumer group. Not thread-safe; all callbacks run inside `poll`.

    Kafka's committed offsets are written as a hint for monitors and never read. There is no offset reset:
    an offset that the log does not hold is an error of its partition (`Owner.on_missing`).
    """

    def start(self, owner: Owner) -> None:
        """Join the group, and tell `owner` about partitions. Raises UnreachableError where no broker answers."""

    def poll(self, *, rows_max: int, bytes_max: int, wait_s: float) -> list[Record]:
        """The records that are there, at most `rows_max`, about `bytes_max`; waits for the first one.

        The bounds do not part the halves of a key change: a batch that ended between them would for ever.
        Returns an empty list after `wait_s` seconds without any. Keeps this member in its group.
        """

    def pause(self, partition: Partition) -> None:
        """Deliver nothing of `partition` until `reposition`."""

    def reposition(self, partition: Partition, offset: int) -> None:
        """Read `partition` from `offset` next, whether it was paused or not."""

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """Tell the group how far we are, for monitors; does not wait, and a failure does no harm."""

    def logs(self, partitions: list[Partition]) -> dict[Partition, Log]:
        """What the broker holds of these partitions. Raises UnreachableError where it does not say."""

    def exists(self, topic: str) -> bool:
        """True where the broker has this topic. Raises UnreachableError where it does not say."""

    def replaced(self, known: Mapping[str, str]) -> dict[str, str]:
        """Those of these topics, by their ids, that have another id by now, with that id.

        A topic that is not described just now is left out.
        """

    def end_offset(self, partition: Partition) -> int | None:
        """The next offset that will be written, as the last fetch told; None where it is not known."""

    def close(self) -> None:
        """Leave the group."""


class Steps(Protocol):
    """What a transaction does, step by step."""

    def __iter__(self) -> Iterator[Sequence[TablePlan]]: ...

    def longer(self) -> Sequence[TablePlan] | None:
        """The last step with what follows it, asked for where it does not fit in alone; None if nothing does."""


class Batch(NamedTuple):
    """What one transaction covers: partitions as they were, where they are after it, and what is done.

    `rest` is done after `plans`, step by step: it is asked for while the transaction is under way. `beats` are all of
    the pipeline's canary that came, in order, of which `plans` has the last one. `letters` are set aside, in partitions
    that have so many already as `parked` says; `voids` makes those void that were there before.
    """

    claims: Mapping[Partition, Claim]
    to: Mapping[Partition, Progress]
    plans: Sequence[TablePlan] = ()
    events: Sequence[SchemaEvent] = ()
    rest: Steps | None = None
    beats: Sequence[Beat] = ()
    letters: Sequence[Letter] = ()
    parked: Mapping[Partition, int] = {}
    voids: Sequence[Void] = ()


def at_once(act: Callable[[], int]) -> Callable[[], int]:
    """Do it now; the function that is returned tells the outcome, and raises what failed."""
    try:
        rows = act()
    except Exception as error:  # noqa: BLE001 - who asks for the outcome gets it
        return partial(_raise, error)
    return lambda: rows


def _raise(error: Exception) -> NoReturn:
    raise error


# What the broker holds of partitions; raises UnreachableError where it does not say.
Logs = Callable[[list[Partition]], Mapping[Partition, Log]]


class Replica(Protocol):
    """One worker's session on the replica, which connects when it is first needed, and again after a failure."""

    def open(self, ids: Mapping[Partition, str]) -> dict[Partition, Progress | GapError | SourceError]:
        """How far each partition of a topic (by its id) has been applied; those of a new one start at 0. Idempotent.

        A topic is opened with all of its partitions, whoever reads them: one that comes later was added. A GapError
        stands for such a one, and for one whose topic the ledger knows under another id only: it was deleted and made
        again, and what was in the old one may not be in the new one. A SourceError stands for all of a pipeline whose
        source is another one (see `apply`), until somebody accepts that.
        """

    def parked(self, ids: Mapping[Partition, str]) -> dict[Partition, Parked]:
        """What was set aside of these partitions; those of which nothing was are left out."""

    def sets_aside(self) -> bool:
        """True where something of the pipeline is set aside, whoever reads its partition."""

    def settled(self) -> int:
        """The source's transactions below this number are in Kafka, as the canary tells; 0 where it does not."""

    def tables(self) -> dict[TableId, SourceTable]:
        """What is known of the source's tables."""

    def moved_since(self, audited: int) -> tuple[int, set[Partition]]:
        """The partitions that were moved by hand after the audit's entry `audited`, and its newest entry now."""

    def apply(self, batch: Batch) -> int:
        """Apply a batch and move the ledger in one transaction; returns how many rows were written.

        Raises FencedError where the ledger is not where `claims` say, or what is set aside is not what `parked` says;
        then nothing was written, as after any other error. So it does where `beats` tell of another source, which is
        written down, and from then on for all of the pipeline. Where beats are missing, all captured tables are
        incomplete from here on. An error from COMMIT itself leaves open whether it took place: the fence of the next
        try answers that.
        """

    def start(self, batch: Batch) -> Callable[[], int]:
        """Begin to apply a batch; the function that is returned waits for it, and returns or raises what `apply` does.

        All else that is asked of the session meanwhile, but `cancel`, waits for it, too.
        """

    def carry_out(self, due: Due, claims: Mapping[Partition, Claim], logs: Logs) -> bool:
        """Make a table fit its next version, if that is this one, in a transaction of its own.

        `claims` is the table's partition where all rows from before the version were applied; without it, only what
        may be done at any time is. With a table that is dropped goes what is set aside of it, and where rows of another
        one under its name may have been applied, the ledger goes back to where `logs` say that the log begins. What the
        replica refuses is held. False where somebody else has the table's lock:
        nothing was done, and it is to be tried again. Raises FencedError as `apply` does.
        """

    def cancel(self) -> None:
        """Cancel the statement that runs now; callable from another thread."""

    def close(self) -> None:
        """Close the session; what was not committed is rolled back. Idempotent."""
