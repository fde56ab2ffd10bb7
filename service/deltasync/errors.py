"""Every error that deltasync raises on purpose: what happened, and what to do about it.

    DeltasyncError                exit 1   the answer is no
    ├── SettingsError             exit 2   a setting, an argument or a file is wrong
    ├── UnreachableError          exit 3   a server did not answer: could not tell
    ├── RefusedError              exit 1   what was asked for would break a promise
    ├── RecordError               exit 1   a record that cannot be read or applied exactly
    │   ├── ReferencedError                a row that has to go is referenced by others
    │   └── MisfitError                    a row does not fit what is known of its table
    ├── GapError                  exit 1   records are missing between the ledger and the log
    ├── FencedError               exit 1   another worker has taken the partition over
    ├── StandbyError              exit 1   another worker applies a pipeline that may have one only
    └── PartError                 exit 1   a part of the embedded stack did not start

Messages name tables, columns, topics, partitions and offsets, never a row's values.
"""

from __future__ import annotations


class DeltasyncError(Exception):
    """One sentence that says what is wrong, and one that says what to do (`remedy`)."""

    exit_code = 1

    def __init__(self, what: str, *, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}" if self.remedy else self.what


class SettingsError(DeltasyncError):
    """A setting, an argument or a file of the user's is wrong; nothing was started."""

    exit_code = 2


class UnreachableError(DeltasyncError):
    """A server refused or did not answer, so the question asked has no answer yet."""

    exit_code = 3


class RefusedError(DeltasyncError):
    """What was asked for would break a promise, so nothing of it was done."""


class RecordError(DeltasyncError):
    """A record that cannot be read, or cannot be applied exactly: its partition stops."""


class ReferencedError(RecordError):
    """A row that others reference cannot go yet: PostgreSQL's own refusal (`sqlstate`), told beforehand."""

    sqlstate = "23503"


class MisfitError(RecordError):
    """A record does not fit its table's description, which may be older than the record."""


class GapError(DeltasyncError):
    """The log does not hold the record that the ledger expects next."""


class FencedError(DeltasyncError):
    """The ledger has moved under this worker: its batch was rolled back and wrote nothing."""


class StandbyError(DeltasyncError):
    """Another worker applies the pipeline, and its consistency needs one worker."""


class PartError(DeltasyncError):
    """A part of the embedded stack did not start or died."""
