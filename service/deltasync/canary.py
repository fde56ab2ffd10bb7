"""What the canary tells of the source: whether it is still the same one, and whether any beat is missing. Pure.

The source counts its beats, one in each transaction of the heartbeat, and a beat travels as rows do: what of the stream
never reached Kafka has beats in it that never came. What is sent again repeats beats, and leaves none out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from deltasync.change import Change, Op
from deltasync.debezium.schema_log import CANARY
from deltasync.errors import RecordError, SourceError


class Beat(NamedTuple):
    """One beat of a pipeline's canary, as it came or as the replica has it. `is_read` tells of a snapshot's."""

    pipeline: str
    beat: int
    beat_at: datetime
    system_identifier: str
    timeline: int
    is_read: bool = False


class Hole(NamedTuple):
    """The beats `first` to `last`, of which `missing` never came, between the source's moments `since` and `until`."""

    first: int
    last: int
    missing: int
    since: datetime
    until: datetime

    def joined(self, later: Hole) -> Hole:
        """Both holes as one; the other is the later one."""
        return Hole(self.first, later.last, self.missing + later.missing, self.since, later.until)

    def __str__(self) -> str:
        beats = f"Beat {self.first}" if self.first == self.last else f"Beats {self.first} to {self.last}"
        some = "" if self.missing == self.last - self.first + 1 else f" ({self.missing} of them)"
        return (
            f"{beats} of the source's canary{some} never came: rows that were committed between {_at(self.since)} and "
            f"{_at(self.until)} may be missing."
        )


class Judgement(NamedTuple):
    """What beats say of the source: why none of it is applied, what is missing, what an operator has to know."""

    refused: str | None = None
    hole: Hole | None = None
    doubt: str | None = None


class _Row(msgspec.Struct):
    pipeline: str
    beat: int
    beat_at: datetime
    system_identifier: str
    timeline: int


_row = msgspec.json.Decoder(_Row)


def beat(change: Change) -> Beat | None:
    """The beat that a change of the canary carries; None for a delete. Raises RecordError for a row that is none."""
    if change.row is None:
        return None
    try:
        row = _row.decode(change.row)
    except msgspec.MsgspecError as error:
        raise RecordError(
            f"The canary at {change.partition} offset {change.offset} cannot be read: {error}.",
            remedy="The source was set up by another version of deltasync: run deltasync source setup of this one.",
        ) from None
    is_read = change.op is Op.READ
    return Beat(row.pipeline, row.beat, row.beat_at, row.system_identifier, row.timeline, is_read)


def parted(changes: Sequence[Change], pipeline: str) -> tuple[list[Change], list[Beat]]:
    """The changes without other pipelines' canaries, which travel in the same topic, and the beats of this one's.

    Raises RecordError where these are of two sources: the batch is narrowed, until one begins with the other source's.
    """
    kept, beats = [], []
    for change in changes:
        found = beat(change) if change.table == CANARY else None
        if found is None or found.pipeline == pipeline:
            kept.append(change)
        if found is not None and found.pipeline == pipeline:
            beats.append(found)
    if len({found.system_identifier for found in beats}) > 1:
        raise RecordError("The source changes within a batch.", remedy="None of its records is to blame.")
    return kept, beats


def judge(known: Beat | None, came: Iterable[Beat]) -> Judgement:
    """Compare beats of one source, in the order in which they came, with the newest one applied, if there is one."""
    hole = doubt = None
    for one in came:
        if known is not None and one.system_identifier != known.system_identifier:
            return Judgement(_another(known, one))
        if known is not None and not one.is_read:
            if one.timeline > known.timeline:
                doubt = _failed_over(known, one)
            found = _hole(known, one)
            hole = hole.joined(found) if hole and found else hole or found
        known = one
    return Judgement(None, hole, doubt)


def refusal(why: str) -> SourceError:
    """The error of all partitions of a pipeline whose source is another one."""
    return SourceError(
        why,
        remedy=(
            "Read the tables again from it (deltasync recover), or make sure that it holds what the old one did, as "
            "behind pg_upgrade; then: deltasync ledger accept-source --reason …"
        ),
    )


def _hole(known: Beat, came: Beat) -> Hole | None:
    missing = came.beat - known.beat - 1
    return Hole(known.beat + 1, came.beat - 1, missing, known.beat_at, came.beat_at) if missing > 0 else None


def _another(known: Beat, came: Beat) -> str:
    return (
        f"The source is another one: its system identifier is {came.system_identifier}, what was applied came from "
        f"{known.system_identifier}. Positions of its log have no order with those."
    )


def _failed_over(known: Beat, came: Beat) -> str:
    """Positions go on behind a promotion, if the new primary had all that the old one told."""
    said = f"The source failed over to timeline {came.timeline} before {_at(came.beat_at)}"
    if came.beat <= known.beat:
        return (
            f"{said}, and lacks what the old one committed behind beat {came.beat - 1}: the replica was at beat "
            f"{known.beat}, and may hold rows that the source has not."
        )
    return f"{said}: was the connector's slot synchronised? If not, what was committed around that moment is missing."


def _at(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
