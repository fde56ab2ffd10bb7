"""`python -m bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bench import machine, report
from bench.picture import draw
from bench.rounds import Choice, Run, run
from bench.staging import orderly_end, stage_in, tell
from bench.works.all import QUICK_CONTESTANTS, QUICK_WORKS, WORKS
from deltasync.cli import output
from deltasync.errors import DeltasyncError, SettingsError

_ROOT = Path(__file__).parents[1]
_RESULTS = _ROOT / "bench" / "results"
_QUICK_SCALE = 0.2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command()
def bench(
    works: Annotated[list[str] | None, typer.Argument(metavar="WORK...", help="Works. Default: all of them.")] = None,
    contestant: Annotated[
        list[str] | None, typer.Option("--contestant", "-c", help="Only this one (repeat it). Default: all of a work.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant does a work.")] = 3,
    scale: Annotated[float, typer.Option(min=0.001, help="The size of all works.")] = 1.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small version: deltasync beside two peers, once, in five minutes.")
    ] = False,
    stage: Annotated[
        Path | None,
        typer.Option("--stage", help="A folder for the servers, kept for the next run. Default: one for this run."),
    ] = None,
    results: Annotated[Path, typer.Option(help="Where JSON, table and picture are written.")] = _RESULTS,
    json: Annotated[Path | None, typer.Option("--json", help="Write the JSON to this file instead.")] = None,
    readme: Annotated[bool, typer.Option("--readme", help="Put the table into README.md.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List works and contestants, and end.")] = False,
) -> None:
    """Have deltasync and its peers do the same works in turn, on servers of their own, and compare replicas after each.

    The peers: Debezium's JDBC sink, PostgreSQL's logical replication, and binary COPY for the load.

    Exit code 0: done, and all replicas were equal. 1: one differed, or deltasync failed. 2: usage. 3: a server failed.

    Examples: `python -m bench backlog latency` · `python -m bench backlog -c deltasync -c "sink, tuned" --rounds 1` ·
    `python -m bench --quick --stage DIR`
    """
    if list_:
        _list()
        return
    names = works or ([*QUICK_WORKS] if quick else [*WORKS])
    chosen = contestant or ([*QUICK_CONTESTANTS] if quick else [])
    _refuse_unknown(names, chosen)
    _refuse_folders(results, json)
    chosen_works = [WORKS[name] for name in names]
    choice = Choice(chosen_works, chosen, 1 if quick else rounds, scale * (_QUICK_SCALE if quick else 1))
    with orderly_end(), stage_in(stage) as made:
        found = machine.look(made)
        runs: list[Run] = []
        try:
            runs.extend(run(made, choice, tell))
        finally:
            if runs:  # of a run that was ended, too
                _write(report.make(found, choice.scale, runs), results, json, readme=readme)
    if any((one.is_ours and one.outcome is None) or (one.outcome and not one.outcome.equal) for one in runs):
        raise typer.Exit(1)


def _list() -> None:
    for work in WORKS.values():
        output.say(f"{work.name}: {work.says}")
        for name in work.contestants:
            output.say(f"    {name}")


def _refuse_unknown(works: list[str], contestants: list[str]) -> None:
    for name in works:
        if name not in WORKS:
            raise SettingsError(f"There is no work {name}.", remedy=f"Choose from: {', '.join(WORKS)}.")
    known_names = {name for work in works for name in WORKS[work].contestants}
    for name in contestants:
        if name not in known_names:
            raise SettingsError(
                f"No contestant of these works is called {name!r}.",
                remedy="`python -m bench --list` tells who does what.",
            )


def _refuse_folders(results: Path, json: Path | None) -> None:
    """Now, not after hours."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        for file in filter(None, [results / "bench.md", json]):
            file.open("ab").close()
    except OSError as error:
        raise SettingsError(
            f"The results cannot be written to {error.filename}: {error.strerror}.", remedy="Choose another folder."
        ) from error


def _write(found: report.Report, results: Path, json: Path | None, *, readme: bool) -> None:
    file = json or results / "bench.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2))
    table = report.markdown(found)
    (results / "bench.md").write_text(f"{table}\n", encoding="utf-8")
    draw(found, results / "bench.png")
    if readme:
        report.put_into(_ROOT / "README.md", table)
    output.say(table)
    tell(f"written: {file}, and bench.md and bench.png in {results}")


def main() -> None:
    """Run the command; a known error becomes one sentence, a remedy and its exit code."""
    try:
        app(prog_name="python -m bench")
    except KeyboardInterrupt:
        sys.exit(130)
    except DeltasyncError as error:
        output.failure(error)
        sys.exit(error.exit_code)


main()
