"""A poll's plain records, read and compacted column by column instead of one by one: pure.

What `intake`, `compact` and `plan` decide of each record, this decides of all records of a partition together, where
nothing about any of them is special: changes of one table whose own keys tell its rows, each behind the one before it
in the source's log, with all of their values. Anything else is left to those three, which are the reference: for
what is read here they come to the same plan and the same progress (`tests/property/test_bulk.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import eq, gt
from typing import NamedTuple

import msgspec

from deltasync import progress as rule
from deltasync.change import Op, Partition, Record
from deltasync.debezium import envelope
from deltasync.debezium.envelope import Envelopes
from deltasync.debezium.rows import RowDecoder, Rows, joined
from deltasync.errors import RecordError
from deltasync.plan import TablePlan
from deltasync.progress import Progress
from deltasync.readable import Tables
from deltasync.table import TableId

# Fewer records of a partition are read one by one: that costs no more then.
RECORDS_MIN = 16
# Where the first change of a key in a batch is one of these, there should be no row of it.
_MAKING = frozenset({Op.CREATE.value, Op.READ.value})
# As it comes: to compare it with an enumeration's member takes three times as long.
_GONE = Op.DELETE.value


class Bulk(NamedTuple):
    """What the plain records of a poll do: the plans of their tables, and where their partitions are behind them.

    `commits` are the moments of the source commits, in microseconds since 1970; `records` is what was read.
    """

    records: Sequence[Record]
    plans: list[TablePlan]
    to: dict[Partition, Progress]
    commits: frozenset[int]


NOTHING = Bulk((), [], {}, frozenset())


class _Part(NamedTuple):
    """The same of one partition."""

    plan: TablePlan
    progress: Progress
    commits: frozenset[int]


class _NotPlainError(Exception):
    """Something about a partition's records wants a look at each."""


def parted(
    records: Iterable[Record], parked: Collection[Partition], control: Collection[str]
) -> tuple[dict[Partition, list[Record]], list[Record]]:
    """The records that may be plain, by partition, and all others in order.

    Of `control` topics, and partitions of which something is `parked`, none is.
    """
    found: dict[Partition, list[Record]] = {}
    for record in records:
        mine = found.get(record.partition)
        if mine is None:
            found[record.partition] = [record]
        else:
            mine.append(record)
    odd = {
        partition
        for partition, mine in found.items()
        if len(mine) < RECORDS_MIN or partition in parked or partition.topic in control
    }
    others = [record for record in records if record.partition in odd] if odd else []
    return {partition: mine for partition, mine in found.items() if partition not in odd}, others


def read(
    found: Mapping[Partition, Sequence[Record]],
    at: Mapping[Partition, Progress],
    tables: Tables,
) -> tuple[Bulk, list[Record]]:
    """What plain records do, and those that are none after all.

    Those of partitions that are not in `at` (not ours, or blocked) are left out.
    """
    parts: dict[Partition, _Part] = {}
    others: list[Record] = []
    for partition, records in found.items():
        if partition not in at:
            continue
        try:
            parts[partition] = _part(records, at[partition], tables)
        except _NotPlainError:
            others += records
    bulk = Bulk(
        [record for partition in parts for record in found[partition]],
        _merged(part.plan for part in parts.values()),
        {partition: part.progress for partition, part in parts.items()},
        frozenset().union(*(part.commits for part in parts.values())),
    )
    return bulk, others


def _part(records: Sequence[Record], progress: Progress, tables: Tables) -> _Part:
    """Raises _NotPlainError."""
    found = envelope.decode_all(records) if records[0].offset >= progress.next_offset else None
    decoder = tables.plain(found.table) if found else None
    if found is None or decoder is None or not tables.are_told(found.table, found.keys):
        raise _NotPlainError
    if any(record.moves for record, op in zip(records, found.ops, strict=True) if op == _GONE):
        raise _NotPlainError
    if found.reads:
        progress = _behind_reads(found.positions[: found.reads], progress)
    commits = frozenset(found.committed_us[found.reads :])
    if commits:
        progress = _behind_streamed(found, progress, max(commits))
    return _Part(_plan(found, decoder), progress._replace(next_offset=records[-1].offset + 1), commits)


