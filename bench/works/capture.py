"""Capturing into Kafka what is in the source's log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from bench.capture import SCHEMAS, capturing
from bench.prepare import Prepared, Tell, prepare
from bench.shapes import Shape
from bench.stage import Stage
from bench.topics import Topics
from bench.works import Outcome, Pair

_WAYS: Mapping[str, Mapping[str, str]] = {"deltasync's connector": {}, "the same with schemas": SCHEMAS}


class CaptureWork(NamedTuple):
    """From the connector's start on a copied slot until the slot has confirmed the end of the changes.

    Connect confirms once a second. All records have to be in the topics, each once.
    """

    name: str
    says: str
    shape: Callable[[float], Shape]
    pairs: tuple[Pair, ...] = (Pair("deltasync's connector", "the same with schemas"),)

    @property
    def contestants(self) -> Mapping[str, bool]:
        return dict.fromkeys(_WAYS, False)

    def prepare(self, stage: Stage, scale: float, tell: Tell) -> Callable[[str], Outcome]:
        shape = self.shape(scale)
        return partial(self._run, stage, shape, prepare(stage, shape, tell))

    def _run(self, stage: Stage, shape: Shape, prepared: Prepared, way: str) -> Outcome:
        count = shape.changes + len(shape.tables)
        how = capturing(stage, prepared.database, shape.tables, form="json", slot=prepared.slot, changes=_WAYS[way])
        with how as capture:
            meter = stage.meter(memory_of=[stage.servers.connect.process])
            capture.start()
            stage.wait_for_slot(capture.name, f"confirmed_flush_lsn >= '{prepared.end}'", capture.look)
            cost = meter.read()
            found = Topics(stage.servers.kafka.bootstrap).count(capture.name, shape.tables)
        return Outcome(cost.per_change(count), found == count)
