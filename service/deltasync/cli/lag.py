"""`deltasync lag`: how far everything is behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from deltasync import settings as settings_module
from deltasync.cli import output
from deltasync.errors import UnreachableError
from deltasync.monitor.lag import Lag, PartitionLag, judge
from deltasync.monitor.survey import Surveyor

# Rates are measured between two looks.
_EVERY_S = 1.0
_COLORS = {"behind": "yellow", "held": "red", "gap": "red", "recreated": "red", "not captured": "dim"}


def lag(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every second, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch, one line each second.")] = False,
) -> None:
    """Show how far the replica is behind: records and seconds per table and partition, the rate, the slot's WAL.

    The lag counts a canary that stands still, too.

    Exit code 0: it is shown, however large it is. 3: Kafka or the replica cannot be asked.

    Example: `deltasync lag --json`
    """
    settings = settings_module.load()
    try:
        with Surveyor(settings) as surveyor:
            looks = _looks(surveyor, settings.topic_prefix)
            if not watch:
                found, note = next(looks)
                output.json(found) if as_json else output.console.print(_shown(found, note))
            elif as_json:
                for found, _ in looks:
                    typer.echo(msgspec.json.encode(found))
            else:
                with Live(console=output.console, auto_refresh=False) as live:
                    for found, note in looks:
                        live.update(_shown(found, note), refresh=True)
    except UnreachableError as error:
        if not as_json:
            raise
        output.json({"error": error.what, "remedy": error.remedy})
        raise typer.Exit(error.exit_code) from None


def _looks(surveyor: Surveyor, prefix: str) -> Iterator[tuple[Lag, str]]:
    """The lag again and again, a second apart, and why there is no slot in it."""
    before = surveyor.survey()
    while True:
        time.sleep(_EVERY_S)
        survey = surveyor.survey()
        yield judge(survey, prefix, before), survey.slot_note
        before = survey


def _shown(found: Lag, note: str) -> Group:
    table = output.table("table", *output.right("records", "seconds", "records/s"), "state")
    for one in found.tables:
        table.add_row(*_row(one.table, one.records, one.seconds, one.rate, one.state))
        if one.skipped:
            table.add_row(Text(f"  left alone: {', '.join(one.skipped)}", style="yellow"))
    for control in found.partitions:
        if control.control:
            row = _row(f"({control.table})", control.records, control.seconds, control.rate, control.state)
            table.add_row(*row, style="dim")
    for part in found.partitions:
        if not part.control and _is_split(found, part):
            name = f"  {part.topic}[{part.partition}] at {part.next_offset} of {part.end_offset}"
            table.add_row(*_row(name, part.records, part.seconds, part.rate, part.state), style="dim")
    return Group(table, Text(""), _total(found), _slot(found, note))


def _is_split(found: Lag, part: PartitionLag) -> bool:
    return any(one.topic == part.topic and one.partition != part.partition for one in found.partitions)


def _row(name: str, records: int, seconds: float | None, rate: float | None, state: str) -> tuple[str | Text, ...]:
    return (
        Text(name),
        f"{records:,}",
        "?" if seconds is None else f"{seconds:,.1f}",
        "" if rate is None else f"{rate:,.0f}",
        Text(state, style=_COLORS.get(state, "green")),
    )


def _total(found: Lag) -> Text:
    total = found.total
    words = [f"{total.records:,} records, {total.seconds:.1f} s behind"]
    if total.records:
        words.append("not catching up" if total.catch_up_s is None else f"level in {total.catch_up_s:,.0f} s")
    age = "no canary has come yet" if total.canary_age_s is None else f"canary {total.canary_age_s:.1f} s old"
    words.append(age)
    if total.workers is not None:
        words.append("no worker runs" if total.workers == 0 else f"workers: {total.workers}")
    return Text("total: " + ", ".join(words))


def _slot(found: Lag, note: str) -> Text:
    slot = found.slot
    if slot is None:
        return Text(f"slot: not known, {note}")
    retained = "?" if slot.retained_bytes is None else f"{slot.retained_bytes / 2**20:,.1f}"
    use = "in use" if slot.active else "NOT in use"
    return Text(f"slot {slot.name}: {use}, {slot.wal_status}, the source keeps {retained} MB of WAL for it")