def _behind_reads(positions: Sequence[tuple[int | None, int]], progress: Progress) -> Progress:
    """The progress behind reads of an initial snapshot, but for the offset. Raises _NotPlainError where one begins."""
    first = positions[0]
    begins_again = progress.committed_us is None and progress.watermark not in {None, first}
    if begins_again or positions.count(first) < len(positions):
        raise _NotPlainError
    return progress._replace(watermark=first, tied=())


def _behind_streamed(found: Envelopes, progress: Progress, committed_us: int) -> Progress:
    """The progress behind streamed changes, each of which is behind the one before it, but for the offset.

    Those of a COPY share a position. Raises _NotPlainError where there is another order, or one may have come before.
    """
    ops, keys, positions = found.ops[found.reads :], found.keys[found.reads :], found.positions[found.reads :]
    first = (progress.watermark[0] or 0, progress.watermark[1]) if progress.watermark else (-1, -1)
    before = [first, *positions]
    if (found.reads and any(seq0 is None for seq0, _ in positions)) or any(map(gt, before, positions)):
        raise _NotPlainError
    begun = len(positions) - 1
    if any(map(eq, before, positions)):
        shared = positions.count(first)
        again = not set(map(rule.fingerprint, ops[:shared], keys[:shared])).isdisjoint(progress.tied)
        if again or len(set(zip(positions, ops, keys, strict=True))) < len(positions):
            raise _NotPlainError
        begun = positions.index(positions[-1])
    kept = progress.tied if positions[-1] == progress.watermark else ()
    tied = (*kept, *map(rule.fingerprint, ops[begun:], keys[begun:]))
    if len(tied) > rule.TIED_MAX:
        raise _NotPlainError
    committed_us = max(committed_us, progress.committed_us or 0)
    return progress._replace(watermark=positions[-1], committed_us=committed_us, tied=tied)


def _plan(found: Envelopes, decoder: RowDecoder) -> TablePlan:
    """Raises _NotPlainError where a row lacks a value, or does not fit."""
    newest = dict(zip(found.keys, range(len(found.keys)), strict=True))
    first = dict(zip(reversed(found.keys), reversed(found.ops), strict=True))
    deleted: list[bytes] = []
    fresh: list[msgspec.Raw] = []
    known: list[msgspec.Raw] = []
    for key, place in newest.items():
        if found.ops[place] == _GONE:
            deleted.append(key)
        else:
            (fresh if first[key] in _MAKING else known).append(found.rows[place])
    try:
        deletes = decoder.keys(deleted) if deleted else None
        upserts = [_whole(raws, decoder, fresh=raws is fresh) for raws in (fresh, known) if raws]
    except (RecordError, msgspec.MsgspecError, ValueError):
        raise _NotPlainError from None
    return TablePlan(decoder.table, truncate=False, deletes=deletes, upserts=upserts, updates=[], moves=[])


def _whole(raws: Sequence[msgspec.Raw], decoder: RowDecoder, *, fresh: bool) -> Rows:
    rows = decoder.rows(raws)
    if rows is None:
        raise _NotPlainError
    return Rows(rows.columns, rows.values, fresh)


def _merged(plans: Iterable[TablePlan]) -> list[TablePlan]:
    """One plan for each table: a topic's partitions share no key."""
    found: dict[TableId, TablePlan] = {}
    for plan in plans:
        known = found.get(plan.table.id)
        if known is not None:
            deletes = joined([rows for rows in (known.deletes, plan.deletes) if rows is not None])
            upserts = joined([*known.upserts, *plan.upserts])
            plan = known._replace(deletes=deletes[0] if deletes else None, upserts=upserts)  # noqa: PLW2901
        found[plan.table.id] = plan
    return list(found.values())
