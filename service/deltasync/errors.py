"""Every error that deltasync raises on purpose: what happened, and what to do about it.

    DeltasyncError                exit 1   the answer is no
    ├── SettingsError             exit 2   a setting, an argument or a file is wrong
    ├── UnreachableError          exit 3   a server did not answer: could not tell
    ├── RefusedError              exit 1   what was asked for would break a promise
    ├── RecordError               exit 1   a record that cannot be read or applied exactly
    │   ├── RowError                       a record of one row that cannot be applied, whatever becomes of others
    │   │   └── MisfitError                one that does not fit what is known of its table now
    │   └── ReferencedError                a row that has to go is referenced by others
    ├── GapError                  exit 1   records are missing between the ledger and the log
    ├── SourceError               exit 1   the source is not the one whose changes were applied
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


class RowError(RecordError):
    """A record's row cannot be applied exactly, and its table can take others."""


class MisfitError(RowError):
    """A record does not fit its table's description, which may be older than the record."""


class ReferencedError(RecordError):
    """A row that others reference cannot go yet: PostgreSQL's own refusal (`sqlstate`), told beforehand."""

    sqlstate = "23503"


class GapError(DeltasyncError):
    """The log does not hold the record that the ledger expects next."""


class SourceError(DeltasyncError):
    """The source is another one than that whose changes were applied: nothing of the pipeline is."""


class FencedError(DeltasyncError):
    """The ledger has moved under this worker: its batch was rolled back and wrote nothing."""


class StandbyError(DeltasyncError):
    """Another worker applies the pipeline, and its consistency needs one worker."""


class PartError(DeltasyncError):
    """A part of the embedded stack did not start or died."""
