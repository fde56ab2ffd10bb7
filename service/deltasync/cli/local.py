"""`deltasync local`: the embedded stack on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from deltasync import settings
from deltasync.cli import output
from deltasync.errors import SettingsError

if TYPE_CHECKING:
    from deltasync.local.stack import Stack

app = typer.Typer(
    name="local",
    help="Run source, replica, Kafka, Connect and the applier on this machine, for trying out and for tests.",
    no_args_is_help=True,
)
State = Annotated[Path, typer.Option("--state", help="The folder of the stack; each folder is a stack of its own.")]
_HERE = Path(".deltasync")


def _stack(folder: Path, *, with_wishes: bool = False) -> Stack:
    try:
        from deltasync.local.stack import WISHES, Stack  # noqa: PLC0415 - an extra, and `run` must not load it
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"The embedded stack needs the package {error.name}, which is not installed.",
            remedy="pip install 'deltasync[local]'",
        ) from error
    return Stack(folder, settings.as_variables(settings.load(), WISHES) if with_wishes else None)


@app.command()
def up(state: State = _HERE) -> None:
    """Start the stack and an applier in the background, or what has died of them, and print every address.

    Of your settings (deltasync.toml here, or the environment) these count: consistency, [tables], [batch], exclude in
    [source]; synchronous_commit, constraints and retry_s_max in [replica]; session_timeout_s in [kafka],
    restart_failed_tasks in [connect], canary_age_s_max in [monitor], log_format and log_level. All else is the
    stack's own: addresses, names, the schema `shop`, the raw-text converter. `up` again puts changed ones into force.

    Exit code 0: all runs. 1: a part did not start, or a table was refused; the stack is as it was. 2: a setting is
    wrong, or a package is missing.

    Example: `deltasync local up --state /tmp/second` is a stack beside that of `deltasync local up`.
    """
    stack = _stack(state, with_wishes=True)
    stack.up(output.doing)
    _show_status(stack)
    output.say("`deltasync local env` prints the settings, passwords included.")


@app.command()
def down(
    state: State = _HERE,
    keep_data: Annotated[
        bool, typer.Option("--keep-data", help="End the processes orderly, for a later `up`.")
    ] = False,
) -> None:
    """End every process of the stack and remove its data; nothing happens where there is none.

    Exit code 0: nothing runs any more. 1: a part does not end, or another command holds the stack.

    Examples: `deltasync local down` · `deltasync local down --keep-data`
    """
    _stack(state).down(remove=not keep_data)


@app.command()
def status(
    state: State = _HERE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how each part is.

    Exit code 0: all run. 1: something is down, or there is no stack. 3: could not tell.

    Example: `deltasync local status --json`
    """
    stack = _stack(state)
    if as_json:
        output.json(stack.status())
    else:
        _show_status(stack)
    if any(part.status != "running" for part in stack.status()):
        raise typer.Exit(1)


@app.command()
def logs(
    part: Annotated[str | None, typer.Argument(help="source, replica, kafka, connect or applier; all if none.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    state: State = _HERE,
) -> None:
    """Print the logs of a part, or the end of the logs of all.

    Exit code 0: printed. 1: there is no stack. 2: there is no such part.

    Example: `deltasync local logs connect -f`
    """
    known = {found.part: found.log for found in _stack(state).status()}
    if part is not None and part not in known:
        raise SettingsError(f"There is no part {part!r}.", remedy=f"The parts are {', '.join(known)}.")
    chosen = [log for name, log in known.items() if part in {None, name} and Path(log).exists()]
    options = ["-F"] if follow else []
    amount = ["-n", "20"] if part is None else ["-n", "+1"]
    subprocess.run(["/usr/bin/env", "tail", *amount, *options, *chosen], check=False)  # noqa: S603 - our own logs


@app.command()
def env(state: State = _HERE) -> None:
    """Print the stack's own settings as `KEY='value'` lines for a shell, passwords included.

    Exit code 0: printed. 1: there is no stack.

    Example: `set -a; eval "$(deltasync local env)"; set +a` and then any command, `deltasync lag`, say
    """
    for name, value in _stack(state).env().items():
        typer.echo(f"{name}={_quoted(value)}")


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\"'\"'") + "'"


def _show_status(stack: Stack) -> None:
    table = output.table("part", "status", "address", "pid")
    for part in stack.status():
        color = {"running": "green", "starting": "yellow", "down": "red"}[part.status]
        output.row(table, [part.part, Text(part.status, style=color), part.address, str(part.pid or "")])
    output.console.print(table)
