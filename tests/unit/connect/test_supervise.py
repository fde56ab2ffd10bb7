"""Which failed task is restarted, when, and which never."""

from __future__ import annotations

from deltasync.connect.client import Offset
from deltasync.connect.status import State, Status, Unit
from deltasync.connect.supervise import (
    BACKOFF_S,
    BACKOFF_S_MAX,
    UNREAD_S_MAX,
    Action,
    Memory,
    Verdict,
    backoff_s,
    judge,
    judge_snapshot,
)

LOST = "X: stopped\nCaused by: org.postgresql.util.PSQLException: Database connection failed when reading from copy"
GONE = "X: start is no longer available on the server."
NOW = 1000.0


def status(*traces: str) -> Status:
    tasks = [
        Unit(State.FAILED, "w", trace, id=number) if trace else Unit(State.RUNNING, id=number)
        for number, trace in enumerate(traces)
    ]
    return Status("c", Unit(State.RUNNING), tuple(tasks))


def run(memory: Memory, state: Status, now: float) -> tuple[Memory, Verdict | None]:
    memory, action = judge(memory, state, now)
    return memory, action.verdict if action else None


def test_passing_failure_is_restarted_at_once_then_with_growing_breaks() -> None:
    memory, at = Memory(), []
    now = NOW
    while now < NOW + 100:
        memory, verdict = run(memory, status(LOST), now)
        if verdict is Verdict.RESTARTED:
            at.append(now - NOW)
        now += 1
    assert at == [0, 5, 15, 35, 75]
    assert memory.attempts == len(at)


def test_breaks_have_a_limit() -> None:
    assert backoff_s(1) == BACKOFF_S
    assert backoff_s(100) == BACKOFF_S_MAX


def test_long_health_forgives_and_short_health_does_not() -> None:
    memory, _ = run(Memory(), status(LOST), NOW)
    memory, _ = run(memory, status(""), NOW + BACKOFF_S_MAX - 1)
    assert memory.attempts == 1
    memory, _ = run(memory, status(""), NOW + BACKOFF_S_MAX)
    assert memory.attempts == 0


def test_lasting_failure_is_told_once_and_never_restarted() -> None:
    memory, action = judge(Memory(), status(GONE), NOW)
    assert action == Action(Verdict.LEFT, "c", GONE, action.remedy if action else "")
    assert "deltasync recover" in (action.remedy if action else "")
    assert judge(memory, status(GONE), NOW + 10_000) == (memory, None)


def test_one_lasting_failure_keeps_the_connector_from_being_restarted() -> None:
    assert run(Memory(), status(LOST, GONE), NOW)[1] is Verdict.LEFT


def test_lasting_failure_that_comes_back_is_told_again() -> None:
    memory, _ = run(Memory(), status(GONE), NOW)
    memory, _ = run(memory, status(""), NOW + 1)
    assert run(memory, status(GONE), NOW + 2)[1] is Verdict.LEFT


def test_a_task_that_does_not_read_its_slot_is_restarted_again_and_again() -> None:
    """Only while it streams, and says that it runs: in its snapshot nobody reads the slot either."""
    at = []
    memory = Memory(streaming=True)
    for now in range(220):
        memory, action = judge(memory, status(""), NOW + now, NOW + 1)
        if action is not None:
            assert action.verdict is Verdict.RESTARTED
            at.append(now)
    assert at == [1 + UNREAD_S_MAX, 1 + 3 * UNREAD_S_MAX, 1 + 7 * UNREAD_S_MAX]
    late = NOW + UNREAD_S_MAX
    assert judge(Memory(streaming=True), status(""), late - 1, NOW)[1] is None
    assert judge(Memory(streaming=True), status(""), late, None)[1] is None
    assert judge(Memory(), status(""), late, NOW)[1] is None
    assert judge(Memory(streaming=True), Status("c", Unit(State.PAUSED)), late, NOW)[1] is None


def snapshot(lsn: int) -> list[Offset]:
    return [Offset({"server": "c"}, {"snapshot": "INITIAL", "lsn": lsn})]


def test_third_beginning_of_a_snapshot_is_stopped() -> None:
    memory = Memory()
    for lsn in (10, 10, 20, 20):
        memory, action = judge_snapshot(memory, "c", snapshot(lsn))
        assert action is None
    memory, action = judge_snapshot(memory, "c", snapshot(30))
    assert action
    assert action.verdict is Verdict.STOPPED


def test_snapshot_that_ends_is_left_alone_for_good() -> None:
    memory, _ = judge_snapshot(Memory(), "c", snapshot(10))
    assert not memory.streaming
    memory, action = judge_snapshot(memory, "c", [Offset({"server": "c"}, {"lsn": 40})])
    assert memory.streaming
    assert action is None


def test_nothing_stored_is_no_snapshot() -> None:
    assert judge_snapshot(Memory(), "c", []) == (Memory(), None)
