"""`deltasync`: the root command. Exit codes: 0 yes, 1 no, 2 usage, 3 could not tell."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Literal, cast

import stamina
import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from deltasync import __version__
from deltasync.cli import logs, output
from deltasync.errors import DeltasyncError, RefusedError, UnreachableError
from deltasync.failure import Verdict, describe, driver_error, verdict

_MARKUP: Literal["markdown"] = "markdown"
# Each is a module beside this one, which has an `app` of several commands, or a function of its name.
_COMMANDS = (
    "local",
    "connectors",
    "source",
    "replica",
    "ledger",
    "dead-letters",
    "schema",
    "sequences",
    "run",
    "check",
    "lag",
    "wait",
    "compare",
    "resync",
    "snapshot",
    "recover",
    "bootstrap",
    "settings",
    "demo",
)


class _Commands(TyperGroup):
    """The commands, each loaded when it is asked for: what one needs takes up to a second to load."""

    def list_commands(self, _context: object) -> list[str]:
        return [*_COMMANDS]

    def get_command(self, _context: object, cmd_name: str) -> TyperCommand | TyperGroup | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"deltasync.cli.{cmd_name.replace('-', '_')}")
        commands = getattr(module, "app", None)
        if commands is None:
            commands = typer.Typer(add_completion=False, rich_markup_mode=_MARKUP)
            commands.command(cmd_name)(getattr(module, cmd_name))
        command = cast("TyperCommand | TyperGroup", typer.main.get_command(commands))
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_Commands,
    name="deltasync",
    help="Keep a replica PostgreSQL equal to a source, seconds behind, over Debezium and Kafka.",
    epilog="Exit codes: 0 yes, 1 no, 2 a setting, an argument or a file is wrong, 3 could not tell.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=_MARKUP,
)


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
    logs.off_standard_output()
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
