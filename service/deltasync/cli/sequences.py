"""`deltasync sequences`: where the replica's sequences draw on."""

from __future__ import annotations

from typing import Annotated

import typer

from deltasync import sequences
from deltasync import settings as settings_module
from deltasync.cli import output

app = typer.Typer(no_args_is_help=True, help="Bring the source's sequences to the replica.")


@app.callback()
def group() -> None:
    """A group, though it has one command."""


@app.command()
def sync(
    exact: Annotated[bool, typer.Option("--exact", help="Also set back what is ahead of the source.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Have the replica's identity and serial columns draw on where those of the source's captured tables do.

    Rows travel with their numbers, sequences do not: before an application writes to the replica, stop it on the
    source, `deltasync wait`, then this. Never sets a sequence back unless --exact. Needs DELTASYNC_SOURCE_DSN with
    a role that may read sequences (DELTASYNC_SOURCE_ADMIN_DSN where it is set).

    Exit code 0: done. 1: a column of the replica has no sequence, or one that is unlike the source's; it was left
    alone. 3: a server does not answer.

    Examples: `deltasync sequences sync --dry-run` · `deltasync wait && deltasync sequences sync --json`
    """
    synced = sequences.sync(settings_module.load(), exact=exact, dry_run=dry_run)
    output.json(synced) if as_json else _print(synced, dry_run=dry_run)
    if any(one.action in {"missing", "unlike"} for one in synced):
        raise typer.Exit(1)


def _print(synced: list[sequences.Synced], *, dry_run: bool) -> None:
    numbers = output.right("source draws", "replica drew")
    table = output.table("table", "column", *numbers, "would be" if dry_run else "is")
    for one in synced:
        before = "" if one.replica is None else str(one.replica)
        output.row(table, [one.table, one.column, str(one.source), before, one.action])
    output.console.print(table)
