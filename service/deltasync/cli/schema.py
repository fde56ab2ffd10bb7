"""`deltasync schema`: changes of the source's tables that wait to be made on the replica."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from deltasync import settings as settings_module
from deltasync.cli import output
from deltasync.replica import approval

app = typer.Typer(no_args_is_help=True, help="Show and approve changes of tables that wait.")

# A worker that waits for the word looks for it four times a second.
_WAIT_S = 5.0


@app.callback()
def group() -> None:
    """Commands about changes of tables."""


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show each change of a table that the replica's has not seen: its DDL, its lock, and what it waits for.

    Rows from before such a change go on being applied. `rewrite`: the table is written anew under its lock, which keeps
    readers out for as long as that takes.

    Exit code 0: they are shown. 1: the replica is not set up. 3: the replica does not answer.

    Example: `deltasync schema list --json`
    """
    found = approval.waiting(settings_module.load())
    if as_json:
        output.json([one._asdict() | {"age_s": _age_s(one)} for one in found])
        return
    for one in found:
        age = f", {_age_s(one):.0f} s ago" if one.at_us else ""
        output.say(f"{one.table}: {one.what}{age}; {one.state}")
        for statement in one.sql:
            output.say(f"  {statement};")
        if one.lock:
            output.say(f"  lock: {one.lock}; rewrite: {'yes' if one.rewrites else 'no'}")
        if one.reason and one.reason != one.what:
            output.say(f"  why: {one.reason}")
    if not found:
        output.say("nothing waits")


@app.command()
def approve(
    tables: Annotated[list[str], typer.Argument(help="Tables as schema.table.", metavar="TABLE...")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in deltasync.schema_audit.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Have all that waits of these tables done on the replica, by the DDL that `list` shows.

    The worker does it in front of the first row from behind the change: rows from before are applied first, however
    many wait. Where nothing was written since the change, it is done within seconds, once none can be on its way.

    Exit code 0: approved, and done if there was a row for it. 1: refused, and nothing was approved. 3: the replica does
    not answer, or a table is locked.

    Example: `deltasync schema approve shop.orders --reason "release 41 renames its column"`
    """
    settings = settings_module.load()
    statements = approval.approve(settings, tables, reason)
    until = time.monotonic() + _WAIT_S
    while not (done := approval.is_carried_out(settings, statements)) and time.monotonic() < until:
        time.sleep(0.25)
    if as_json:
        output.json({"done": done, "sql": statements})
        return
    for table, found in statements.items():
        output.say(f"{table} is approved")
        for statement in found:
            output.say(f"  {statement};")
    output.say("done" if done else "it will be done once all rows from before it were applied, while `run` runs")


def _age_s(one: approval.Waiting) -> float | None:
    return round(time.time() - one.at_us / 1e6, 1) if one.at_us else None
