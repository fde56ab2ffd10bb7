"""How far everything is behind: pure. What is asked of the servers for it is in `survey`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from deltasync.change import Log, Partition
from deltasync.debezium.schema_log import CONTROL_TABLES
from deltasync.progress import Claim
from deltasync.replica.observe import Known
from deltasync.table import TableId

# A canary that is this old is on time: the source writes one a second.
BEAT_S = 1.0


class Slot(msgspec.Struct, frozen=True):
    """The replication slot on the source; `retained_bytes` is the WAL that the source keeps for it."""

    name: str
    wal_status: str | None
    active: bool
    retained_bytes: int | None


class Survey(NamedTuple):
    """What the servers said at one moment (`at`, seconds since 1970).

    `came_in` is when the first unapplied record of a partition was written, where that could be read.
    `canary_age_s` is None before the first canary. `slot` is None where the source cannot be asked;
    `slot_note` says why.
    """

    at: float
    logs: Mapping[Partition, Log]
    claims: Mapping[Partition, Claim]
    came_in: Mapping[Partition, float]
    tables: tuple[Known, ...]
    canary_age_s: float | None
    slot: Slot | None = None
    slot_note: str = ""
    workers: int | None = None


class PartitionLag(msgspec.Struct, frozen=True):
    """One partition. `seconds` is None where the first unapplied record could not be read in time.

    `state`: `level` (nothing left), `behind`, `held` (its table waits), `not captured`, `gap` (the log does
    not hold the next record), `recreated` (another topic of that name). `control`: the pipeline's own table.
    """

    topic: str
    partition: int
    table: str
    control: bool
    next_offset: int
    end_offset: int
    records: int
    seconds: float | None
    rate: float | None
    state: str


class TableLag(msgspec.Struct, frozen=True):
    """One captured table: the sum of its partitions, and the latest of them.

    `skipped` are the columns that are left alone on the replica, since they cannot be carried exactly.
    """

    table: str
    records: int
    seconds: float | None
    rate: float | None
    state: str
    skipped: tuple[str, ...] = ()


class Total(msgspec.Struct, frozen=True):
    """All tables. `seconds` counts a canary that stands still, too: a dead connector is lag.

    `rate` is records applied per second, `catch_up_s` the time until nothing is left at this rate; None
    where it is not known, or never at this rate. `workers` is how many share the work now.
    """

    records: int
    seconds: float
    rate: float | None
    catch_up_s: float | None
    canary_age_s: float | None
    workers: int | None


class Lag(msgspec.Struct, frozen=True):
    """How far everything is behind, in the shape that `deltasync lag --json` prints."""

    total: Total
    tables: tuple[TableLag, ...]
    partitions: tuple[PartitionLag, ...]
    slot: Slot | None


def unapplied(logs: Mapping[Partition, Log], claims: Mapping[Partition, Claim]) -> dict[Partition, int]:
    """The offset of the first unapplied record of each partition that has any."""
    firsts = {p: max(applied_to(claims.get(p), log), log.start_offset) for p, log in logs.items()}
    return {p: first for p, first in firsts.items() if first < logs[p].end_offset}


def judge(survey: Survey, prefix: str, before: Survey | None = None) -> Lag:
    """Judge a survey; with an earlier one, rates too."""
    found = _Judge(survey, prefix, before)
    partitions = tuple(found.partition(partition) for partition in survey.logs)
    ours = [one for one in partitions if not one.control]
    skipped = {str(known.table): known.skipped for known in survey.tables}
    tables = tuple(
        _table([one for one in ours if one.table == name], skipped.get(name, ()))
        for name in sorted({one.table for one in ours})
    )
    return Lag(found.total(partitions), tables, partitions, survey.slot)


def topics(tables: Iterable[TableId], prefix: str) -> dict[str, TableId]:
    """The topic of each table."""
    return {table.topic(prefix): table for table in tables}


def applied_to(claim: Claim | None, log: Log) -> int:
    """The next offset of a partition by the ledger; 0 where it knows none, or another topic of that name."""
    return claim.progress.next_offset if claim and claim.topic_id == log.topic_id else 0


class _Judge:
    def __init__(self, survey: Survey, prefix: str, before: Survey | None) -> None:
        self._survey, self._prefix, self._before = survey, prefix, before
        self._known = {table.table: table for table in survey.tables}
        self._topics = topics({*self._known, *CONTROL_TABLES}, prefix)

    def partition(self, partition: Partition) -> PartitionLag:
        log, claim = self._survey.logs[partition], self._survey.claims.get(partition)
        table = self._topics.get(partition.topic)
        next_offset = applied_to(claim, log)
        records = max(0, log.end_offset - next_offset)
        came_in = self._survey.came_in.get(partition)
        late_s = None if came_in is None else max(0.0, self._survey.at - came_in)
        return PartitionLag(
            topic=partition.topic,
            partition=partition.number,
            table=str(table) if table else partition.topic.removeprefix(f"{self._prefix}."),
            control=table in CONTROL_TABLES,
            next_offset=next_offset,
            end_offset=log.end_offset,
            records=records,
            seconds=late_s if records else 0.0,
            rate=self._rate(partition, next_offset),
            state=_state(log, claim, self._known.get(table) if table else None),
        )

    def total(self, partitions: Iterable[PartitionLag]) -> Total:
        found = list(partitions)
        tables = [one for one in found if not one.control]
        records = sum(one.records for one in tables)
        age_s = self._survey.canary_age_s
        return Total(
            records=records,
            seconds=max([max(0.0, (age_s or 0.0) - BEAT_S), *(one.seconds or 0.0 for one in found)]),
            rate=_sum(one.rate for one in tables),
            catch_up_s=self._catch_up_s(records, [Partition(one.topic, one.partition) for one in tables]),
            canary_age_s=age_s,
            workers=self._survey.workers,
        )

    def _rate(self, partition: Partition, next_offset: int) -> float | None:
        before = self._before
        if before is None or partition not in before.logs or self._survey.at <= before.at:
            return None
        earlier = applied_to(before.claims.get(partition), before.logs[partition])
        return max(0, next_offset - earlier) / (self._survey.at - before.at)

    def _catch_up_s(self, records: int, partitions: Iterable[Partition]) -> float | None:
        if records == 0:
            return 0.0
        before = self._before
        if before is None:
            return None
        logs, claims = before.logs, before.claims
        earlier = sum(logs[p].end_offset - applied_to(claims.get(p), logs[p]) for p in partitions if p in logs)
        gained = earlier - records
        return records * (self._survey.at - before.at) / gained if gained > 0 else None


def _state(log: Log, claim: Claim | None, table: Known | None) -> str:
    if claim is not None and claim.topic_id != log.topic_id:
        return "recreated"
    next_offset = applied_to(claim, log)
    if not log.start_offset <= next_offset <= log.end_offset:
        return "gap"
    if table is not None and not table.captured:
        return "not captured"
    if next_offset == log.end_offset:
        return "level"
    return "held" if table is not None and table.held else "behind"


_WORST_FIRST = ("recreated", "gap", "held", "behind", "level", "not captured")


def _table(partitions: Sequence[PartitionLag], skipped: tuple[str, ...]) -> TableLag:
    seconds = [one.seconds for one in partitions if one.seconds is not None]
    return TableLag(
        table=partitions[0].table,
        records=sum(one.records for one in partitions),
        seconds=max(seconds) if len(seconds) == len(partitions) else None,
        rate=_sum(one.rate for one in partitions),
        state=min((one.state for one in partitions), key=_WORST_FIRST.index),
        skipped=skipped,
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
