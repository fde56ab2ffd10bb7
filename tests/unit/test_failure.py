"""What an error means, and how it is told."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy.exc

from deltasync.errors import DeltasyncError, FencedError, GapError, RecordError, RowError, UnreachableError
from deltasync.failure import Verdict, describe, verdict


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FencedError("", remedy=""), Verdict.REREAD),
        (UnreachableError("", remedy=""), Verdict.RETRY),
        (RecordError("", remedy=""), Verdict.STOP),
        (GapError("", remedy=""), Verdict.RAISE),
        (psycopg.errors.DeadlockDetected(), Verdict.RETRY),
        (psycopg.errors.SerializationFailure(), Verdict.RETRY),
        (psycopg.errors.LockNotAvailable(), Verdict.RETRY),
        (psycopg.errors.AdminShutdown(), Verdict.RETRY),
        (psycopg.errors.DiskFull(), Verdict.RETRY),
        (psycopg.errors.ReadOnlySqlTransaction(), Verdict.RETRY),
        (psycopg.errors.QueryCanceled(), Verdict.RETRY),
        (psycopg.OperationalError("server closed the connection"), Verdict.RETRY),
        (psycopg.errors.UniqueViolation(), Verdict.PARK),
        (psycopg.errors.UndefinedTable(), Verdict.STOP),
        (psycopg.errors.InvalidTextRepresentation(), Verdict.PARK),
        (psycopg.DataError("a value is no text"), Verdict.PARK),
        (RowError("", remedy=""), Verdict.PARK),
        (sqlalchemy.exc.OperationalError("", None, psycopg.errors.DeadlockDetected()), Verdict.RETRY),
        (KeyError("a bug"), Verdict.RAISE),
    ],
)
def test_verdicts(error: Exception, expected: Verdict) -> None:
    """Only what is known to pass is tried again; what is not about records ends the service."""
    assert verdict(error) is expected


def test_descriptions_hold_no_values() -> None:
    """PostgreSQL's messages quote values; its names for things do not."""
    told = describe(psycopg.errors.InvalidTextRepresentation('invalid input syntax for type integer: "secret"'))

    assert told == "InvalidTextRepresentation (22P02)"


def test_a_known_error_tells_itself() -> None:
    """With the sentence that it was made with."""
    assert describe(DeltasyncError("It is so.", remedy="Do this.")) == "It is so."
