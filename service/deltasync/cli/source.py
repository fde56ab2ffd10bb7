"""`deltasync source`: the captured database."""

from __future__ import annotations

from typing import Annotated

import typer

from deltasync import settings
from deltasync.cli import output
from deltasync.source import setup as source_setup

app = typer.Typer(help="Make the source ready to be captured.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """A group, though it has one command."""


@app.command()
def setup(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the SQL and change nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Create role, publication, canary, schema log and event triggers; run again, bring them up to date."""
    report = source_setup.setup(settings.load(), dry_run=dry_run)
    if json:
        output.json(report)
    elif dry_run:
        output.say("\n\n".join(["BEGIN;", *report.sql, "COMMIT;"]))
    else:
        _show(report)


def _show(report: source_setup.Report) -> None:
    table = output.table("table", "captured", "why not")
    for row in report.tables:
        output.row(table, [f"{row.schema}.{row.name}", "yes" if row.captured else "no", row.reason or ""])
    output.console.print(table)
    captured = sum(row.captured for row in report.tables)
    changed = sum(row.changed for row in report.tables)
    output.say(
        f"publication {report.publication}: {captured} of {len(report.tables)} tables captured,"
        f" {changed} announced; read by the role {report.role}"
    )
    for note in report.notes:
        output.say(f"note: {note}")
