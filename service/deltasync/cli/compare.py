"""`deltasync compare`: proof that both sides are equal, or what differs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from deltasync import settings as settings_module
from deltasync.cli import output
from deltasync.verify.compare import TableComparison
from deltasync.verify.rounds import compare_settled


def compare(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE]...", help="As schema.table; all that are captured if none.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for the replica at most.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare source and replica row by row, every column as text, and count what differs.

    Waits, as `deltasync wait`, until the replica holds what the source had committed when it was looked at. Nobody
    has to stop writing: tables that differ are compared up to three times, and equal is what was equal once. A table
    that is written to without a pause may differ each time for that alone: compare it in a quiet moment. Both sides
    read and sort each table whole. Columns that are left alone are passed over, tables that only the replica has too.

    Exit code 0: all are equal. 1: something differs. 2: a name is wrong. 3: the replica is behind, or a server does
    not answer.

    Examples: `deltasync compare` · `deltasync compare shop.orders shop.customer --json`
    """
    tell = (lambda _doing: None) if as_json else output.doing
    found = compare_settled(settings_module.load(), tables or [], timeout, tell)
    equal = all(one.is_equal for one in found)
    if as_json:
        output.json({"equal": equal, "tables": found})
    else:
        _print(found)
    if not equal:
        raise typer.Exit(1)


def _print(found: list[TableComparison]) -> None:
    table = output.table("table", *output.right("source", "replica", "equal"), "")
    for one in found:
        counts = (f"{count:,}" for count in (one.source_rows, one.replica_rows, one.equal))
        verdict = Text("equal", style="green") if one.is_equal else Text("different", style="red")
        output.row(table, [one.table, *counts, verdict])
    output.console.print(table)
    for one in found:
        if not one.is_equal or one.skipped:
            output.say(str(one))
