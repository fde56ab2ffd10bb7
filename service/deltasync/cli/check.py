"""`deltasync check`: what would keep the replica from staying equal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from deltasync import settings as settings_module
from deltasync.check.examine import Asked, Report, examine
from deltasync.cli import output
from deltasync.finding import Finding, Gravity

_COLORS = {Gravity.REFUSED: "bold red", Gravity.WARNING: "yellow", Gravity.NOTE: "cyan"}


def check(
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="The connector's JSON file or folder; repeatable. Default: the shipped one."),
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Also scan the tables for values that cannot be carried: 60 s each at most.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Look at source, connector, Kafka and replica, and tell what would lose, alter or stop changes, and the remedy.

    Before the first set-up and at any time later; it changes nothing. A finding is `refused` (would lose or alter
    values, or stop), a `warning` (a table is left out, or it may come to that) or a `note`. Servers that the
    settings do not name are not asked. With DELTASYNC_SOURCE_ADMIN_DSN and DELTASYNC_REPLICA_ADMIN_DSN it also
    works before there are roles.

    Exit code 0: nothing is refused. 1: something is. 3: nothing is, but a server could not be asked.

    Examples: `deltasync check` · `deltasync check --data` · `deltasync check --json | jq '.findings[].what'`
    """
    report = examine(settings_module.load(), file or [], with_data=data)
    if as_json:
        output.json(report)
    else:
        _print(report)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _print(report: Report) -> None:
    for finding in report.findings:
        _finding(finding)
    for one in report.servers:
        if one.state == "not answering":
            output.say(Text.assemble((f"{'not asked':9}", "bold red"), f" {one.server}: {one.why}"))
            output.say(Text(f"{'':9} do: {one.remedy}"))
    counts = Counter(finding.gravity for finding in report.findings)
    told = ", ".join(f"{counts[gravity]} {gravity}" for gravity in Gravity) if counts else "nothing found"
    output.say(Text(f"{told}; {_asked(report.servers)}"))


def _finding(finding: Finding) -> None:
    output.say(Text.assemble((f"{finding.gravity:9}", _COLORS[finding.gravity]), f" {finding.what}"))
    output.say(Text(f"{'':9} why: {finding.why}"))
    output.say(Text(f"{'':9} do: {finding.remedy}"))


def _asked(servers: tuple[Asked, ...]) -> str:
    states: dict[str, list[str]] = {}
    for one in servers:
        states.setdefault(one.state, []).append(one.server)
    return "; ".join(f"{state}: {', '.join(names)}" for state, names in states.items())
