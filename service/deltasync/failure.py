"""One table for failure: what an error means for the batch that met it. Pure.

What is not in the table stops: retrying or skipping is never the default.
"""

from __future__ import annotations

from enum import Enum

from deltasync.errors import DeltasyncError, FencedError, MisfitError, RecordError, RowError, UnreachableError

# SQLSTATEs and classes of which another try may end well: nothing was written, and no value is to blame.
_PASSING = (
    "08",  # connection lost or refused
    "40",  # serialization failure, deadlock, completion unknown
    "53",  # disk full, out of memory, too many connections
    "57P",  # shut down, crashed, starting up, session ended
    "55P03",  # lock not available
    "25006",  # read-only: a failover is going on
    "25P03",  # idle in a transaction for too long: we were frozen
    "25P04",  # a transaction took too long
    "57014",  # cancelled
    "58030",  # I/O error
)


# What one row's values are refused for; rows with others may well be taken.
_OF_THE_ROW = (
    "22",  # a value that is none of its type, too long, out of range
    "23",  # a constraint
    "54000",  # a value that is too large for an index
    "P0001",  # a trigger's own refusal
)

_FOREIGN_KEY = "23503"
_NOT_UNIQUE = ("23505", "23P01")
_MISFITS = (
    "22P02",  # not of its type
    "22003",  # out of its range
    "22001",  # longer than it may be
    "23502",  # null
)


class Verdict(Enum):
    """What to do about an error."""

    REREAD = "reread"  # the ledger moved: read it and go on from there
    RETRY = "retry"  # wait, then read the ledger and go on from there
    PARK = "park"  # the record's row is to blame: it is set aside, and what follows of its key behind it
    STOP = "stop"  # its table, or more, is to blame: its partition stops
    RAISE = "raise"  # not about records: the service ends


# What the driver notices by itself: the connection is gone, or a value is no text.
_BY_NAME = {"OperationalError": Verdict.RETRY, "InterfaceError": Verdict.RETRY, "DataError": Verdict.PARK}


def verdict(error: BaseException) -> Verdict:
    """What an error means. `sqlstate` is read from it or from the error of the driver below it."""
    if isinstance(error, FencedError):
        return Verdict.REREAD
    if isinstance(error, UnreachableError):
        return Verdict.RETRY
    if isinstance(error, RecordError):
        return Verdict.PARK if isinstance(error, RowError) else Verdict.STOP
    if isinstance(error, DeltasyncError):
        return Verdict.RAISE
    below = driver_error(error)
    if below is None:
        return Verdict.RAISE
    state = getattr(below, "sqlstate", None)
    if state is None:
        return _BY_NAME.get(type(below).__name__, Verdict.STOP)
    if state.startswith(_PASSING):
        return Verdict.RETRY
    return Verdict.PARK if state.startswith(_OF_THE_ROW) else Verdict.STOP


def is_to_blame(error: BaseException) -> bool:
    """True where another try ends alike: something of the batch is to blame."""
    return verdict(error) in {Verdict.PARK, Verdict.STOP}


def lacks_parent(error: BaseException) -> bool:
    """True where a row references one that is not there (yet)."""
    return getattr(driver_error(error), "sqlstate", None) == _FOREIGN_KEY


def lacks_room(error: BaseException) -> bool:
    """True where a unique value is still another row's."""
    return getattr(driver_error(error), "sqlstate", None) in _NOT_UNIQUE


def lacks_change(error: BaseException) -> bool:
    """True where a change of the table may not be here (yet): a value is none of its type, or may not be null."""
    return isinstance(error, MisfitError) or getattr(driver_error(error), "sqlstate", None) in _MISFITS


def driver_error(error: BaseException) -> BaseException | None:
    """The database driver's own error, which SQLAlchemy may have wrapped; None if it is not one."""
    below = getattr(error, "orig", None) or error
    return below if hasattr(below, "sqlstate") else None


def describe(error: BaseException) -> str:
    """An error in words without a row's values: what PostgreSQL calls it, and the table, column, constraint."""
    if isinstance(error, DeltasyncError):
        return error.what
    below = driver_error(error)
    if below is None:
        return type(error).__name__
    diagnosis = getattr(below, "diag", None)
    names = {
        kind: getattr(diagnosis, f"{kind}_name", None)
        for kind in ("schema", "table", "column", "constraint", "datatype")
    }
    where = ", ".join(f"{kind} {name}" for kind, name in names.items() if name)
    state = getattr(below, "sqlstate", None) or "no SQLSTATE"
    return f"{type(below).__name__} ({state})" + (f": {where}" if where else "")
