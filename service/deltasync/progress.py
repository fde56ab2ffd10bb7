"""How far a partition has been applied, and whether a record is older than that: pure.

The rule of "never older": Connect emits an in-order suffix again after a crash. A change is skipped
only if its position is known and its source commit not later than the latest one applied, and if it
stands before the watermark, or at it and was applied there: COPY and key changes give several changes
one position, but never one key the same op twice. Reads and truncates are never skipped, and where
they turn up again the watermark goes back with them, so that what follows them is applied again too.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from deltasync.change import Change, Op
from deltasync.errors import RecordError

# PostgreSQL writes as many rows of a COPY at one position at most (MAX_BUFFERED_TUPLES of copyfrom.c).
TIED_MAX = 1000
# What `Progress.tied` of tables without a key begins with (see `keyless`).
KEYLESS = b"keyless "
_BY_HAND = b"by hand "


class Progress(NamedTuple):
    """One partition's row of the ledger.

    `next_offset` is the only offset ever stored: the one that is read next. `watermark` is None until
    a positioned change was applied. `committed_us` is the latest source commit applied, in
    microseconds since 1970. `skipped` counts the records that were older. `tied` tells which changes were applied at
    exactly the watermark, by a fingerprint of op and key (without a key, see `keyless`; of transactions' ends, see
    `ends`). `floor` is the first half of the watermark and `committed_us` as they were when positions began anew: what
    stands behind the one or was committed after the other is new, all else may have been applied before.
    """

    next_offset: int = 0
    watermark: tuple[int | None, int] | None = None
    committed_us: int | None = None
    skipped: int = 0
    tied: tuple[bytes, ...] = ()
    floor: tuple[int, int] | None = None


class Claim(NamedTuple):
    """A partition as this worker owns it: its topic's id and how far it had applied it."""

    topic_id: str
    progress: Progress


def is_older(progress: Progress, change: Change) -> bool:
    """True if the change was applied before and must be skipped.

    Raises RecordError for a position that is older although its source commit is later: the source's
    log was replaced, and no order between old and new is known.
    """
    position = change.position
    if change.op in (Op.READ, Op.TRUNCATE) or progress.watermark is None:
        return False
    if position.seq0 is None or position.seq1 is None:
        return False
    seq0, seq1 = progress.watermark
    here, watermark = (position.seq0, position.seq1), (seq0 or 0, seq1)
    if here > watermark:
        return False
    earlier = position.committed_us <= (progress.committed_us or 0)
    if here == watermark:
        return earlier and _is_tied(progress, change)
    if earlier:
        return True
    raise RecordError(
        f"The record at {change.partition} offset {change.offset} is older in the source's log than what was applied, "
        "although its transaction committed later: the source's log was replaced.",
        remedy=(
            "See whether the source was restored or failed over. When the topic is known to be right: deltasync ledger "
            f"set {change.partition.topic} {change.partition.number} {change.offset} --reason … starts a new watermark."
        ),
    )


def begins_again(progress: Progress, change: Change) -> bool:
    """True for the first read of a snapshot behind one that died: rows that went since have no record of that."""
    is_read = change.op is Op.READ and not change.incremental
    return is_read and progress.committed_us is None and progress.watermark not in {None, change.position[:2]}


def may_be_again(progress: Progress, change: Change) -> bool:
    """True if nothing tells whether the change was applied before: positions began anew, and it may be from before."""
    floor, position = _floor(progress, change), change.position
    return floor is not None and (position.seq0 or 0) <= floor[0] and position.committed_us <= floor[1]


def passed(progress: Progress, offset: int) -> Progress:
    """Progress after a record that carries no change."""
    return progress._replace(next_offset=offset + 1)


def skipped(progress: Progress, change: Change) -> Progress:
    """Progress after a change that was older."""
    return progress._replace(next_offset=change.offset + 1, skipped=progress.skipped + 1)


def applied(progress: Progress, change: Change) -> Progress:
    """Progress after a change that is applied. A null first half starts a new watermark."""
    position = change.position
    if change.incremental or position.seq1 is None:
        return passed(progress, change.offset)
    committed_us = progress.committed_us
    if change.op is not Op.READ and (committed_us is None or position.committed_us > committed_us):
        committed_us = position.committed_us
    watermark = (position.seq0, position.seq1)
    return Progress(
        change.offset + 1,
        watermark,
        committed_us,
        progress.skipped,
        _tied(progress, watermark, change),
        _floor(progress, change),
    )


def placed(progress: Progress, next_offset: int) -> Progress:
    """Progress that was moved by hand.

    A move forward, behind what cannot be read, keeps the watermark: what a connector repeats there is older still.
    Any other move forgets it, so that what comes again is applied again; but rows of a table without a key would be
    doubled, so that it is kept there unless the move is backwards. The record that is read next is vouched for.
    """
    if forgets(progress.next_offset, next_offset, progress.tied):
        return anew(progress)._replace(next_offset=next_offset)
    return progress._replace(next_offset=next_offset, tied=(*progress.tied, vouched(next_offset)))


def forgets(before: int, next_offset: int, tied: Sequence[bytes]) -> bool:
    """True where a move by hand forgets the watermark (see `placed`)."""
    return next_offset < before or (next_offset == before and not b"".join(tied[:1]).startswith(KEYLESS))


def vouched(offset: int) -> bytes:
    """What a move by hand leaves in `Progress.tied`: an operator's word that this record was not applied before."""
    return _BY_HAND + offset.to_bytes(8)


def anew(progress: Progress) -> Progress:
    """Progress whose watermark is forgotten, so that what comes again is applied again."""
    return progress._replace(watermark=None, tied=(), floor=_here(progress))


def _floor(progress: Progress, change: Change) -> tuple[int, int] | None:
    """The floor behind a change: a null first half behind streamed changes means that positions began anew."""
    position, watermark = change.position, progress.watermark
    if change.op is Op.READ or position.seq0 is not None or watermark is None:
        return progress.floor
    here = position.seq1 or 0
    if watermark[0] is None and (watermark[1] < here or (watermark[1] == here and not _is_tied(progress, change))):
        return progress.floor  # the connector's first transaction goes on
    return _here(progress)


def _here(progress: Progress) -> tuple[int, int] | None:
    """What becomes the floor; None where nothing was streamed before."""
    if progress.committed_us is None:
        return None
    seq0 = (progress.watermark and progress.watermark[0]) or 0
    return max(seq0, progress.floor[0] if progress.floor else 0), progress.committed_us


def _tied(progress: Progress, watermark: tuple[int | None, int], change: Change) -> tuple[bytes, ...]:
    if change.op is Op.READ or change.key is None:
        return ()  # all reads of a snapshot share one position, and none is ever skipped
    before = progress.tied if watermark == progress.watermark else ()
    return () if len(before) >= TIED_MAX else (*before, fingerprint(change.op, change.key))


def _is_tied(progress: Progress, change: Change) -> bool:
    return change.key is not None and fingerprint(change.op, change.key) in progress.tied


def fingerprint(op: str, key: bytes) -> bytes:
    """What tells a change from others at its position: 16 bytes, in which no key can be read."""
    return blake2b(op.encode() + key, digest_size=16).digest()
