"""`deltasync ledger`: how far each partition is applied, and moving one by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from deltasync import settings as settings_module
from deltasync.change import Partition
from deltasync.cli import output
from deltasync.monitor import ledger
from deltasync.progress import Claim
from deltasync.replica.ledger import from_us

app = typer.Typer(no_args_is_help=True, help="Show or move how far each partition is applied.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def group() -> None:
    """Commands about the ledger."""


@app.command()
def show(as_json: AsJson = False) -> None:
    """Show the ledger: the next offset of each partition, its watermark, and its newest source commit.

    Exit code 0: it is shown. 3: the replica does not answer.

    Example: `deltasync ledger show --json`
    """
    claims = ledger.show(settings_module.load())
    if as_json:
        output.json([_as_value(partition, claim) for partition, claim in sorted(claims.items())])
        return
    numbers = output.right("partition", "next offset", "skipped")
    table = output.table("topic", *numbers, "watermark", "newest source commit")
    for partition, (_, progress) in sorted(claims.items()):
        watermark = "" if progress.watermark is None else f"{progress.watermark[0]}, {progress.watermark[1]}"
        committed = "" if progress.committed_us is None else f"{from_us(progress.committed_us):%Y-%m-%d %H:%M:%S}"
        counts = (str(partition.number), str(progress.next_offset), str(progress.skipped))
        output.row(table, [partition.topic, *counts, watermark, committed])
    output.console.print(table)


@app.command("set")
def set_(
    topic: Annotated[str, typer.Argument(help="The topic, with or without the pipeline's prefix.")],
    partition: Annotated[int, typer.Argument(min=0, help="The number of the partition.")],
    offset: Annotated[int, typer.Argument(min=0, help="The offset that is read next.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in deltasync.ledger_audit.")],
    as_json: AsJson = False,
) -> None:
    """Move one partition by hand: its records are read on from OFFSET.

    Forwards it skips records for good, backwards it applies them again; unless it moves forwards, its watermark
    starts anew (of a table without a key only backwards: its record at OFFSET is taken for new). A running worker goes
    on from there within seconds, also where it had stopped.

    Exit code 0: moved. 1: refused, and nothing was moved. 3: Kafka or the replica does not answer.

    Example: `deltasync ledger set shop.orders 0 4711 --reason "record 4710 was repaired by hand"`
    """
    moved = ledger.move(settings_module.load(), Partition(topic, partition), offset, reason)
    if as_json:
        output.json(moved._asdict())
        return
    before = "nowhere" if moved.old_next_offset is None else str(moved.old_next_offset)
    output.say(f"{moved.topic}[{moved.partition}] is at {moved.next_offset}; it was at {before}")


@app.command("accept-source")
def accept_source(
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in deltasync.ledger_audit.")],
    as_json: AsJson = False,
) -> None:
    """Go on with the source as it is: another one, one that failed over, or one of which beats never came.

    You say that it holds what the replica is to have, and that no row is missing (any more). Behind another source's
    canary the partitions go on where they stopped, their watermarks start anew, and a running worker hears of it
    within seconds.

    Exit code 0: accepted. 1: refused, or there is nothing to accept. 3: the replica does not answer.

    Example: `deltasync ledger accept-source --reason "pg_upgrade to 18; nothing was written meanwhile"`
    """
    accepted = ledger.accept_source(settings_module.load(), reason)
    if as_json:
        output.json(accepted._asdict())
        return
    for what in (accepted.refused, accepted.doubt, *accepted.missing):
        if what is not None:
            output.say(f"accepted: {what}")


def _as_value(partition: Partition, claim: Claim) -> dict[str, object]:
    progress = claim.progress
    return {
        "topic": partition.topic,
        "partition": partition.number,
        "topic_id": claim.topic_id,
        "next_offset": progress.next_offset,
        "watermark": progress.watermark,
        "source_committed_at": None if progress.committed_us is None else from_us(progress.committed_us),
        "skipped": progress.skipped,
    }
