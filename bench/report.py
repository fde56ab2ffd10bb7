"""Runs to medians, spreads and ratios; these to JSON, and to the table of README.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from bench.contestants import SINK
from bench.machine import Machine
from bench.rounds import Run
from bench.works import Pair
from bench.works.all import BEST_SINK, WORKS
from deltasync.errors import SettingsError

_BEGIN, _END = "<!-- bench -->", "<!-- /bench -->"
# Heads of columns, and the figures that are in them, of each kind of work: the first figure tells the kind.
_TABLES: tuple[Mapping[str, str], ...] = (
    {
        "changes/s": "per_s",
        "service": "cpu_service",
        "PostgreSQL": "cpu_postgresql",
        "broker": "cpu_broker",
        "Connect": "cpu_connect",
        "memory, MB": "memory_mb",
    },
    {"p50, ms": "p50_ms", "p99, ms": "p99_ms", "max, ms": "max_ms", "transactions/s": "transactions_per_s"},
    {
        "service, %": "percent_service",
        "source, %": "percent_source",
        "replica, %": "percent_replica",
        "broker, %": "percent_broker",
        "Connect, %": "percent_connect",
    },
)


class Spread(msgspec.Struct, frozen=True):
    """A figure over the rounds."""

    median: float
    min: float
    max: float


class Row(msgspec.Struct, frozen=True):
    """A contestant in a work, over all rounds; `equal` is false where one was not, or none has ended."""

    work: str
    contestant: str
    rounds: int
    equal: bool
    failures: list[str]
    figures: dict[str, Spread]


class Ratio(msgspec.Struct, frozen=True):
    """`figure` of `one` by that of `other`, of medians."""

    work: str
    figure: str
    one: str
    other: str
    ratio: float


class Report(msgspec.Struct, frozen=True):
    """All that is written to the JSON file."""

    machine: Machine
    scale: float
    works: dict[str, str]
    rows: list[Row]
    ratios: list[Ratio]
    runs: list[Run]


def make(machine: Machine, scale: float, runs: Sequence[Run]) -> Report:
    """What these runs come to."""
    rows = [_row(list(group)) for group in _by_contestant(runs)]
    names = dict.fromkeys(row.work for row in rows)
    ratios = [ratio for name in names for ratio in _ratios(name, [row for row in rows if row.work == name])]
    return Report(machine, scale, {name: WORKS[name].says for name in names}, rows, ratios, [*runs])


def _by_contestant(runs: Sequence[Run]) -> Iterable[Iterable[Run]]:
    order = list(dict.fromkeys((run.work, run.contestant) for run in runs))
    ordered = sorted(runs, key=lambda run: order.index((run.work, run.contestant)))
    return (group for _, group in groupby(ordered, key=lambda run: (run.work, run.contestant)))


def _row(runs: list[Run]) -> Row:
    outcomes = [run.outcome for run in runs if run.outcome is not None]
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.figures)
    return Row(
        work=runs[0].work,
        contestant=runs[0].contestant,
        rounds=len(runs),
        equal=bool(outcomes) and all(outcome.equal for outcome in outcomes),
        failures=[run.failure for run in runs if run.failure is not None],
        figures={name: _spread([o.figures[name] for o in outcomes if name in o.figures]) for name in names},
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def _ratios(work: str, rows: Sequence[Row]) -> list[Ratio]:
    found = []
    for pair in WORKS[work].pairs:
        one, other = _median(rows, pair.one, pair), _median(rows, _other(rows, pair), pair)
        if one and other:
            found.append(Ratio(work, pair.figure, pair.one, pair.other, round(one / other, 3)))
    return found


def _other(rows: Sequence[Row], pair: Pair) -> str:
    if pair.other != BEST_SINK:
        return pair.other
    sinks = [row for row in rows if row.contestant.startswith(SINK) and row.equal and pair.figure in row.figures]
    return max(sinks, key=lambda row: row.figures[pair.figure].median).contestant if sinks else ""


def _median(rows: Sequence[Row], contestant: str, pair: Pair) -> float | None:
    """None where there is no figure, or one of a replica that was not equal."""
    for row in rows:
        if row.contestant == contestant and row.equal and pair.figure in row.figures:
            return row.figures[pair.figure].median
    return None


def markdown(report: Report) -> str:
    """The machine, a table for each kind of work, and the ratios."""
    parts = [_machine(report)]
    for columns in _TABLES:
        kind = next(iter(columns.values()))
        works = {row.work for row in report.rows if kind in row.figures}
        rows = [row for row in report.rows if row.work in works]
        if rows:
            parts.append(_table(["work", "contestant", *columns, "replica"], [_cells(row, columns) for row in rows]))
    lost = [row for row in report.rows if not row.figures]
    parts.extend(f"{row.work}, {row.contestant}: {_escaped(row.failures[0])}" for row in lost if row.failures)
    ratios = [[one.work, f"{one.one} / {one.other}", one.figure, f"{one.ratio:.2f}"] for one in report.ratios]
    if ratios:
        parts.append(_table(["work", "ratio of medians", "of", "is"], ratios))
    return "\n\n".join(parts)


def _machine(report: Report) -> str:
    found = report.machine
    return (
        f"{found.at[:10]}, {found.cores} cores of {found.cpu}, {found.memory_gb:.0f} GB, {found.kernel},"
        " all on one machine;"
        f" deltasync {found.deltasync}, Debezium {found.debezium}, its JDBC sink {found.debezium_sink},"
        f" Kafka {found.kafka}, PostgreSQL {found.postgresql}, Python {found.python}; scale {report.scale:g},"
        f" synchronous_commit {found.synchronous_commit} for all. Median (least to most);"
        " CPU in seconds per million changes."
    )


def _cells(row: Row, columns: Mapping[str, str]) -> list[str]:
    figures = [_shown(row.figures.get(figure), spread=n == 0) for n, figure in enumerate(columns.values())]
    return [row.work, row.contestant, *figures, _verdict(row)]


def _verdict(row: Row) -> str:
    if row.failures:
        return "failed"
    return "equal" if row.equal else "different"


def _shown(found: Spread | None, *, spread: bool) -> str:
    if found is None:
        return ""
    if not spread or found.min == found.max:
        return _figure(found.median)
    return f"{_figure(found.median)} ({_figure(found.min)} to {_figure(found.max)})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def put_into(page: Path, text: str) -> None:
    """Replace what is between the two marks of a page. Raises SettingsError where it has none."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SettingsError(f"{page} has no {_BEGIN} … {_END}.", remedy="Put both where the table is to be.")
    page.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", encoding="utf-8")
