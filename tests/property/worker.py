"""One worker of a scenario: a process that is killed, fails, is frozen, and starts again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from tests.property.connector import PREFIX
from tests.property.kinds import PLACEHOLDER

from deltasync import bulk, pipeline
from deltasync.change import Partition, Record
from deltasync.errors import RefusedError, UnreachableError
from deltasync.failure import Verdict, verdict
from deltasync.kafka.memory import Consumer
from deltasync.lifecycle import Lifecycle
from deltasync.monitor.metrics import Metrics
from deltasync.pipeline import Pipeline
from deltasync.settings import Settings
from deltasync.transactional import TransactionalPipeline

if TYPE_CHECKING:
    from tests.property.world import World

GROUP = "p"
# Where a worker can be met by a fault, in the order of a turn.
PLACES = ("polled", "begin", "fenced", "committed", "commit")
# Twice as often what makes a zombie of it: a worker that wakes with records in its hands that others have applied.
KINDS = ("kill", "fail", "freeze", "freeze and expel", "freeze and end", "freeze and expel")


class _Metrics(Metrics):
    """They are not under test: what is told of each partition at each turn takes longer than a scenario."""

    def ownership(self, *_args: object) -> None:
        """Tell nothing."""


_METRICS = _Metrics()


class Killed(BaseException):
    """The worker's process is gone, there and then."""


class Clock:
    """Time goes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class _Member(Consumer):
    """A consumer that tells where the worker is."""

    at: Callable[[str], object]

    def poll(self, *, rows_max: int, bytes_max: int, wait_s: float) -> list[Record]:
        found = super().poll(rows_max=rows_max, bytes_max=bytes_max, wait_s=wait_s)
        if found:
            self.at("polled")
        return found

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        self.at("commit")
        super().commit(next_offsets)


class _Fault(NamedTuple):
    place: str
    kind: str
    ops: int


class Worker:
    """One process: killed and started again, frozen and woken."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._fault: _Fault | None = None
        self.is_busy = False
        self.start()

    def start(self) -> None:
        world = self._world
        self.alive = True
        self.member = _Member(world.broker, GROUP, PREFIX, world.clock.wait)
        self.member.at = self._at
        self.session = world.store.session(self._at, ordered=world.ordered, ddl=world.ddl)
        kind = TransactionalPipeline if world.whole else Pipeline
        settings = _settings(world.rows_max, ordered=world.ordered)
        bulk.RECORDS_MIN = pipeline.OVERLAP_FROM = world.bulk_from
        self.pipeline = kind(settings, self.member, self.session, _METRICS, Lifecycle(world.clock))
        self._guarded(self.pipeline.start, starting=True)

    def step(self) -> None:
        """One turn of the loop; a process that is not there any more is started first."""
        if self.is_busy:
            return
        if not self.alive:
            self.start()
        if self.alive:
            self._guarded(self.pipeline.step)

    def arm(self, place: int, kind: int, ops: int) -> None:
        self._fault = _Fault(PLACES[place % len(PLACES)], KINDS[kind % len(KINDS)], ops)

    def disarm(self) -> None:
        self._fault = None

    def kill(self) -> None:
        if self.alive and not self.is_busy:
            self._gone()

    def _guarded(self, act: Callable[[], None], *, starting: bool = False) -> None:
        """Act as a process: where the service ends, it is started again."""
        self.is_busy = True
        try:
            act()
        except (Killed, UnreachableError, RefusedError):  # refused is who applies beside another leader
            self._gone()
        except Exception as error:
            if not starting or verdict(error) is not Verdict.RETRY:
                raise
            self._gone()
        finally:
            self.is_busy = False

    def _gone(self) -> None:
        self.alive = False
        self.session.close()
        self._world.ghosts.append(self.member)

    def _at(self, place: str) -> None:
        """The worker is at this place: if a fault waits for it there, it happens."""
        self._world.observe(locked=place == "fenced" and self._world.store.waits_for_locks)
        fault = self._fault
        if fault is None or fault.place != place:
            return
        self._fault = None
        match fault.kind:
            case "kill":
                raise Killed
            case "fail" if place in ("begin", "fenced", "committed"):
                raise self._world.store.fail()
            case "freeze and expel":
                self._world.broker.expel(self.member)
            case "freeze and end":
                self._world.store.end(self.session)
        if place == "fenced" and self._world.store.waits_for_locks:
            self._world.store.end(self.session)
        self._world.meanwhile(self, fault.ops)


@cache
def _settings(rows_max: int, *, ordered: bool) -> Settings:
    return Settings.model_validate(
        {
            "pipeline": GROUP,
            "unavailable_value": PLACEHOLDER,
            "batch": {"rows_max": rows_max},
            "replica": {"constraints": "ordered" if ordered else "replica-role"},
        }
    )
