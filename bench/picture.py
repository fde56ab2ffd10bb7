"""The picture of a report: a bar for each contestant, with the spread over the rounds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bench.report import Report, Row
from deltasync.environment import cache_folder

# Nothing is written outside of our own folders; read by matplotlib when it is imported.
os.environ["MPLCONFIGDIR"] = str(cache_folder() / "matplotlib")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# What is drawn of each kind of work, and what that is.
_DRAWN = {
    "per_s": "changes per second",
    "p99_ms": "p99 of latency, ms",
    "percent_service": "CPU of the service, % of a core",
}
_COLOURS = {"deltasync": "tab:blue", "sink": "tab:orange"}
_BAR_INCH = 0.32


def draw(report: Report, file: Path) -> None:
    """Write the picture, a PNG. Raises OSError where it cannot."""
    works = [(work, figure) for work in report.works for figure in _DRAWN if _rows(report, work, figure)]
    if not works:
        return
    heights = [len(_rows(report, *work)) + 2 for work in works]
    figure = Figure(figsize=(10, _BAR_INCH * sum(heights) + 1), layout="constrained")
    grid = figure.subplots(len(works), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, work in zip(grid[:, 0], works, strict=True):
        _bars(axes, _rows(report, *work), *work)
    figure.savefig(file, dpi=110)


def _rows(report: Report, work: str, figure: str) -> list[Row]:
    return [row for row in report.rows if row.work == work and figure in row.figures]


def _bars(axes: Axes, rows: Sequence[Row], work: str, figure: str) -> None:
    found = [row.figures[figure] for row in rows]
    medians = [one.median for one in found]
    errors = [[one.median - one.min for one in found], [one.max - one.median for one in found]]
    colours = [
        next((colour for name, colour in _COLOURS.items() if row.contestant.startswith(name)), "tab:gray")
        for row in rows
    ]
    bars = axes.barh([row.contestant for row in rows], medians, xerr=errors, color=colours)
    axes.bar_label(bars, [f"{value:,.4g}" if value < 1000 else f"{value:,.0f}" for value in medians], padding=6)  # noqa: PLR2004
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(title=f"{work}: {_DRAWN[figure]}", xlim=(0, None))
