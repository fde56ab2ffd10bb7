"""How a batch that fails is narrowed down to the record that is to blame, and what is said of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from deltasync.change import Partition
from deltasync.errors import DeltasyncError, RecordError
from deltasync.failure import describe
from deltasync.intake import Taken


def narrower(taken: Sequence[Taken]) -> list[Sequence[Taken]]:
    """The same records in smaller parts: by partition, then by halves; one part if there is only one record.

    What one transaction did is parted last: its rows may fit in only together.
    """
    by_partition: dict[Partition, list[Taken]] = {}
    for one in taken:
        by_partition.setdefault(one.partition, []).append(one)
    if len(by_partition) > 1:
        return list(by_partition.values())
    if len(taken) == 1:
        return [taken]
    half = len(taken) // 2
    ends = [place for place in range(1, len(taken)) if _transaction(taken[place - 1]) != _transaction(taken[place])]
    half = min(ends, key=lambda place: abs(place - half), default=half)
    return [taken[:half], taken[half:]]


def _transaction(taken: Taken) -> int | None:
    """What the changes of a source transaction have in common: the end of the last commit before it."""
    return taken.change.position.seq0 if taken.change else None


def blamed(taken: Taken, error: BaseException) -> RecordError:
    """The error of one record, with its place and without its values."""
    where = f"{taken.partition} offset {taken.offset}"
    table = taken.change.table if taken.change else "the schema log"
    if isinstance(error, DeltasyncError):
        return RecordError(f"{error.what} ({where})", remedy=error.remedy)
    return RecordError(
        f"The replica refuses a record of {table} ({where}): {describe(error)}.",
        remedy="Make the replica's table accept what the source's does, then start deltasync run again.",
    )
