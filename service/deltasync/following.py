"""When the replica's tables follow what became of the source's: at any time, at a cut, or where nothing is to come.

A change waits for the first row from behind it, in front of which its partition is cut. Where none comes, the canary
tells that no row from before it is on its way: then it is carried out where the log ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from deltasync.assignment import Assignment
from deltasync.change import Partition
from deltasync.debezium.schema_log import SCHEMA_LOG
from deltasync.lifecycle import APPLY_S_MAX, Lifecycle
from deltasync.ports import Replica
from deltasync.progress import Claim
from deltasync.readable import Due, Tables

# The pause between tries of a table that others have locked: while a try lasts, new readers wait behind it.
_LOCKED_S = (1.0, 30.0)
# How soon a worker hears that a change was approved of a table that nothing is written to.
_WORD_EVERY_S = 2.0
# How soon it sees that nothing from before a change is to come.
_SETTLED_EVERY_S = 1.0


class Following:
    """The changes of tables that one worker carries out; belongs to the loop's thread."""

    def __init__(self, prefix: str, assignment: Assignment, replica: Replica, lifecycle: Lifecycle) -> None:
        self._prefix = prefix
        self._schema_log = Partition(f"{prefix}.{SCHEMA_LOG}", 0)
        self._assignment = assignment
        self._replica = replica
        self._lifecycle = lifecycle
        self._locked: dict[Due, tuple[float, float]] = {}  # tables locked by others: tried when, again after
        self._asked_at = self._settled_at = 0.0

    def may_be_approved(self, tables: Tables) -> bool:
        """True where a change waits for an operator, and it is time to see: no row need ever come behind it."""
        now = self._lifecycle.clock()
        if not tables.await_word or now - self._asked_at < _WORD_EVERY_S:
            return False
        self._asked_at = now
        return True

    def carry_out(self, tables: Tables, tried: Callable[[], None]) -> None:
        """Change the tables for which it is time, each again later where its lock is taken; tells of each try."""
        now = self._lifecycle.clock()
        leads = self._assignment.is_read(self._schema_log)
        todo: dict[Due, Mapping[Partition, Claim]] = {due: {} for due in tables.anytime if leads}
        todo |= self._unwritten(tables) | self._assignment.due()
        self._locked = {due: found for due, found in self._locked.items() if due in todo or due in tables.at_cut}
        for due, claims in todo.items():
            tried_at, pause_s = self._locked.get(due, (now, 0.0))
            if now - tried_at < pause_s:
                continue
            self._lifecycle.turns(within_s=APPLY_S_MAX)
            if not self._replica.carry_out(due, claims, self._assignment.logs):
                self._locked[due] = self._lifecycle.clock(), min(max(2 * pause_s, _LOCKED_S[0]), _LOCKED_S[1])
            tried()

    def _unwritten(self, tables: Tables) -> dict[Due, Mapping[Partition, Claim]]:
        """The changes of tables of which all rows from before were applied, though none from behind has come.

        None is to come where the transaction of the change is in Kafka, and with it all that held a lock of the table
        before, and the log was read to an end that was asked for behind that.
        """
        now = self._lifecycle.clock()
        if not tables.at_cut or now - self._settled_at < _SETTLED_EVERY_S:
            return {}
        self._settled_at = now
        settled, spread = self._replica.settled(), self._assignment.spread()
        places = {
            due: Partition(due.table.topic(self._prefix), 0) for due, xid in tables.at_cut.items() if xid < settled
        }
        read = {p for p in places.values() if p.topic not in spread and self._assignment.is_read(p)}
        ends = self._assignment.end_offsets(read) if read else {}
        claims = {p: self._assignment.claim(p) for p in read}
        level = {p: claim for p, claim in claims.items() if claim.progress.next_offset >= ends[p]}
        # What never had a row has no topic, and another name all the same.
        absent = {due for due, p in places.items() if due.renames and self._is_absent(p, read)}
        return {due: {p: level[p]} if p in level else {} for due, p in places.items() if p in level or due in absent}

    def _is_absent(self, partition: Partition, read: Collection[Partition]) -> bool:
        leads = self._assignment.is_read(self._schema_log)
        return leads and partition not in read and not self._assignment.exists(partition.topic)
