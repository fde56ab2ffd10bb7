"""A batch that is applied in the background, while the next one is polled and read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from deltasync.assignment import Assignment
from deltasync.bulk import Bulk
from deltasync.change import Partition, Record
from deltasync.failure import is_to_blame
from deltasync.lifecycle import APPLY_S_MAX, Lifecycle
from deltasync.ports import Batch, Replica
from deltasync.progress import Claim, Progress

# Told of a batch that was applied: what it did, how far its partitions are now, the rows, the seconds that it took.
Applied = Callable[[Bulk, dict[Partition, Progress], int, float], None]


class _Batch(NamedTuple):
    found: Bulk
    claims: dict[Partition, Claim]
    outcome: Callable[[], int]
    started: float


class Flight:
    """At most one batch on its way."""

    def __init__(self, assignment: Assignment, replica: Replica, lifecycle: Lifecycle, applied: Applied) -> None:
        self._assignment = assignment
        self._replica = replica
        self._lifecycle = lifecycle
        self._applied = applied
        self._batch: _Batch | None = None

    @property
    def is_under_way(self) -> bool:
        return self._batch is not None

    def progress(self) -> dict[Partition, Progress]:
        """The partitions that are read, and how far they are once the batch has landed."""
        found = self._assignment.progress()
        if self._batch is None:
            return found
        return found | {p: to for p, to in self._batch.found.to.items() if p in found and self._is_claimed(p)}

    def start(self, found: Bulk) -> None:
        """Begin to apply plain records; nothing else may be under way."""
        claims = {partition: self._assignment.claim(partition) for partition in found.to}
        for rows in (rows for plan in found.plans for rows in plan.upserts):
            rows.copy_text  # noqa: B018 - made here, since the thread that applies would have to share this one's time
        outcome = self._replica.start(Batch(claims, found.to, found.plans))
        self._batch = _Batch(found, claims, outcome, self._lifecycle.clock())

    def land(self) -> Sequence[Record] | None:
        """Wait for the batch. Where a record is to blame: all of them that are ours still, of which none was applied.

        Raises what else the replica does.
        """
        batch = self._batch
        if batch is None:
            return None
        self._lifecycle.turns(within_s=APPLY_S_MAX)
        try:
            rows = batch.outcome()
        except Exception as error:
            ours = {partition for partition in batch.claims if self._is_claimed(partition)}
            self._batch = None
            if not is_to_blame(error):
                raise
            return [record for record in batch.found.records if record.partition in ours]
        to = {partition: progress for partition, progress in batch.found.to.items() if self._is_claimed(partition)}
        self._batch = None
        self._applied(batch.found, to, rows, self._lifecycle.clock() - batch.started)
        return None

    def wait(self) -> None:
        """Return when the replica has done with the batch, whatever became of it; it still has to `land`."""
        if self._batch is not None:
            with suppress(Exception):
                self._batch.outcome()

    def _is_claimed(self, partition: Partition) -> bool:
        """False where the partition was taken away meanwhile, or opened anew."""
        claims = self._batch.claims if self._batch else {}
        return self._assignment.owns(partition) and self._assignment.claim(partition) == claims.get(partition)
