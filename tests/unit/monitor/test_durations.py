"""A histogram that takes many values at once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from deltasync.monitor.durations import Durations

_BOUNDS = (0.125, 0.5, 1.0)


def test_it_is_the_librarys_histogram() -> None:
    """The same lines, but for when it was made."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    found = Durations("d", "What.", _BOUNDS)
    ours.register(found)
    reference = Histogram("d", "What.", registry=theirs, buckets=_BOUNDS)
    for values in ([0.0, 0.125, 7.0], [], [0.375, 0.5, 0.75, 1.0]):
        found.observe_all(values)
        for value in values:
            reference.observe(value)

    lines = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == lines
