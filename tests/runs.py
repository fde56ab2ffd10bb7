"""The ids of the runs of a connector's task, as Debezium makes them."""

from __future__ import annotations

from uuid import UUID


def run_id(began_ms: int) -> str:
    """The id of a run that began so many milliseconds behind 1970: a UUID of version 7."""
    return str(UUID(int=began_ms << 80 | 7 << 76 | 2 << 62))
