"""What holds a worker up at a chosen place of its transaction on the replica, by locks of another session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from tests.flow import Flow, until

# At its rows, between its rows and the ledger, and within its COMMIT. Workers pass by what is not enabled always.
AT_THE_ROWS = "SELECT FROM shop.account FOR UPDATE"
AT_THE_LEDGER = "SELECT pg_advisory_xact_lock(7)"
IN_COMMIT = "SELECT pg_advisory_xact_lock(8)"
WAITING = """
    CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::int); RETURN NEW; END $$;
    CREATE TRIGGER wait BEFORE UPDATE ON deltasync.ledger FOR EACH ROW
      WHEN (NEW.topic LIKE '%shop.account') EXECUTE FUNCTION public.wait(7);
    ALTER TABLE deltasync.ledger ENABLE ALWAYS TRIGGER wait;
    CREATE CONSTRAINT TRIGGER wait_in_commit AFTER UPDATE ON deltasync.ledger DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
      WHEN (NEW.topic LIKE '%shop.account') EXECUTE FUNCTION public.wait(8);
    ALTER TABLE deltasync.ledger ENABLE ALWAYS TRIGGER wait_in_commit;
"""


@contextmanager
def obstacle(flow: Flow, hold: str) -> Iterator[psycopg.Connection]:
    """Another session that holds this; given when a worker, with an account to write, waits for it.

    What it holds is let go at the end of the block.
    """
    with psycopg.connect(flow.pipeline.replica_admin) as other:
        other.execute(hold)
        flow.source.execute("UPDATE shop.account SET version = version + 1")
        until(lambda: blocked(flow, other), "the worker waits inside its transaction")
        yield other


def blocked(flow: Flow, other: psycopg.Connection) -> list[int]:
    """The sessions on the replica that wait for this one."""
    query = "SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    return [pid for (pid,) in flow.replica.execute(query, [other.info.backend_pid])]
