"""Restart failed connectors where that can help, and stop a snapshot that begins again and again.

Debezium sits out a source that is away, but after some reasons that pass (Kafka away for longer, its retries
used up) a task stays FAILED for ever. And where its connection dies without a word (a firewall that forgot it), the
source ends its side, while the task stays RUNNING until its kernel gives up, after a quarter of an hour.
Once an initial snapshot is complete, the connector is kept from ever taking another: a second one brings no deletes.
`Supervisor.check` is called every few seconds, by one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf

from deltasync.connect.apply import settle
from deltasync.connect.client import ConnectClient, NoConnectorError, Offset, is_streaming
from deltasync.connect.status import Condition, Status

BACKOFF_S = 5.0
BACKOFF_S_MAX = 300.0
SNAPSHOT_STARTS_MAX = 2
# A task that is RUNNING and has not read its slot for so long does not know that its connection is dead.
UNREAD_S_MAX = 30.0
_UNREAD_REMEDY = "See what lies between Connect and the source, and lower net.ipv4.tcp_retries2 on Connect's hosts."
_SETTLED = "its initial snapshot is complete: snapshot.mode is no_data from now on"


class Verdict(StrEnum):
    """What was done about a connector."""

    RESTARTED = "restarted"
    LEFT = "left"
    STOPPED = "stopped"
    SETTLED = "settled"


@dataclass(frozen=True)
class Action:
    """What the supervisor did, or why it does nothing. `attempt` counts the restarts of one trouble."""

    verdict: Verdict
    connector: str
    reason: str
    remedy: str
    attempt: int = 0


@dataclass(frozen=True)
class Memory:
    """What is known of one connector between two checks."""

    attempts: int = 0
    restarted_at: float = -inf
    left: str = ""
    snapshots: frozenset[str] = frozenset()
    streaming: bool = False


def backoff_s(attempts: int) -> float:
    """How long to wait after so many restarts: 5, 10, 20 … 300 seconds."""
    return min(BACKOFF_S * 2.0 ** max(attempts - 1, 0), BACKOFF_S_MAX)


def judge(
    memory: Memory, status: Status, now: float, unread_since: float | None = None
) -> tuple[Memory, Action | None]:
    """Decide about one connector. A reason that does not pass is reported once and left alone.

    `unread_since`: since when nobody reads its slot, as far as the source tells.
    """
    if status.condition is Condition.RUNNING and memory.streaming and unread_since is not None:
        return _judge_unread(memory, status.name, now, unread_since)
    if status.condition is not Condition.FAILED:
        proven = memory.attempts and now - memory.restarted_at >= BACKOFF_S_MAX
        return replace(memory, left="", attempts=0 if proven else memory.attempts), None
    failures = list(status.failures())
    lasting = next((found.diagnosis for found in failures if not found.diagnosis.passing), None)
    diagnosis = lasting or failures[0].diagnosis
    reason = diagnosis.cause or diagnosis.line
    if lasting:
        if memory.left == reason:
            return memory, None
        return replace(memory, left=reason), Action(Verdict.LEFT, status.name, reason, diagnosis.remedy)
    if memory.attempts and now - memory.restarted_at < backoff_s(memory.attempts):
        return memory, None
    memory = replace(memory, attempts=memory.attempts + 1, restarted_at=now, left="")
    return memory, Action(Verdict.RESTARTED, status.name, reason, diagnosis.remedy, memory.attempts)


def _judge_unread(memory: Memory, name: str, now: float, since: float) -> tuple[Memory, Action | None]:
    pause_s = min(UNREAD_S_MAX * 2**memory.attempts, BACKOFF_S_MAX)
    if now - max(since, memory.restarted_at) < pause_s:
        return memory, None
    memory = replace(memory, attempts=memory.attempts + 1, restarted_at=now, left="")
    reason = f"it is RUNNING, and its slot has not been read for {now - since:.0f} s: its connection to the source died"
    return memory, Action(Verdict.RESTARTED, name, reason, _UNREAD_REMEDY, memory.attempts)


def judge_snapshot(memory: Memory, name: str, offsets: Sequence[Offset]) -> tuple[Memory, Action | None]:
    """Count how often the initial snapshot has begun; each attempt reads at another position of the WAL."""
    stored = [found.offset for found in offsets if found.offset]
    begun = {str(offset.get("lsn")) for offset in stored if "snapshot" in offset}
    memory = replace(memory, snapshots=memory.snapshots | begun, streaming=is_streaming(offsets))
    if len(memory.snapshots) <= SNAPSHOT_STARTS_MAX or memory.streaming:
        return memory, None
    reason = f"its initial snapshot has begun {len(memory.snapshots)} times, and sends all rows again each time"
    remedy = "Read the log of Connect's worker, remove the reason, then `deltasync connectors resume`."
    return replace(memory, snapshots=frozenset()), Action(Verdict.STOPPED, name, reason, remedy)


class Supervisor:
    """Watches these connectors. `restarts` is the number of restarts so far, for the metrics."""

    def __init__(self, client: ConnectClient, connectors: Sequence[str]) -> None:
        self.restarts = 0
        self._client = client
        self._memories = {name: Memory() for name in connectors}

    def check(self, now: float, unread_since: float | None = None) -> list[Action]:
        """Look once and act; both are a monotonic clock's, in seconds. A connector that does not exist is passed over.

        Blocks while Connect answers. Raises UnreachableError where it does not: check again later.
        """
        actions = []
        for name in self._memories:
            try:
                actions += self._check(name, now, unread_since)
            except NoConnectorError:
                self._memories[name] = Memory()
        return actions

    def _check(self, name: str, now: float, unread_since: float | None) -> list[Action]:
        status = self._client.status(name)
        memory, action = judge(self._memories[name], status, now, unread_since)
        if not memory.streaming:
            memory, stop = judge_snapshot(memory, name, self._client.offsets(name))
            action = stop or action
        if memory.streaming and status.condition is Condition.RUNNING and settle(self._client, name):
            action = Action(Verdict.SETTLED, name, _SETTLED, "")
        if action and action.verdict is Verdict.RESTARTED:
            self._client.restart(name, only_failed=status.condition is Condition.FAILED)
            self.restarts += 1
        elif action and action.verdict is Verdict.STOPPED:
            self._client.stop(name)
        self._memories[name] = memory
        return [action] if action else []
