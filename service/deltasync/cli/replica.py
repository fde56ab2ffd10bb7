"""`deltasync replica`: preparing the database that is kept equal."""

from __future__ import annotations

from typing import Annotated

import typer

from deltasync import settings as settings_module
from deltasync.cli import output
from deltasync.replica.setup import setup as set_up

app = typer.Typer(no_args_is_help=True, help="Prepare the replica.")


@app.callback()
def group() -> None:
    """Commands about the replica."""


@app.command()
def setup(json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False) -> None:
    """Make the service's role, the schema `deltasync` and the tables that are missing; run again, it migrates.

    Uses DELTASYNC_REPLICA_ADMIN_DSN where it is set. The source's tables are read from
    DELTASYNC_SOURCE_DSN where that is set; otherwise `deltasync run` makes them when they are announced.

    Example: `deltasync replica setup --json`
    """
    report = set_up(settings_module.load())
    if json:
        output.json(report._asdict())
        return
    if report.role:
        output.say(f"role {report.role} created")
    for table in report.created:
        output.say(f"table {table} created")
    for table in report.released:
        output.say(f"table {table} fits again and goes on")
    for table, why in report.held.items():
        output.say(f"table {table} is still held: {why}")
    output.say("the replica is ready")
