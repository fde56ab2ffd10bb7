"""`deltasync resync`: tables of the replica made equal to the source's, while both are in use."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import Annotated

import typer

from deltasync import settings as settings_module
from deltasync.cli import output
from deltasync.resync.run import Job, Resynced
from deltasync.resync.run import resync as resync_tables


def resync(
    tables: Annotated[list[str], typer.Argument(metavar="TABLE...", help="As schema.table; one after the other.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in deltasync.ledger_audit.")] = "resync",
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds to wait at most for open transactions, and for Kafka.")
    ] = 300.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be written, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read tables again from the source, and write to the replica what is missing, surplus or different there.

    For rows that are wrong: records were lost before they were applied, somebody wrote to the replica, a partition
    stopped, or a table is owed the rows that it held before it was captured. Source, replica and worker go on. The
    rows are read beside the table; it keeps its indexes, grants, foreign keys, and rows that are equal. Waits for
    the transactions that run on the source. At the end the table and its partitions are locked against writing while
    what differs is written (while both sides are compared, too, where the table has no key). A partition that had
    stopped goes on by itself.

    Exit code 0: equal now, as far as the ledger is. 1: refused; that table was not changed. 2: a name is wrong. 3: a
    server does not answer, or something was not over in time; that table was not changed either.

    Examples: `deltasync resync shop.orders` · `deltasync resync shop.orders shop.customer --reason "gap" --json`
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is read beside the table goes, as on Ctrl-C
    job = Job(reason, timeout, dry_run, (lambda _doing: None) if as_json else output.doing)
    report(resync_tables(settings_module.load(), tables, job), as_json=as_json, dry_run=dry_run)


def report(done: Iterable[Resynced], *, as_json: bool, dry_run: bool = False) -> None:
    """Print what is done to each table; as JSON at the end, also where a later one is refused."""
    found = []
    try:
        for one in done:
            found.append(one)
            if not as_json:
                _say(one, dry_run=dry_run)
    finally:
        if as_json:
            output.json({"tables": found})


def _say(one: Resynced, *, dry_run: bool) -> None:
    counts = f"{one.missing:,} missing, {one.surplus:,} surplus, {one.different:,} different"
    done = "would be" if dry_run else "were"
    output.say(f"{one.table}: {one.source_rows:,} rows on the source; {counts} {done} put right in {one.seconds:.1f} s")
