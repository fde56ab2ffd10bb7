"""The picture of a demo: lag and rate over the run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from deltasync.environment import cache_folder
from deltasync.local.demo import Curve
from deltasync.local.measure import Sample

# Nothing is written outside of our own folders; read by matplotlib when it is imported.
os.environ["MPLCONFIGDIR"] = str(cache_folder() / "matplotlib")

from matplotlib.figure import Figure

# Rates are means over this time: the replica gets whole batches.
_WINDOW_S = 0.5


def draw(curve: Curve, file: Path) -> None:
    """Write the picture, in the format that the file's name ends with. Raises OSError where it cannot."""
    begun = curve.samples[0].at
    times = [sample.at - begun for sample in curve.samples]
    figure = Figure(figsize=(10, 8), layout="constrained")
    lag, age, rate = figure.subplots(3, 1, sharex=True)
    lag.fill_between(times, [sample.lag for sample in curve.samples], color="tab:blue", alpha=0.4)
    lag.set(title="Committed on the source, not yet applied", ylabel="changes")
    age.plot(
        [one.committed_at - begun for one in curve.seen],
        [one.latency_s for one in curve.seen],
        ".",
        markersize=2,
        color="tab:red",
    )
    age.set(title="From commit on the source to visible on the replica", ylabel="seconds", yscale="log")
    rate.plot(*_rates(curve.samples, begun), color="tab:green")
    rate.set(title="Applied", ylabel="changes per second", xlabel="seconds", ylim=(0, None))
    for axes in (lag, age, rate):
        axes.axvline(curve.steady_at - begun, color="gray", linestyle="--")
        axes.grid(alpha=0.3)
    lag.annotate(
        "caught up",
        (curve.steady_at - begun, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -12),
        textcoords="offset points",
    )
    figure.savefig(file, dpi=120)


def _rates(samples: Sequence[Sample], begun: float) -> tuple[list[float], list[float]]:
    kept = [samples[0]]
    for sample in samples:
        if sample.at - kept[-1].at >= _WINDOW_S:
            kept.append(sample)
    middles = [(one.at + two.at) / 2 - begun for one, two in pairwise(kept)]
    return middles, [(two.applied - one.applied) / (two.at - one.at) for one, two in pairwise(kept)]
