"""`deltasync source`: the captured database."""

from __future__ import annotations

import typer

from deltasync import settings
from deltasync.cli import ending, output
from deltasync.cli.options import AsJson, DryRun, Yes
from deltasync.source import setup as source_setup
from deltasync.source.teardown import teardown as tear_down

app = typer.Typer(help="Make the source ready to be captured, and end that.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Commands about the source."""


@app.command()
def setup(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Create role, publication, canary, schema log and event triggers; run again, bring them up to date.

    Uses DELTASYNC_SOURCE_ADMIN_DSN where it is set. Without a superuser there are no event triggers: run it again
    after each CREATE TABLE and ALTER TABLE then.

    Exit code 0: done. 1: refused, and nothing was changed. 3: the source does not answer.

    Examples: `deltasync source setup --dry-run` · `deltasync source setup --json`
    """
    report = source_setup.setup(settings.load(), dry_run=dry_run)
    if as_json:
        output.json(report)
    elif dry_run:
        _show_sql(report.sql)
    else:
        _show(report)


@app.command()
def teardown(
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """End the pipeline on the source: drop its slot and publication, and what `source setup` made in the database.

    Event triggers and schema `deltasync` stay as long as another pipeline uses them; the service's role stays. Asks
    before it begins. Refuses while the connector is there, the slot is in use, or the replica knows the pipeline:
    `deltasync connectors delete` and `deltasync replica teardown` come first. Servers that the settings do not name are
    not asked. Run again, it does nothing.

    Exit code 0: nothing of the pipeline is there any more. 1: refused, and nothing was changed. 3: a server does not
    answer.

    Examples: `deltasync source teardown --dry-run` · `deltasync source teardown --yes`
    """
    found = settings.load()
    report = tear_down(found, dry_run=True)
    if report.done and not dry_run:
        ending.refuse_connector(found)
        ending.refuse_replica(found)
        ending.ask(f"End the pipeline {report.pipeline}: drop {', '.join(report.done)}?", yes=yes)
        report = tear_down(found)
    if as_json:
        output.json(report)
    elif dry_run:
        _show_sql(report.sql)
    else:
        for what in report.done:
            output.say(f"{what} dropped")
        for note in report.notes:
            output.say(f"note: {note}")
        output.say(f"nothing of the pipeline {report.pipeline} is on the source")


def _show_sql(steps: list[str]) -> None:
    output.say("\n\n".join(["BEGIN;", *steps, "COMMIT;"]))


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
