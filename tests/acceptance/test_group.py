"""Several workers share the tables; those that die lose nothing, those that sleep too long write nothing."""

from __future__ import annotations

import json
import random
import signal
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
from psycopg.conninfo import make_conninfo
from tests.acceptance.load import SCHEMA, TABLES, Load, Witness, offsets, wait_for_work
from tests.acceptance.obstacles import AT_THE_ROWS, blocked, obstacle
from tests.acceptance.topics import Topics
from tests.flow import Flow, Worker, until

SEED = 4_711
# Kafka's shortest session: a worker that is silent for longer has lost its partitions.
SESSION_S = 6
# After this long PostgreSQL ends a session that sleeps inside its transaction.
IDLE_S = 15
# That are written to all the time: 3 of items, 1 each of accounts, journal, pairs and the canary.
_PARTITIONS = 7

# Who moved the ledger: each worker's session carries its name. Workers pass by what is not enabled always.
_NOTE_WRITERS = """
    CREATE TABLE public.moved (
      id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT clock_timestamp(),
      worker text, topic text, number int);
    GRANT INSERT ON public.moved TO PUBLIC;
    CREATE FUNCTION public.note_mover() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO public.moved (worker, topic, number)
        VALUES (current_setting('test.worker', true), NEW.topic, NEW.partition);
      RETURN NULL; END $$;
    CREATE TRIGGER note_mover AFTER UPDATE ON deltasync.ledger FOR EACH ROW EXECUTE FUNCTION public.note_mover();
    ALTER TABLE deltasync.ledger ENABLE ALWAYS TRIGGER note_mover;
"""


class Moved(NamedTuple):
    """A partition's row of the ledger was written."""

    worker: str
    topic: str
    number: int


class Group:
    """Named workers of one flow, and what each of them wrote."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.workers: dict[str, Worker] = {}
        Topics(flow).make("shop.item", 3)
        flow.set_up(SCHEMA)
        flow.replica.execute(_NOTE_WRITERS)

    def start(self, name: str, **env: str) -> Worker:
        dsn = make_conninfo(self.flow.env["DELTASYNC_REPLICA_DSN"], options=f"-c test.worker={name}")
        session = {"DELTASYNC_KAFKA_SESSION_TIMEOUT_S": str(SESSION_S)}
        self.workers[name] = self.flow.start_worker(DELTASYNC_REPLICA_DSN=dsn, **session, **env)
        return self.workers[name]

    def moved(self, after: int = 0) -> list[Moved]:
        rows = self.flow.replica.execute(
            "SELECT worker, topic, number FROM public.moved WHERE id > %s ORDER BY id", [after]
        )
        return [Moved(*row) for row in rows]

    def now(self) -> int:
        row = self.flow.replica.execute("SELECT coalesce(max(id), 0) FROM public.moved").fetchone()
        return int(row[0]) if row else 0

    def shares(self, after: int) -> dict[str, set[tuple[str, int]]]:
        """The partitions that each worker has written since."""
        found: dict[str, set[tuple[str, int]]] = {}
        for worker, topic, number in self.moved(after):
            found.setdefault(worker, set()).add((topic, number))
        return found

    def wait_shared(self, *names: str) -> dict[str, set[tuple[str, int]]]:
        """Return when these write, each its own partitions and all of them; what each writes."""
        since = self.now()
        found: dict[str, set[tuple[str, int]]] = {}

        def settled() -> bool:
            nonlocal since, found
            found = self.shares(since)
            written = sum(map(len, found.values()))
            if written > len(set().union(*found.values())):
                since = self.now()  # one was handed over meanwhile: look again
                return False
            return set(names) == found.keys() and written == _PARTITIONS

        until(settled, f"{names} share the partitions")
        return found

    def wrote_before_joining(self, name: str, frozen: int, revoked_at: str) -> list[str]:
        """What a worker wrote since it was frozen and before it was assigned partitions anew."""
        assigned = [e["timestamp"] for e in self.workers[name].events("assigned") if e["partitions"]]
        joined_at = next((at for at in assigned if at > revoked_at), "infinity")
        rows = self.flow.replica.execute(
            "SELECT at, topic, number FROM public.moved WHERE id > %s AND worker = %s AND at < %s::timestamptz",
            [frozen, name, joined_at],
        )
        return [str(row) for row in rows]


@pytest.fixture
def group(flow: Flow) -> Group:
    return Group(flow)


def test_workers_come_and_go(group: Group) -> None:
    """Two share the tables, one is killed, a third joins, one leaves in good order."""
    flow = group.flow
    rng = random.Random(SEED)  # noqa: S311 - so that a failure can be repeated
    group.start("a")
    group.start("b")
    flow.wait_equal(*TABLES)
    with Witness(flow), Load(flow, SEED):
        group.wait_shared("a", "b")
        group.workers["b"].runs_for(rng.uniform(0, 0.5))
        group.workers["b"].kill()
        group.start("c")
        group.wait_shared("a", "c")
        group.start("d")
        group.wait_shared("a", "c", "d")
        assert group.workers["a"].stop() == 0
        group.wait_shared("c", "d")
        wait_for_work(flow)
    flow.wait_equal(*TABLES)


def test_frozen_worker_writes_nothing(group: Group) -> None:
    """Stopped past its session time-out and woken after others have taken over, with records still in its hands."""
    flow = group.flow
    group.start("a")
    group.start("b")
    flow.wait_equal(*TABLES)
    with Witness(flow), Load(flow, SEED):
        mine = group.wait_shared("a", "b")["b"]
        group.workers["b"].signal(signal.SIGSTOP)
        frozen = group.now()
        until(lambda: mine <= group.shares(frozen).get("a", set()), "the partitions taken over")
        revoked_at = _wake(group, "b")
        wait_for_work(flow)
    assert group.wrote_before_joining("b", frozen, revoked_at) == []
    flow.wait_equal(*TABLES)


def test_worker_frozen_with_records_in_hand_writes_nothing(group: Group) -> None:
    """Polled and not yet applied when it is stopped: what it applies when it wakes, another has applied."""
    flow = group.flow
    flow.source.execute("INSERT INTO shop.item (id) SELECT n FROM generate_series(1, 60000) n")
    topics = Topics(flow)
    until(lambda: sum(topics.ends("shop.item").values()) >= 60_500, "captured")
    before = sum(offsets(flow).values())
    worker = group.start("b", DELTASYNC_BATCH_ROWS_MAX="1000000", DELTASYNC_BATCH_BYTES_MAX=str(2**30))
    until(lambda: _freeze_with_records(flow, worker, before), "frozen with records in hand")
    frozen = group.now()
    group.start("a")
    flow.wait_equal(*TABLES)
    revoked_at = _wake(group, "b")
    assert group.wrote_before_joining("b", frozen, revoked_at) == []
    assert worker.events("fenced: reading the ledger again")
    flow.wait_equal(*TABLES)


def test_worker_frozen_inside_its_transaction_writes_nothing(group: Group) -> None:
    """It holds the ledger's locks: the other goes on when PostgreSQL has ended the sleeping session."""
    flow = group.flow
    group.start("a")
    group.start("b")
    flow.wait_equal(*TABLES)
    with Witness(flow), Load(flow, SEED):
        group.wait_shared("a", "b")
        with obstacle(flow, AT_THE_ROWS) as other_session:
            victim = _victim(group, blocked(flow, other_session)[0])
            group.workers[victim].signal(signal.SIGSTOP)
            frozen = group.now()
        other = {"a": "b", "b": "a"}[victim]
        until(
            lambda: any(topic.endswith("shop.account") for topic, _ in group.shares(frozen).get(other, set())),
            "the other goes on",
            SESSION_S + 2 * IDLE_S,
        )
        revoked_at = _wake(group, victim)
        wait_for_work(flow)
    assert group.wrote_before_joining(victim, frozen, revoked_at) == []
    flow.wait_equal(*TABLES)


