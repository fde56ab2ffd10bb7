"""Applying what lies in Kafka, or what a connector that starts brings there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from bench.capture import capturing
from bench.contestants import Contestant, Task, taking_part, timed
from bench.prepare import Prepared, Tell, digest, prepare
from bench.shapes import Shape
from bench.stage import Stage
from bench.works import Outcome, Pair


class Apply(NamedTuple):
    """A backlog is applied: from when its applier is ready until the last row of each table is visible.

    It is all that lies in the topics, onto empty tables, or with `changes` what is behind the snapshot, onto that.
    With `live` the backlog is in the source's log, and time begins with the connector. PostgreSQL's own replication
    reads the log at any rate.
    """

    name: str
    says: str
    shape: Callable[[float], Shape]
    appliers: tuple[Contestant, ...]
    pairs: tuple[Pair, ...]
    changes: bool = True
    live: bool = False

    @property
    def contestants(self) -> Mapping[str, bool]:
        return taking_part(self.appliers)

    def prepare(self, stage: Stage, scale: float, tell: Tell) -> Callable[[str], Outcome]:
        shape = self.shape(scale)
        prepared = prepare(stage, shape, tell)
        wanted = digest(stage.source(prepared.database), shape)
        return partial(self._run, stage, shape, prepared, wanted)

    def _run(self, stage: Stage, shape: Shape, prepared: Prepared, wanted: list[object], name: str) -> Outcome:
        (contestant,) = (one for one in self.appliers if one.name == name)
        with stage.replica_copy(prepared.base if self.changes else prepared.empty) as database:
            task = Task(prepared, database, "", prepared.slot, {})
            if self.live and contestant.form is not None:
                how = capturing(stage, prepared.database, shape.tables, form=contestant.form, slot=prepared.slot)
                with how as capture:
                    cost = timed(stage, contestant, task._replace(prefix=capture.name), shape, capture.start)
            else:
                if contestant.form is not None:
                    offsets = prepared.rows if self.changes else {}
                    task = task._replace(prefix=prepared.prefix(contestant.form), offsets=offsets)
                cost = timed(stage, contestant, task, shape, lambda: None)
            count = shape.changes + len(shape.tables) if self.changes else shape.records
            return Outcome(cost.per_change(count), digest(stage.replica(database), shape) == wanted)


class Growth(NamedTuple):
    """Backlogs of one shape in several sizes, by what they are called; each is applied onto empty tables."""

    name: str
    says: str
    sizes: Mapping[str, Callable[[float], Shape]]
    applier: Contestant
    pairs: tuple[Pair, ...]

    @property
    def contestants(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.sizes, False)

    def prepare(self, stage: Stage, scale: float, tell: Tell) -> Callable[[str], Outcome]:
        for size in self.sizes.values():
            prepare(stage, size(scale), tell, ["json"], base=False)
        return partial(self._run, stage, scale, tell)

    def _run(self, stage: Stage, scale: float, tell: Tell, name: str) -> Outcome:
        shape = self.sizes[name](scale)
        prepared = prepare(stage, shape, tell)
        with stage.replica_copy(prepared.empty) as database:
            task = Task(prepared, database, prepared.prefix("json"), None, {})
            cost = timed(stage, self.applier, task, shape, lambda: None)
            equal = digest(stage.replica(database), shape) == digest(stage.source(prepared.database), shape)
        return Outcome(cost.per_change(shape.records), equal)
