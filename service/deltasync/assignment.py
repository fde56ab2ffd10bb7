"""The partitions that the group assigns to this worker: opened where the ledger says, blocked, and woken again.

Holds the consumer, and is its `Owner`: the callbacks run inside `poll`, on the loop's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping

import structlog

from deltasync.change import Log, Partition, Record
from deltasync.errors import DeltasyncError, GapError
from deltasync.failure import Verdict, describe, verdict
from deltasync.monitor.health import Trouble
from deltasync.monitor.metrics import Metrics
from deltasync.ownership import Ownership
from deltasync.parking import Parked
from deltasync.ports import Consumer, Replica
from deltasync.progress import Claim, Progress
from deltasync.readable import Cut, Due, Tables

log = structlog.get_logger(__name__)

_POLL_S = 0.2
# How soon a worker hears that its ledger was moved by hand.
_BY_HAND_EVERY_S = 2.0
# How soon it notices that a topic was deleted and made again under it.
_RECHECK_EVERY_S = 5.0
_OBSERVE_EVERY_S = 1.0


class Assignment:
    """The partitions of one worker. All methods but `troubles` belong to the loop's thread.

    Those that read the ledger raise what the replica raises; `reread` is the way back from all of it.
    """

    def __init__(
        self, group: str, consumer: Consumer, replica: Replica, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._group = group
        self._consumer = consumer
        self._replica = replica
        self._metrics = metrics
        self._clock = clock
        self._ownership = Ownership()
        # Waits for what is under way on the replica, so that who gets a partition finds all of it in the ledger.
        self.settle: Callable[[], None] = lambda: None
        self._audited = 0
        self._heard_at = 0.0
        self._observed_at = 0.0
        self._rechecked_at = 0.0

    def start(self) -> None:
        """Join the group. Raises UnreachableError where no broker answers."""
        self._audited, _ = self._replica.moved_since(0)
        self._consumer.start(self)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def poll(self, rows_max: int, bytes_max: int) -> list[Record]:
        """What is there to be read, blocked partitions left out; waits a moment where there is nothing."""
        records = self._consumer.poll(rows_max=rows_max, bytes_max=bytes_max, wait_s=_POLL_S)
        self._metrics.records.inc(len(records))
        return records

    def progress(self) -> dict[Partition, Progress]:
        """The partitions that are read, and how far they were applied."""
        return self._ownership.progress()

    def spread(self) -> frozenset[str]:
        """The topics of more than one partition."""
        return self._ownership.spread()

    def several(self) -> frozenset[Partition]:
        """The partitions of topics of more than one, read or not."""
        return self._ownership.several()

    def young(self) -> frozenset[Partition]:
        """The partitions of such topics, read or not, of which no streamed change was applied yet."""
        return self._ownership.young()

    def is_read(self, partition: Partition) -> bool:
        """True for a partition that is ours and not blocked."""
        return self._ownership.is_open(partition)

    def owns(self, partition: Partition) -> bool:
        """True for a partition that is ours, whatever its state."""
        return self._ownership.get(partition) is not None

    def claim(self, partition: Partition) -> Claim:
        """What the fence has to find in the ledger."""
        return self._ownership.claim(partition)

    def parked(self) -> dict[Partition, Parked]:
        """What is set aside of the partitions of this worker, where something is."""
        return self._ownership.parked()

    def parks(self, parked: Mapping[Partition, Parked]) -> None:
        """What is set aside of these partitions now."""
        self._ownership.parks(parked)

    def moved(self, to: Mapping[Partition, Progress]) -> None:
        """A batch was applied: remember it, and tell the group as a hint for monitors."""
        self._ownership.moved(to)
        self._consumer.commit({partition: progress.next_offset for partition, progress in to.items()})

    def troubles(self) -> list[Trouble]:
        """The partitions that wait or are stopped, and why; callable from other threads."""
        found = ((owned, owned.error or (owned.cut and owned.cut.error)) for owned in self._ownership.all())
        return [Trouble(o.partition, o.state, why) for o, why in found if why is not None and not o.is_reading]

    def observe(self) -> None:
        """Bring the metrics of the partitions up to date, once a second: they cost what there are of them."""
        now = time.monotonic()
        if now - self._observed_at < _OBSERVE_EVERY_S:
            return
        self._observed_at = now
        self._metrics.ownership(self._group, self._ownership, self._consumer.end_offset)

    # Told by the consumer, from inside poll

    def on_assign(self, partitions: Mapping[Partition, Log]) -> Mapping[Partition, int]:
        """Open partitions at the ledger; where it cannot be read now, `look_around` tries again."""
        self._ownership.assigned(partitions)
        try:
            self._open(partitions)
            self._check(partitions)
        except Exception as error:
            if verdict(error) not in (Verdict.RETRY, Verdict.REREAD):
                raise
            log.warning("partitions not opened yet", reason=describe(error))
        log.info("assigned", partitions=len(partitions))
        return {p: progress.next_offset for p, progress in self.progress().items() if p in partitions}

    def on_revoke(self, partitions: Iterable[Partition], *, lost: bool) -> None:
        """Forget partitions; a batch that covers one is fenced if its new owner was faster."""
        revoked = list(partitions)
        if not lost:
            self.settle()
        self._ownership.revoked(revoked)
        for partition in revoked:
            self._metrics.forget(self._group, partition)
        log.info("revoked", partitions=len(revoked), lost=lost)

    def on_missing(self, partition: Partition) -> None:
        """Stop a partition whose log ends before the ledger, or begins behind it."""
        what = "the log does not hold offset {}"
        self._stop_once(partition, lambda progress: _gap(partition, what.format(progress.next_offset)))

    def on_damaged(self, partition: Partition) -> None:
        """Stop a partition whose next records are not what was written."""
        self._stop_once(partition, lambda _progress: _damaged(partition))

    def _stop_once(self, partition: Partition, error: Callable[[Progress], DeltasyncError]) -> None:
        """The consumer may tell again and again: a partition that stopped keeps its reason."""
        owned = self._ownership.get(partition)
        if owned is not None and owned.error is None:
            self.stop(partition, error(owned.progress))

    # Blocked and woken

    def block(self, cut: Cut, tables: Tables) -> None:
        """Read a partition no further: it waits until other tables than these are known, or it stops for good."""
        owned = self._ownership.get(cut.partition)
        if owned is None or owned.error is not None:
            return
        if not cut.waits:
            self.stop(cut.partition, cut.error)
            return
        self._consumer.pause(cut.partition)
        if owned.waits(cut, tables) and not cut.again:
            log.warning("partition waits", partition=str(cut.partition), reason=cut.error.what, do=cut.error.remedy)

    def waited(self, partition: Partition, offset: int) -> bool:
        """True if this record was the one that its partition waited at last."""
        owned = self._ownership.get(partition)
        return owned is not None and owned.cut is not None and owned.cut.offset == offset

    def has_behind(self, partition: Partition, offset: int) -> bool:
        """True if the log is known to go on behind this record."""
        end = self._consumer.end_offset(partition)
        return end is not None and end > offset + 1

    def stop(self, partition: Partition, error: DeltasyncError) -> None:
        """Read a partition no further until its ledger is moved by hand, or it is assigned anew."""
        owned = self._ownership.get(partition)
        if owned is None:
            return
        if owned.is_reading:
            self._consumer.pause(partition)
        owned.stopped(error)
        log.error("partition stopped", partition=str(partition), reason=error.what, do=error.remedy)

    def is_waiting(self) -> bool:
        """True if a partition waits for its table, and it is time to look whether more is known of it."""
        return self._ownership.due(self._clock())

    def due(self) -> dict[Due, dict[Partition, Claim]]:
        """The changes of tables for which the time has come, each with the partition that waits for it."""
        found = {owned.cut.due: owned.partition for owned in self._ownership.waiting() if owned.cut and owned.cut.due}
        return {due: {partition: self.claim(partition)} for due, partition in found.items()}

    def wake(self, tables: Tables) -> None:
        """Go on with the partitions that waited for other tables than they knew, or only for their next record."""
        for owned in self._ownership.waiting():
            if owned.tables is not tables or (owned.cut is not None and owned.cut.again):
                owned.goes_on()
                self._consumer.reposition(owned.partition, owned.progress.next_offset)

    def look_around(self) -> bool:
        """Open what could not be opened; every few seconds notice what others did to partitions or their topics.

        True if the ledger was read again for that, behind a failure.
        """
        is_unopened = bool(self._ownership.unopened)
        if is_unopened:
            self.reread()
        now = self._clock()
        if now - self._heard_at >= _BY_HAND_EVERY_S:
            self._heard_at = now
            self._hear()
        if now - self._rechecked_at >= _RECHECK_EVERY_S:
            self._rechecked_at = now
            self._recheck()
        return is_unopened

    def reread(self) -> None:
        """Read the ledger again for all partitions that have not stopped, and go on where it says."""
        self._open(self._ownership.logs())
        self.rewind()

    def rewind(self, partitions: Collection[Partition] | None = None) -> None:
        """Read these partitions, or all, again from where they were applied."""
        for partition, progress in self.progress().items():
            if partitions is None or partition in partitions:
                self._consumer.reposition(partition, progress.next_offset)

    def hold(self, partition: Partition) -> None:
        """Deliver nothing of a partition until it is read on; it keeps its state."""
        self._consumer.pause(partition)

    def logs(self, partitions: list[Partition]) -> Mapping[Partition, Log]:
        """What the broker holds of partitions, whoever reads them. Raises UnreachableError where it does not say."""
        return self._consumer.logs(partitions)

    def exists(self, topic: str) -> bool:
        """True where the broker has this topic. Raises UnreachableError where it does not say."""
        return self._consumer.exists(topic)

    def end_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Where the logs of these partitions end now. Raises UnreachableError where the broker does not say."""
        return {partition: log_.end_offset for partition, log_ in self._consumer.logs(list(partitions)).items()}

    def read_on(self, partition: Partition, offset: int) -> None:
        """Deliver a partition's records again, from this offset on."""
        self._consumer.reposition(partition, offset)

    def _hear(self) -> None:
        """Open the partitions anew whose ledger was moved by hand, those that stopped included."""
        audited, moved = self._replica.moved_since(self._audited)
        logs = self._consumer.logs([partition for partition in moved if self._ownership.get(partition)])
        self._ownership.assigned(logs)
        self._open(logs)
        self._check(logs)
        self._audited = audited
        for partition, progress in self.progress().items():
            if partition in logs:
                log.info("moved by hand", partition=str(partition), next_offset=progress.next_offset)
                self._consumer.reposition(partition, progress.next_offset)

    def _recheck(self) -> None:
        """Open the partitions anew whose topic was replaced; the ledger knows another one, so they stop."""
        ids = {partition.topic: log_.topic_id for partition, log_ in self._ownership.logs().items()}
        for partition in self._ownership.replaced(self._consumer.replaced(ids)):
            self._consumer.pause(partition)

    def _open(self, logs: Mapping[Partition, Log]) -> None:
        """Read the ledger for these partitions, then what was set aside: the fence tells where that is newer.

        The ledger learns of all that their topics have, and tells which were added.
        """
        ids = {Partition(p.topic, n): log_.topic_id for p, log_ in logs.items() for n in range(log_.partitions)}
        opened = self._replica.open(ids)
        parked = self._replica.parked(ids)
        self._ownership.parks({partition: parked.get(partition, Parked()) for partition in logs})
        for partition, found in opened.items():
            owned = self._ownership.get(partition)
            if owned is None or partition not in logs:
                continue
            if isinstance(found, Progress):
                owned.opened(found)
            else:
                self.stop(partition, found)

    def _check(self, logs: Mapping[Partition, Log]) -> None:
        """Stop the partitions whose log does not reach to where the ledger is."""
        for partition, progress in self.progress().items():
            if partition not in logs or _gap_between(partition, logs[partition], progress) is None:
                continue
            # A previous owner may have applied more since we asked for the log's end: ask again.
            gap = _gap_between(partition, self._consumer.logs([partition])[partition], progress)
            if gap is not None:
                self.stop(partition, gap)


def _gap_between(partition: Partition, log_: Log, progress: Progress) -> GapError | None:
    if progress.next_offset < log_.start_offset:
        return _gap(partition, f"the log begins at offset {log_.start_offset}, the ledger is at {progress.next_offset}")
    if progress.next_offset > log_.end_offset:
        return _gap(partition, f"the log ends at offset {log_.end_offset}, the ledger is at {progress.next_offset}")
    return None


def _gap(partition: Partition, what: str) -> GapError:
    return GapError(
        f"Records of {partition} are missing: {what}.",
        remedy=(
            "Read its table again: deltasync resync. Only if it is known that nothing is missing: deltasync ledger set "
            f"{partition.topic} {partition.number} OFFSET --reason …"
        ),
    )


def _damaged(partition: Partition) -> GapError:
    return GapError(
        f"The next records of {partition} are damaged in Kafka: their checksum is not what was written.",
        remedy=(
            "See the brokers' disks. Where another replica is sound, let it lead, and try again: deltasync ledger set "
            f"{partition.topic} {partition.number} and the same offset; else one behind them, and deltasync resync."
        ),
    )
