"""Source and replica, compared while the source is written to: what differs is compared again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from deltasync.errors import SettingsError, UnreachableError
from deltasync.invalid import nearest
from deltasync.monitor.wait import wait_until_applied
from deltasync.postgres.connect import connect
from deltasync.postgres.types import skipping
from deltasync.settings import Settings
from deltasync.table import TableId
from deltasync.verify.compare import How, TableComparison, captured, compare

# A table that is written to all the time may differ each time; one that has lost a row does.
_ROUNDS = 3


def compare_settled(
    settings: Settings, names: Collection[str], timeout_s: float, tell: Callable[[str], None] = lambda _doing: None
) -> list[TableComparison]:
    """Compare these captured tables, or all, row by row; up to three times those that differ.

    In each round the source is looked at first, the replica once it holds all that was committed by then: a row
    that has changed since then may count as different. What was equal in one round is equal. `tell` hears what is done.
    Raises SettingsError for a name that is not captured, UnreachableError where the replica does not get that far in
    `timeout_s`, or a server does not answer.
    """
    settings.need("source.dsn", "replica.dsn", "kafka.bootstrap")
    left = chosen(settings, names)
    found: dict[str, TableComparison] = {}
    for number in range(1, _ROUNDS + 1):
        tell(f"comparing {len(left)} tables" if number == 1 else f"comparing {len(left)} that differ once more")
        compared = compare(
            settings.source.conninfo() or "",
            settings.replica.conninfo() or "",
            schemas=settings.source.schemas,
            publication=settings.publication,
            how=How(
                skip=partial(skipping, skip=settings.skipping, raw_text=settings.connect.raw_text),
                only=left,
                settle=partial(_settle, settings, timeout_s),
            ),
        )
        found |= {one.table: one for one in compared}
        left = {id_ for id_ in left if not found[str(id_)].is_equal}
        if not left:
            break
    return [found[name] for name in sorted(found)]


def chosen(settings: Settings, names: Collection[str]) -> set[TableId]:
    """These captured tables, or all. Raises SettingsError for a name that is not captured."""
    with connect(settings.source.conninfo() or "", name="compare") as source:
        published = captured(source, settings.publication)
    known = {str(id_): id_ for id_ in published if id_.schema in settings.source.schemas}
    for name in names:
        if name not in known:
            near = nearest(name, known)
            raise SettingsError(
                f"There is no captured table {name}.",
                remedy=f"Did you mean {near}?"
                if near
                else "`deltasync source setup` lists what is captured, and why not.",
            )
    return {known[name] for name in names or known}


def _settle(settings: Settings, timeout_s: float) -> None:
    waited = wait_until_applied(settings, timeout_s)
    if not waited.complete:
        raise UnreachableError(
            f"The replica does not hold yet what the source had committed: {waited.why}.",
            remedy="See `deltasync lag`, or compare again with a longer --timeout.",
        )
