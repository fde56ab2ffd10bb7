"""The partitions that this worker owns, and the state of each.

UNOPENED ──ledger read──▶ READING ──cut──▶ WAITING ──what is known of its table changed──▶ READING
    └──────gap──────┐        └──cannot be read or applied──┐
                    ▼                                      ▼
                              STOPPED (until its ledger is moved by hand, or it is assigned anew)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from deltasync.change import Log, Partition
from deltasync.errors import DeltasyncError
from deltasync.parking import Parked
from deltasync.progress import Claim, Progress
from deltasync.readable import Cut, Tables

# A description travels in another partition, and another worker may apply it: so often we look for it.
_CHECK_EVERY_S = 0.25


class PartitionState(Enum):
    """See the module's picture."""

    UNOPENED = "unopened"
    READING = "reading"
    WAITING = "waiting"
    STOPPED = "stopped"


class Owned:
    """One partition of ours."""

    def __init__(self, partition: Partition, log: Log) -> None:
        self.partition = partition
        self.log = log
        self.state = PartitionState.UNOPENED
        self.progress = Progress()
        self.parked = Parked()
        self.cut: Cut | None = None
        self.tables: Tables | None = None
        self.error: DeltasyncError | None = None

    @property
    def is_reading(self) -> bool:
        return self.state is PartitionState.READING

    def opened(self, progress: Progress) -> None:
        """The ledger was read. A partition that stopped stays so; one that waits reads on from the ledger."""
        if self.state is not PartitionState.STOPPED:
            self.progress, self.state, self.cut = progress, PartitionState.READING, None

    def waits(self, cut: Cut, tables: Tables) -> bool:
        """Begin to wait for other tables than these, or go on waiting at the same record; True if this is news."""
        news = self.cut is None or self.cut.offset != cut.offset or self.cut.error.what != cut.error.what
        self.cut, self.tables, self.state = cut, tables, PartitionState.WAITING
        return news

    def goes_on(self) -> None:
        """Read again; `cut` stays, to tell whether the next wait is news."""
        self.state = PartitionState.READING

    def stopped(self, error: DeltasyncError) -> None:
        self.error, self.state = error, PartitionState.STOPPED


class Ownership:
    """All partitions of this worker."""

    def __init__(self) -> None:
        self._owned: dict[Partition, Owned] = {}
        self._checked = 0.0

    def assigned(self, logs: Mapping[Partition, Log]) -> None:
        self._owned.update({partition: Owned(partition, log) for partition, log in logs.items()})

    def revoked(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._owned.pop(partition, None)

    def moved(self, to: Mapping[Partition, Progress]) -> None:
        """A batch was applied."""
        for partition, progress in to.items():
            self._owned[partition].progress = progress

    def parked(self) -> dict[Partition, Parked]:
        """What is set aside, of the partitions of which something is."""
        return {partition: owned.parked for partition, owned in self._owned.items() if owned.parked.keys}

    def parks(self, parked: Mapping[Partition, Parked]) -> None:
        """What is set aside of these partitions now."""
        for partition, found in parked.items():
            if partition in self._owned:
                self._owned[partition].parked = found

    def replaced(self, topic_ids: Mapping[str, str]) -> list[Partition]:
        """These topics have other ids now; returns their partitions, whose ledger has to be read again."""
        found = [p for p, log in self.logs().items() if p.topic in topic_ids and log.topic_id != topic_ids[p.topic]]
        for partition in found:
            owned = self._owned[partition]
            owned.log = owned.log._replace(topic_id=topic_ids[partition.topic])
            owned.state = PartitionState.UNOPENED
        return found

    def get(self, partition: Partition) -> Owned | None:
        return self._owned.get(partition)

    def all(self) -> list[Owned]:
        return list(self._owned.values())

    def claim(self, partition: Partition) -> Claim:
        owned = self._owned[partition]
        return Claim(owned.log.topic_id, owned.progress)

    def is_open(self, partition: Partition) -> bool:
        owned = self._owned.get(partition)
        return owned is not None and owned.is_reading

    @property
    def unopened(self) -> bool:
        """True if the ledger could not be read for some partition yet."""
        return any(owned.state is PartitionState.UNOPENED for owned in self._owned.values())

    def progress(self) -> dict[Partition, Progress]:
        """The partitions that are read, and how far they are."""
        return {partition: owned.progress for partition, owned in self._owned.items() if owned.is_reading}

    def logs(self) -> dict[Partition, Log]:
        """What the broker held of each partition when it was assigned; those that stopped are left out."""
        return {p: owned.log for p, owned in self._owned.items() if owned.state is not PartitionState.STOPPED}

    def spread(self) -> frozenset[str]:
        """The topics of more than one partition: no order holds between those."""
        return frozenset(p.topic for p, owned in self._owned.items() if owned.log.partitions > 1)

    def several(self) -> frozenset[Partition]:
        """The partitions of those topics, whatever state they are in."""
        return frozenset(p for p, owned in self._owned.items() if owned.log.partitions > 1)

    def young(self) -> frozenset[Partition]:
        """The partitions of those topics of which no streamed change was applied yet, whatever state they are in."""
        return frozenset(
            p for p, owned in self._owned.items() if owned.log.partitions > 1 and owned.progress.committed_us is None
        )

    def waiting(self) -> list[Owned]:
        return [owned for owned in self._owned.values() if owned.state is PartitionState.WAITING]

    def due(self, now: float) -> bool:
        """True if something waits and it is time to look again."""
        if not self.waiting() or now - self._checked < _CHECK_EVERY_S:
            return False
        self._checked = now
        return True
