"""A synchronous standby that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.flow import Flow


@contextmanager
def standby_missing(flow: Flow) -> Iterator[None]:
    """Commits wait for it, where their connection asks for that."""
    try:
        flow.source.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        flow.source.execute("SELECT pg_reload_conf()")
        yield
    finally:
        flow.source.execute("ALTER SYSTEM RESET synchronous_standby_names")
        flow.source.execute("SELECT pg_reload_conf()")
