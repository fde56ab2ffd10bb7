"""`deltasync replica`: preparing the database that is kept equal."""

from __future__ import annotations

import typer

from deltasync import settings as settings_module
from deltasync.cli import ending, output
from deltasync.cli.options import AsJson, DryRun, Yes
from deltasync.replica.setup import setup as set_up
from deltasync.replica.teardown import teardown as tear_down

app = typer.Typer(no_args_is_help=True, help="Prepare the replica, and end that.")


@app.callback()
def group() -> None:
    """Commands about the replica."""


@app.command()
def setup(as_json: AsJson = False) -> None:
    """Make the service's role, the schema `deltasync` and the tables that are missing; run again, it migrates.

    Uses DELTASYNC_REPLICA_ADMIN_DSN where it is set. The source's tables are read from
    DELTASYNC_SOURCE_DSN where that is set; otherwise `deltasync run` makes them when they are announced.

    Exit code 0: done, even if a table is still held; it is named. 1: refused, and nothing was changed. 3: a server
    does not answer.

    Example: `deltasync replica setup --json`
    """
    report = set_up(settings_module.load())
    if as_json:
        output.json(report._asdict())
        return
    if report.role:
        output.say(f"role {report.role} created")
    for table in report.created:
        output.say(f"table {table} created")
    for table in report.released:
        output.say(f"table {table} fits again and goes on")
    for table in report.incomplete:
        output.say(
            f"rows of {table} were applied before its change was known: deltasync resync {table} puts them right"
        )
    for table, why in report.held.items():
        output.say(f"table {table} is still held: {why}")
    output.say("the replica is ready")


@app.command()
def teardown(
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """End the pipeline on the replica: forget its ledger and what is known of its source. The tables stay.

    Asks before it begins. Refuses while the connector is there, a worker runs, or Kafka holds topics of the pipeline:
    without the ledger their records would be applied once more. Servers that the settings do not name are not asked.
    Moves by hand stay in `deltasync.ledger_audit`. Run again, it does nothing.

    Exit code 0: the replica does not know the pipeline any more. 1: refused, and nothing was changed. 3: a server does
    not answer.

    Examples: `deltasync replica teardown --dry-run` · `deltasync replica teardown --yes`
    """
    settings = settings_module.load()
    report = tear_down(settings, dry_run=True)
    if report.forgotten and not dry_run:
        ending.refuse_connector(settings)
        ending.refuse_kafka(settings)
        told = ", ".join(f"{count} rows of deltasync.{name}" for name, count in report.forgotten.items())
        ending.ask(f"End the pipeline {report.pipeline}: forget {told}?", yes=yes)
        report = tear_down(settings)
    if as_json:
        output.json(report._asdict())
    elif dry_run:
        output.say("\n".join(["BEGIN;", *report.sql, "COMMIT;"]))
    else:
        for name, count in report.forgotten.items():
            output.say(f"{count} rows of deltasync.{name} forgotten")
        output.say(f"the replica does not know the pipeline {report.pipeline}")
        if report.tables:
            output.say("note: its tables stay. Before a pipeline fills them anew, empty them:")
            output.say(f"  TRUNCATE {', '.join(report.tables)};")
