"""`deltasync wait`: until what was committed on the source is visible on the replica."""

from __future__ import annotations

from typing import Annotated

import typer

from deltasync import settings as settings_module
from deltasync.cli import output
from deltasync.monitor.wait import Waited, wait_until_applied


def wait(
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait at most.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Return when everything that was committed on the source before the call is visible on the replica.

    Without DELTASYNC_SOURCE_DSN it waits as far as Kafka holds: what the connector has not read yet is not waited
    for. Tables that are not captured never are.

    Exit code 0: all is visible. 1: not in time; then it says which partitions are behind. 1, too, where all else is
    visible and records are set aside as dead letters. 3: a server does not answer.

    Example: `deltasync wait --timeout 30 && run-the-report`
    """
    tell = (lambda _doing: None) if as_json else output.doing
    waited = wait_until_applied(settings_module.load(), timeout, tell)
    if as_json:
        output.json(waited)
    else:
        _print(waited)
    if not waited.complete:
        raise typer.Exit(1)


def _print(waited: Waited) -> None:
    scope = (
        "everything committed on the source" if waited.as_far_as == "source" else "as far as Kafka holds, everything"
    )
    if waited.complete:
        output.say(f"{scope} is visible on the replica, after {waited.seconds:.1f} s")
        return
    output.say(f"not within {waited.seconds:.1f} s: {waited.why}" if waited.behind else waited.why)
    for one in waited.behind:
        where = f"{one.topic}[{one.partition}]: {one.records} records behind, at {one.next_offset} of {one.end_offset}"
        output.say(f"  {where}")