def test_two_groups_apply_one_pipeline(group: Group) -> None:
    """Each reads everything; of each batch the fence lets only one write, and the other one goes on behind it."""
    flow = group.flow
    group.start("a")
    group.start("b", DELTASYNC_KAFKA_GROUP=f"{flow.settings.group}_2")
    with Witness(flow), Load(flow, SEED):
        until(lambda: set(group.shares(0)) == {"a", "b"}, "both have written")
        until(lambda: any(one.metric("deltasync_fenced_batches_total") for one in group.workers.values()), "one fenced")
        wait_for_work(flow, 200)
    flow.wait_equal(*TABLES)
    assert not any(worker.blamed() for worker in group.workers.values())


def test_worker_that_polls_too_late_loses_nothing(group: Group) -> None:
    """The replica keeps it for longer than `max.poll.interval.ms`: another one has its partitions, then both share."""
    flow = group.flow
    group.start("a", DELTASYNC_KAFKA_OPTIONS=json.dumps({"max.poll.interval.ms": SESSION_S * 1000}))
    flow.wait_equal(*TABLES)
    a = group.workers["a"]
    with Witness(flow), Load(flow, SEED):
        with obstacle(flow, AT_THE_ROWS):
            group.start("b")
            until(lambda: a.said("_MAX_POLL_EXCEEDED"), "it polls too late")
        group.wait_shared("a", "b")
        wait_for_work(flow)
    flow.wait_equal(*TABLES)
    assert not any(worker.blamed() for worker in group.workers.values())


def _freeze_with_records(flow: Flow, worker: Worker, before: int) -> bool:
    """Stop a worker that has polled many more records than it applied, and is in no transaction; or let it go on."""
    if not worker.events("assigned"):
        return False
    polled = worker.metric("deltasync_records_total")
    worker.signal(signal.SIGSTOP)
    query = "SELECT FROM pg_stat_activity WHERE usename = %s AND state <> 'idle'"
    in_transaction = flow.replica.execute(query, [flow.pipeline.name]).fetchone()
    if in_transaction is None and polled - (sum(offsets(flow).values()) - before) > 1000:
        return True
    worker.signal(signal.SIGCONT)
    return False


def _wake(group: Group, name: str) -> str:
    """Wake a worker, and return when it has noticed that it slept too long: the time at which it did."""
    worker = group.workers[name]
    before = len(worker.events("revoked"))
    worker.signal(signal.SIGCONT)
    until(lambda: len(worker.events("revoked")) > before, f"{name} has noticed")
    return str(worker.events("revoked")[before]["timestamp"])


def _victim(group: Group, backend: int) -> str:
    """The worker that a backend belongs to: the one whose connection has the backend's client port."""
    row = group.flow.replica.execute("SELECT client_port FROM pg_stat_activity WHERE pid = %s", [backend]).fetchone()
    assert row is not None
    for name, worker in group.workers.items():
        if row[0] in _local_ports(worker):
            return name
    raise AssertionError("no worker has this connection")


def _local_ports(worker: Worker) -> set[int]:
    return {c.laddr.port for c in psutil.Process(worker.process.pid).net_connections("tcp")}
