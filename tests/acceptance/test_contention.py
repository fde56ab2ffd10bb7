"""Others on the replica are in the worker's way: deadlocks, locks, no connection left, another password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.acceptance.load import SCHEMA, TABLES, Load, Witness, wait_for_work
from tests.acceptance.obstacles import AT_THE_ROWS, IN_COMMIT, WAITING, blocked, obstacle
from tests.flow import Flow, Worker, until
from tests.servers import Addresses

SEED = 35_034
_PASSWORD = "n3w-s3cr3t"  # noqa: S105 - the test looks for it in the log


@pytest.mark.timeout(240)
def test_batches_that_fail_for_a_passing_reason(flow: Flow, servers: Addresses, tmp_path: Path) -> None:
    """Each is tried again as a whole: nothing is lost, nothing is applied twice."""
    secret = tmp_path / "password"
    secret.write_text(str(conninfo_to_dict(flow.env["DELTASYNC_REPLICA_DSN"])["password"]))
    flow.env["DELTASYNC_REPLICA_PASSWORD_FILE"] = str(secret)
    flow.set_up(SCHEMA)
    worker = flow.start_worker()
    flow.wait_equal(*TABLES)
    flow.replica.execute(WAITING)
    with Witness(flow), Load(flow, SEED):
        _ended_in_commit(flow, worker)
        _deadlock(flow, worker)
        _serialization_failure(flow, worker)
        _lock_time_out(flow, worker)
        _no_connection_left(flow, worker)
        if servers.embedded is not None:  # else its role may be the source's, too
            _another_password(flow, worker, secret)
        wait_for_work(flow)
    flow.wait_equal(*TABLES)
    assert worker.process.poll() is None
    assert not worker.blamed()


def _deadlock(flow: Flow, worker: Worker) -> None:
    """Rows in the opposite order: a worker locks the ledger first, and the rows of accounts then."""
    with obstacle(flow, AT_THE_ROWS) as other:
        other.execute("SELECT FROM deltasync.ledger FOR UPDATE")
    until(lambda: worker.said("DeadlockDetected (40P01)"), "it was the worker whom the deadlock ended")
    wait_for_work(flow, 5)


def _serialization_failure(flow: Flow, worker: Worker) -> None:
    """Rows that were written since the worker's transaction began, where its role has another isolation level."""
    with _altered_role(flow, "SET default_transaction_isolation = 'repeatable read'"):
        with obstacle(flow, AT_THE_ROWS) as other:
            other.execute("UPDATE shop.account SET version = version")
        until(lambda: worker.said("SerializationFailure (40001)"), "it could not be serialized")
    wait_for_work(flow, 5)


def _ended_in_commit(flow: Flow, worker: Worker) -> None:
    """Its session is ended within COMMIT."""
    with obstacle(flow, IN_COMMIT) as other:
        for pid in blocked(flow, other):
            flow.replica.execute("SELECT pg_terminate_backend(%s)", [pid])
        until(lambda: worker.said("AdminShutdown (57P01)"), "its session was ended")
    wait_for_work(flow, 5)


def _lock_time_out(flow: Flow, worker: Worker) -> None:
    """A table that somebody holds for longer than a statement waits for it."""
    with obstacle(flow, "LOCK TABLE shop.account IN ACCESS EXCLUSIVE MODE"):
        until(lambda: worker.said("LockNotAvailable (55P03)"), "it gave up waiting")
    wait_for_work(flow, 5)


def _no_connection_left(flow: Flow, worker: Worker) -> None:
    """Every connection that its role may have is taken."""
    with _altered_role(flow, "CONNECTION LIMIT 0"):
        until(lambda: worker.said("too many connections"), "it was turned down")
        until(lambda: worker.said("CONNECTION LIMIT"), "it says what to do about that")
    wait_for_work(flow, 5)


def _another_password(flow: Flow, worker: Worker, secret: Path) -> None:
    """Its role gets another one: it is turned away until its file holds that."""
    flow.replica.execute(f"ALTER ROLE {flow.pipeline.name} PASSWORD '{_PASSWORD}'")
    wait_for_work(flow, 5)
    flow.end_sessions()
    until(lambda: worker.said("password authentication failed"), "it is turned away")
    secret.write_text(_PASSWORD)
    wait_for_work(flow, 5)
    assert _PASSWORD not in worker.log.read_text()


@contextmanager
def _altered_role(flow: Flow, change: str) -> Iterator[None]:
    """The worker's sessions are begun anew with this, and again without it."""
    role = flow.settings.pipeline
    flow.replica.execute(f"ALTER ROLE {role} {change}")
    flow.end_sessions()
    yield
    flow.replica.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    flow.replica.execute(f"ALTER ROLE {role} RESET ALL")
    flow.end_sessions()
