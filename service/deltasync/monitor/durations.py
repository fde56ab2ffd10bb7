"""A histogram that takes thousands of values at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Durations(Collector):
    """As `prometheus_client.Histogram` without labels, which counts one by one; thread-safe.

    `bounds` are the upper ends of its buckets but the last, in seconds, in order.
    """

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self._name, self._documentation = name, documentation
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)  # as many as are below each bound, and in all
        self._sum = 0.0
        self._lock = Lock()

    def observe_all(self, seconds: Iterable[float]) -> None:
        """Count these."""
        found = sorted(seconds)
        below = [bisect_right(found, bound) for bound in self._bounds]
        with self._lock:
            self._sum += sum(found)
            self._counts = [before + more for before, more in zip(self._counts, [*below, len(found)], strict=True)]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The buckets as they are now."""
        with self._lock:
            counts, total = self._counts, self._sum
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        yield HistogramMetricFamily(self._name, self._documentation, list(zip(names, counts, strict=True)), total)
