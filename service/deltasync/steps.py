"""What a transaction does that is too large for one batch: so many changes at a time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from deltasync.change import Change
from deltasync.plan import TablePlan


class Steps:
    """Plans of so many changes each, or of up to `changes_max` where fewer do not fit in (see `ports.Steps`)."""

    def __init__(
        self,
        changes: Iterator[Change],
        planned: Callable[[Sequence[Change]], Sequence[TablePlan]],
        *,
        count: int,
        changes_max: int,
    ) -> None:
        self._changes = changes
        self._planned = planned
        self._count = count
        self._changes_max = changes_max
        self._step: list[Change] = []

    def __iter__(self) -> Iterator[Sequence[TablePlan]]:
        while step := list(islice(self._changes, self._count)):
            self._step = step
            yield self._planned(step)

    def longer(self) -> Sequence[TablePlan] | None:
        """The last step together with what follows; None where nothing does, or it would be too long."""
        if len(self._step) >= self._changes_max:
            return None
        more = list(islice(self._changes, self._count))
        self._step += more
        return self._planned(self._step) if more else None
