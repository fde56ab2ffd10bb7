"""`deltasync`: the root command. Exit codes: 0 yes, 1 no, 2 usage, 3 could not tell."""

from __future__ import annotations

import sys
from typing import Annotated

import stamina
import typer

from deltasync import __version__
from deltasync.cli import (
    check,
    compare,
    connectors,
    demo,
    lag,
    ledger,
    local,
    logs,
    output,
    replica,
    run,
    sequences,
    settings,
    source,
    wait,
)
from deltasync.errors import DeltasyncError, RefusedError, UnreachableError
from deltasync.failure import Verdict, describe, driver_error, verdict

app = typer.Typer(
    name="deltasync",
    help="Keep a replica PostgreSQL equal to a source, seconds behind, over Debezium and Kafka.",
    epilog="Exit codes: 0 yes, 1 no, 2 a setting, an argument or a file is wrong, 3 could not tell.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(local.app, name="local")
app.add_typer(connectors.app, name="connectors")
app.add_typer(source.app, name="source")
app.add_typer(replica.app, name="replica")
app.add_typer(ledger.app, name="ledger")
app.add_typer(sequences.app, name="sequences")
app.command()(run.run)
app.command()(check.check)
app.command("lag")(lag.show)
app.command()(wait.wait)
app.command()(compare.compare)
app.command()(settings.settings)
app.command()(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deltasync {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""
    if context.invoked_subcommand != "run":
        stamina.instrumentation.set_on_retry_hooks([])  # a retry is no news on a command line


def main() -> None:
    """Run a command; a known error becomes one sentence, a remedy and its exit code."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        known = error if isinstance(error, DeltasyncError) else _refused(error)
        if known is None:
            raise
        (logs.failure if logs.are_json() else output.failure)(known)
        sys.exit(known.exit_code)


def _refused(error: Exception) -> DeltasyncError | None:
    """A database's own error without its words, which may hold values and statements; None for any other error."""
    if driver_error(error) is None:
        return None
    if verdict(error) is Verdict.RETRY:
        return UnreachableError(f"PostgreSQL failed: {describe(error)}.", remedy="See whether it is up; try again.")
    return RefusedError(
        f"PostgreSQL refused a statement: {describe(error)}.",
        remedy="See what the role of the DSN lacks: rights, mostly. Set-ups take a superuser in DELTASYNC_…_ADMIN_DSN.",
    )


if __name__ == "__main__":
    main()
