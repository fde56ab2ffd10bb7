"""Our real pipeline between a simulated source and a replica, with everything going wrong on the way.

Nothing runs at the same time as anything else. A worker that is frozen is one in whose call other
things happen: what comes next in the scenario, until it wakes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from tests.property.commits import BrokenError, Commits
from tests.property.connector import PREFIX, Connector
from tests.property.keyless import Keyless, counted
from tests.property.kinds import UNIQUE
from tests.property.letters import Letters
from tests.property.operator import Operator
from tests.property.scenario import Op, Scenario, family_of, foreign_key
from tests.property.source import Source
from tests.property.statements import STATEMENTS
from tests.property.store import Store
from tests.property.worker import GROUP, Clock, Worker

from deltasync.change import Partition, ends_in_half
from deltasync.debezium.schema_log import SCHEMA_LOG
from deltasync.kafka.memory import Broker, Consumer, evenly
from deltasync.policy import Ddl
from deltasync.progress import Progress

# So many turns without a fault must be enough for all that is left.
_TURNS_MAX = 400
# So many rows are written behind a change: some may not be there.
_ROWS_TRIED = 5
# Why a partition may stop for good rather than guess.
_HALTS = ("the connector began anew", "Equal keys of")
# What waits for a row of another partition, which may have stopped, or is behind what waits.
_FOLLOWS = ("(23503)", "reference on the replica", "cannot be read", "tells no begin and no end")
# With whole transactions also behind null first halves: of what was under way when the clock went back.
_IS_DOUBTFUL = "Nothing is applied before it is whole"
_SCHEMA_LOG = Partition(f"{PREFIX}.{SCHEMA_LOG}", 0)
_KEYLESS = "which has no key, and"


class HaltedError(Exception):
    """A partition stopped rather than guess (see `_HALTS`)."""


class World:
    """One scenario under way."""

    def __init__(self, scenario: Scenario, store: Store) -> None:
        self.store = store
        self.clock = Clock()
        self.broker = Broker(self._assign)
        self.rows_max = scenario.rows_max
        self.bulk_from = scenario.bulk_from
        self.ghosts: list[Consumer] = []
        self._salt = 0
        self._ledger: dict[Partition, int] = {}
        self._beats: list[int] = []
        self._poison: set[tuple[Partition, int]] = set()
        self.whole = whole = scenario.whole
        spread = () if whole else scenario.spread  # transactions that are whole have an order in spite of it
        self.ordered = "ordered" in scenario.family
        family = family_of(scenario)
        self._source = Source(scenario.tables, scenario.full, spread, tells_ends=whole, family=family)
        self._made: set[str] = set()  # tables that are on the replica before anything is told of them
        for name, shape in self._source.shapes.items():
            if shape.unique or shape.reference or scenario.family:
                self._made.add(name)
                store.constrain(shape.table, shape.unique)
            if shape.reference:
                store.relate(foreign_key(shape, scenario))
        self._connector = Connector(
            self._source,
            self.broker,
            tombstones=scenario.tombstones,
            partitions=dict.fromkeys(scenario.spread, scenario.partitions),
            late=scenario.late,
            whole=scenario.whole,
        )
        self._ops: deque[Op] = deque(scenario.before)
        self.perform(len(self._ops))
        self._commits = Commits(self._source, self._connector, store, scenario.late)
        self.keyless = Keyless(self._source, self._connector, self.broker, store, self._move)
        self._letters = Letters(self._source, self._connector, store, ordered=self.ordered)
        self.ddl = Ddl.model_validate(dict.fromkeys(scenario.ddl[1:], "apply"))
        self._operator = Operator(
            self._source,
            self._connector,
            self.broker,
            store,
            self.ddl if scenario.ddl else None,
            restart=self._restart,
            meanwhile=lambda ops: self.meanwhile(None, ops),
            went_on=self._went_on,
            skip=self._skip,
        )
        self._connector.snapshot(scenario.aborted_reads)
        loaded = {p: log.end_offset for p in self.broker.partitions("") if (log := self.broker.log(p))}
        self.keyless.loaded = self._commits.loaded = loaded
        self._ops.extend(scenario.ops)
        self._workers = [Worker(self) for _ in range(scenario.workers)]

    def run(self) -> None:
        """Let everything happen, then calm, and see that the replica is the source. Raises BrokenError."""
        self.perform(len(self._ops))
        self._calm()
        self._compare("at the end")
        self._connector.crash(20)  # and it repeats itself, with nothing new: nothing may change
        self._calm()
        self._compare("after records came again")

    def perform(self, count: int) -> None:
        """The next things of the scenario."""
        for _ in range(min(count, len(self._ops))):
            if self._ops:
                self._do(*self._ops.popleft())

    def do(self, *ops: Op) -> None:
        """What a test wants to happen."""
        for op in ops:
            self._do(*op)

    def become_another_source(self) -> None:
        """From now on the source says that it is another one."""
        self._source.system_identifier += 1

    def accept_source(self) -> None:
        """An operator accepts the source as it is: what was known of the old one is forgotten."""
        self.store.accept("a test")
        self._beats = []

    def lose_beat(self) -> None:
        """A beat that never comes."""
        self._source.beat += 1

    def meanwhile(self, frozen: Worker | None, ops: int) -> None:
        """What happens while a worker is frozen, or a command runs: the next things, and others that work."""
        self.perform(ops)
        self._connector.emit(ops)
        for _ in range(1 + ops % 5):
            for worker in self._workers:
                if worker is not frozen:
                    worker.step()

    def observe(self, *, locked: bool = False) -> None:
        """At any moment: the ledger does not go back by itself, nor behind what cannot be read; nor does the canary.

        But for an operator, and behind null first halves: there all that follows is applied again. Where tables may be
        `locked`, their rows cannot be looked at.
        """
        beats = [int(row["beat"] or 0) for row in self.store.rows("source_canary", ["beat"])]
        if beats < self._beats and not self._connector.began_anew:
            raise BrokenError(f"the canary went back to {beats}")
        self._beats = beats
        if self.whole and not locked:
            self._commits.see()
        for partition, progress in self.store.ledger().items():
            before = self._ledger.get(partition, 0)
            if progress.next_offset < before:
                raise BrokenError(f"the ledger of {partition} went back to {progress.next_offset}")
            stops = (*self._poison, *self._connector.lost)
            if any(p == partition and before <= offset < progress.next_offset for p, offset in stops):
                raise BrokenError(f"the ledger of {partition} went on behind what cannot be applied")
            self._ledger[partition] = progress.next_offset

    def _do(self, name: str, who: int, where: int, n: int) -> None:
        if name in STATEMENTS:
            STATEMENTS[name](self._source, who, where, n)
            return
        worker = self._workers[who % len(self._workers)]
        match name:
            case "step":
                worker.step()
            case "arm":
                worker.arm(where // 2 if n % 3 else 0, n, 1 + n % 11)
            case "kill":
                worker.kill()
            case "emit":
                self._connector.emit(1 + n % 12)
            case _:
                self._disturb(name, worker, where, n)

    def _disturb(self, name: str, worker: Worker, where: int, n: int) -> None:
        match name:
            case "expel":
                self.broker.expel(self.ghosts.pop() if self.ghosts else worker.member)
            case "shuffle":
                self._salt = n
                self.broker.rebalance(self.broker.group(GROUP), f"{PREFIX}.")
            case "forget":
                self.broker.group(GROUP).committed = {}
            case "outage":
                self.broker.reachable = not self.broker.reachable
            case "lose half":
                self._connector.lose_half()
            case _:
                self._operate(name, where, n)

    def _operate(self, name: str, where: int, n: int) -> None:
        match name:
            case "place":
                self._place(where, n)
            case "refuse":
                self._letters.refuse(where, n)
            case "admit":
                self.store.admit()
            case "replay":
                self.store.replay(ordered=self.ordered)
            case "approve":
                self._operator.approve(where)
            case "damage":
                self._operator.damage(where, n)
            case "expire":
                self._operator.expire(where, n)
            case "resync":
                self._operator.resync(where, n, self.rows_max)
            case _:
                self._disturb_connector(name, where, n)

    def _disturb_connector(self, name: str, where: int, n: int) -> None:
        match name:
            case "crash":
                self._connector.crash(n % 25)
            case "reset":
                self._connector.reset(n % 25)
            case "hold":
                partitions = self.broker.partitions("")
                self._connector.hold(partitions[where % len(partitions)])
            case "release":
                self._connector.release()
            case "read":
                self._connector.reads.turn(n)
            case "noise":
                self._connector.noise(n)
            case "poison":
                partitions = self.broker.partitions(f"{PREFIX}.")
                partition = partitions[where % len(partitions)]
                # Within a transaction that has to be whole, nobody could go on behind it.
                fits = (
                    self._connector.is_between() if self.whole else not ends_in_half(self.broker.records(partition, 0))
                )
                if fits:
                    self._poison.add((partition, self.broker.produce(partition, b"?", b"?")))
            case _:
                raise ValueError(name)

    def _place(self, where: int, n: int) -> None:
        """An operator moves a partition: to the begin of its log, or to where it is."""
        found = sorted(self.store.ledger().items())
        if found and not self.whole:  # there nothing is moved backwards, nor to where it is
            partition, progress = found[where % len(found)]
            is_unique = partition.topic.endswith(f".{UNIQUE}")  # what a row had there may be another's by now
            if self.keyless.holds(partition):
                self.keyless.place(partition, progress.next_offset, back=not n % 2)
                return
            stays = n % 2 or is_unique or self._operator.approves  # nor are rows from before a change what they were
            self._move(partition, progress.next_offset if stays else 0)

    def _move(self, partition: Partition, offset: int) -> None:
        log = self.broker.log(partition)
        before = self._ledger.get(partition, 0)
        if offset < before or (offset == before and not self.keyless.holds(partition)):
            self._connector.began_anew = self._connector.watermark_forgotten = True
        self._ledger[partition] = offset
        self.store.place(partition, log.topic_id if log else "", offset)

    def _assign(
        self, partitions: Sequence[Partition], members: Sequence[Consumer], before: Mapping[Partition, Consumer]
    ) -> dict[Partition, Consumer]:
        if self.whole:
            return dict.fromkeys(partitions, members[self._salt % len(members)])
        if not self._salt:
            return evenly(partitions, members, before)
        return {p: members[self._salt * (7 + i) // 5 % len(members)] for i, p in enumerate(partitions)}

    # The end

    def _calm(self) -> None:
        """No more faults: everything is committed, written, and applied."""
        self._source.commit_all()
        self._connector.release()
        self._connector.reads.finish()
        self._connector.emit(len(self._source.stream))
        self.broker.reachable = True
        for worker in self._workers:
            worker.disarm()
        self._expel_ghosts()
        for turn in range(_TURNS_MAX):
            self._operator.settle(turn, self.rows_max, self.store.letters())
            if self._letters.are_astray() and not self._operator.has_damaged:
                raise BrokenError(f"set aside without need: {self.store.letters()}")
            self._letters.mend(turn)
            for worker in self._workers:
                worker.step()
            self.observe()
            if not self._unapplied() and not self.store.held():
                if self.store.pending():
                    self._show_changes()
                elif not self.store.letters() and not self._operator.owed:
                    return
            for partition, progress in self.store.ledger().items():
                self._look_at(partition, progress.next_offset)
            self._operator.mend(self._troubles(), is_told=str(_SCHEMA_LOG) not in self._unapplied())
        troubles = self._troubles()
        halts = (*_HALTS, _IS_DOUBTFUL) if self.whole and self._connector.began_anew else _HALTS
        halted = [trouble for trouble in troubles if any(why in trouble for why in halts)]
        has_halted = bool(halted) and all(t in halted or any(why in t for why in _FOLLOWS) for t in troubles)
        is_one_keyless = any(_KEYLESS in trouble for trouble in troubles)
        # An operator has let such a table go on, but nothing passes what is not whole.
        if self.whole if is_one_keyless else has_halted:
            raise HaltedError("; ".join(troubles))
        raise BrokenError(
            f"not level after {_TURNS_MAX} turns: {self._unapplied()}, {troubles}, {len(self.store.letters())} letters"
        )

    def _went_on(self, name: str) -> None:
        for partition, progress in self.store.ledger().items():
            if partition.topic == f"{PREFIX}.shop.{name}":
                self._ledger[partition] = progress.next_offset

    def _skip(self, name: str) -> None:
        for partition in self.broker.partitions(f"{PREFIX}.shop.{name}"):
            log, progress = self.broker.log(partition), self.store.ledger().get(partition)
            if log is not None and progress is not None and progress.next_offset < log.start_offset:
                self._move(partition, log.start_offset)

    def _show_changes(self) -> None:
        """A change of a table is carried out in front of a row from behind it, by a worker that knows of it."""
        self._restart()
        for place in range(len(self._source.shapes)):
            for n in range(_ROWS_TRIED):
                STATEMENTS["insert"](self._source, 0, place, n)
                STATEMENTS["reinsert"](self._source, 0, place, n)
        self._source.commit_all()
        self._connector.emit(len(self._source.stream))

    def _look_at(self, partition: Partition, offset: int) -> None:
        """What an operator does about a record that nobody can read, and one whose second half never comes."""
        if self.keyless.holds(partition) and not self.whole:
            self._look_at_keyless(partition, offset)
            return
        lost = self._connector.lost.get((partition, offset))
        if lost is not None:
            name, before, after = self._source.moved[self._source.stream[lost].lsn]
            self.store.mend(self._source.shapes[name].table, before, after)
        if lost is not None or (partition, offset) in self._poison:
            self._move(partition, offset + 1)

    def _look_at_keyless(self, partition: Partition, offset: int) -> None:
        is_owed = partition.topic.removeprefix(f"{PREFIX}.shop.") in self._operator.owed
        if self._is_stopped(partition) and not is_owed:
            wrong = self.keyless.surplus(partition, offset)
            if wrong is not None:
                raise BrokenError(f"{partition} stops at {offset} with {wrong}")
            self.keyless.step_over(partition, offset)

    def _is_stopped(self, partition: Partition) -> bool:
        """True where it cannot go on by itself."""
        return any(trouble.startswith(f"{partition} stopped") for trouble in self._troubles())

    def _expel_ghosts(self) -> None:
        for ghost in self.ghosts:
            self.broker.expel(ghost)

    def _restart(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._expel_ghosts()

    def _unapplied(self) -> dict[str, int]:
        ledger = self.store.ledger()
        ends = {p: log.end_offset for p in self.broker.partitions(f"{PREFIX}.") if (log := self.broker.log(p))}
        lag = {p: end - ledger.get(p, Progress()).next_offset for p, end in ends.items()}
        return {str(p): records for p, records in lag.items() if records and not self._is_level(p, ends[p] - records)}

    def _is_level(self, partition: Partition, offset: int) -> bool:
        """True where it stopped for good, in front of nothing that is new."""
        stopped = not self.whole and self.keyless.holds(partition) and self._is_stopped(partition)
        return stopped and self.keyless.lacking(partition, offset) is None

    def _troubles(self) -> list[str]:
        return [f"{t.partition} {t.state.value}: {t.error.what}" for w in self._workers for t in w.pipeline.troubles()]

    def _compare(self, when: str) -> None:
        for name, shape in self._source.shapes.items():
            types = {column.name: column.sql_type for column in shape.table.columns}
            if self.store.columns(name) != types and name not in self._made:
                raise BrokenError(f"shop.{name} has other columns {when}: {self.store.columns(name)} for {types}")
            columns = list(shape.kinds)
            wanted = counted(self._source.committed[name].values(), columns)
            found = counted(self.store.rows(name, columns), columns)
            if found != wanted:
                raise BrokenError(f"shop.{name} differs {when}: {wanted - found} missing, {found - wanted} surplus")
        beats = [row["beat"] for row in self.store.rows("source_canary", ["beat"])]
        if beats != [str(self._source.beat)] * bool(self._source.beat):
            raise BrokenError(f"the canary is at {beats} {when}, not at {self._source.beat}")
        if self.store.told():
            raise BrokenError(f"{when}, although the source is the same: {self.store.told()}")
