"""Keeps on disk what a transaction has too much of for memory, and gives it back in the order of its changes."""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from deltasync.change import Change, Op, Partition
from deltasync.errors import RecordError

# Of each partition one block is in memory while changes are given back.
_BLOCK_CHANGES = 500


class Place(NamedTuple):
    """Where a change stands in its transaction: its place in the log, and among those that share one.

    These are the rows of a COPY, which `number` orders, or the halves of a key change, of which the first does not
    `stay` (`Record.moves`): whatever their numbers, it comes before the other.
    """

    lsn: int
    stays: bool
    number: int


class Spooled(NamedTuple):
    """A change, and where it stands in its transaction."""

    place: Place
    change: Change


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Spooled])


class Spool:
    """One transaction's changes in a file without a name: it is gone with this process, whatever becomes of that.

    The file lies where temporary ones do (TMPDIR) and grows to `bytes_max`.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._file = tempfile.TemporaryFile(buffering=0, prefix="deltasync-")  # noqa: SIM115 - `close` does
        self._size = 0
        self._blocks: dict[Partition, list[tuple[int, int]]] = {}

    def append(self, partition: Partition, changes: Sequence[Spooled]) -> None:
        """Add changes of a partition, behind those that it has. Raises RecordError where there is no room.

        A TRUNCATE may come again, in any partition and behind later changes: each is kept once, apart from the others.
        """
        self._add(partition, [one for one in changes if one.change.op is not Op.TRUNCATE])
        for one in changes:
            alone = Partition(partition.topic, -one.place.lsn)
            if one.change.op is Op.TRUNCATE and alone not in self._blocks:
                self._add(alone, [one])

    def _add(self, partition: Partition, changes: Sequence[Spooled]) -> None:
        for start in range(0, len(changes), _BLOCK_CHANGES):
            block = _encoder.encode(changes[start : start + _BLOCK_CHANGES])
            if self._size + len(block) > self._bytes_max:
                raise _no_room(changes[0].change, self._bytes_max)
            self._write(block)
            self._blocks.setdefault(partition, []).append((self._size, len(block)))
            self._size += len(block)

    def __iter__(self) -> Iterator[Spooled]:
        """All changes by their places; may be asked for again."""
        return heapq.merge(*map(self._read, self._blocks.values()), key=_place)

    def close(self) -> None:
        """Give the room back. Idempotent."""
        self._file.close()

    def __del__(self) -> None:
        self.close()

    def _write(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            view = view[os.pwrite(self._file.fileno(), view, self._size + len(block) - len(view)) :]

    def _read(self, blocks: list[tuple[int, int]]) -> Iterator[Spooled]:
        for start, length in blocks:
            yield from _decoder.decode(os.pread(self._file.fileno(), length, start))


def _place(one: Spooled) -> Place:
    return one.place


def _no_room(change: Change, bytes_max: int) -> RecordError:
    return RecordError(
        f"The transaction {change.transaction} has more changes than fit into {bytes_max} bytes on disk "
        f"(at {change.partition} offset {change.offset}).",
        remedy="Give DELTASYNC_BATCH_SPOOL_BYTES_MAX more, where TMPDIR has the room, and start deltasync run again.",
    )
