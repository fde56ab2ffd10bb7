"""What a look at the servers found: the noun that set-up's preflight and `deltasync check` share. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from deltasync.table import TableId


class Gravity(StrEnum):
    """How grave a finding is, the gravest first.

    REFUSED would lose or alter values, or stop what is captured. WARNING leaves a table out or may come to
    that. NOTE is worth knowing.
    """

    REFUSED = "refused"
    WARNING = "warning"
    NOTE = "note"


class Area(StrEnum):
    """What a finding is about, in the order in which findings of one gravity are told."""

    SOURCE = "source"
    ROLE = "role"
    TABLES = "tables"
    CONNECTOR = "connector"
    KAFKA = "kafka"
    REPLICA = "replica"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be: sentences, the remedy with a statement or command to paste.

    None holds a row's value or a password. `table` is the table of source or replica that it is about.
    """

    gravity: Gravity
    area: Area
    what: str
    why: str
    remedy: str
    table: TableId | None = None


def by_gravity(finding: Finding) -> tuple[int, int, str, str]:
    """The key to sort by: the gravest first, then by area, table and text."""
    table = str(finding.table or "")
    return list(Gravity).index(finding.gravity), list(Area).index(finding.area), table, finding.what
