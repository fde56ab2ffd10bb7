"""The ends of the source's transactions, in the order of their commits: pure.

A connector that was restarted inside a transaction tells its end again, and may have counted otherwise until there.
"""

from __future__ import annotations

from collections import deque

from deltasync import progress as rule
from deltasync.change import Record
from deltasync.coming import Coming
from deltasync.debezium import transaction as debezium
from deltasync.debezium.transaction import Begin, End
from deltasync.progress import Progress
from deltasync.whole import LAST, Read, replaced

# What `Progress.tied` of the ends begins with: which transaction has begun, and when that was told.
_BEGUN = b"begun "


class Ends:
    """The ends that were read, and whose transactions were not taken out yet."""

    def __init__(self) -> None:
        self._first: deque[End] = deque()
        self._told: dict[str, list[End]] = {}

    @property
    def transaction(self) -> str:
        """The transaction that is next; empty where none has ended."""
        return self._first[0].transaction if self._first else ""

    def read(self, record: Record, progress: Progress) -> Read:
        """Take in what tells a begin or an end. Raises RecordError for one of a log that was replaced."""
        found = debezium.decode(record)
        passed = rule.passed(progress, record.offset)
        last = progress.watermark[1] if progress.watermark else 0
        if isinstance(found, Begin):
            return Read(record.partition, record.offset, _begun(passed, found))
        if found is None:
            return Read(record.partition, record.offset, passed)
        end = found._replace(begun_ms=begun_ms(progress, found.transaction))
        if end.lsn <= last:
            if end.committed_ms * 1000 > (progress.committed_us or 0):
                raise replaced(record.partition, record.offset)
            if end.transaction in self._told:
                self._told[end.transaction].append(end)
            return Read(record.partition, record.offset, passed)
        committed_us = max(progress.committed_us or 0, end.committed_ms * 1000 + 999)
        after = passed._replace(watermark=(end.lsn, end.lsn), committed_us=committed_us)
        self._first.append(end)
        self._told[end.transaction] = [end]
        return Read(record.partition, record.offset, after, transaction=end.transaction, place=LAST)

    def missing(self, coming: Coming | None) -> tuple[int, End] | None:
        """A change of the next transaction that has not come, by its number, and the end that counts so.

        The number is 0 where all have come, by what one of its ends counts. None where no transaction has ended.
        """
        ends = self._told.get(self.transaction, ())
        return min(((coming.missing(end) if coming else end.changes, end) for end in ends), default=None)

    def pop(self) -> End:
        """Take the next one out."""
        end = self._first.popleft()
        del self._told[end.transaction]
        return end

    def clear(self) -> None:
        """Forget all: they will come again."""
        self._first.clear()
        self._told.clear()


def begun_ms(progress: Progress, transaction: str) -> int:
    """When the connector told a transaction's begin, if that was the last begin before its end; else 0."""
    mark = _BEGUN + f"{transaction} ".encode()
    return next((int(one.removeprefix(mark)) for one in progress.tied if one.startswith(mark)), 0)


def _begun(progress: Progress, begin: Begin) -> Progress:
    """Progress behind a begin, which is known until the next one: it may be passed before its end is read."""
    return progress._replace(tied=(_BEGUN + f"{begin.transaction} {begin.sent_ms}".encode(),))
