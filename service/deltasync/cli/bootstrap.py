"""`deltasync bootstrap`: the initial load past Kafka."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from deltasync import settings as settings_module
from deltasync.bootstrap.run import Job, Report
from deltasync.bootstrap.run import bootstrap as load
from deltasync.cli import output


def bootstrap(
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, max=64, help="How much is copied, or built, at once.")
    ] = 4,
    anew: Annotated[
        bool, typer.Option("--anew", help="Give up what an interrupted one has done, and its slot.")
    ] = False,
    keys_only: Annotated[
        bool, typer.Option("--keys-only", help="Make no indexes and constraints but the primary keys.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds to wait at most for open transactions, and for Kafka.")
    ] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fill the replica past Kafka, by COPY from a snapshot of the source, and start the connector at that moment.

    In the place of `deltasync connectors apply`, behind `source setup` and `replica setup`; then start `deltasync run`.
    Makes the slot, copies the rows of all captured tables as they were when it began, several parts at once, builds
    keys and indexes behind the rows, those that only the source has among them, and then starts the connector, which
    reads what came since. The source may be written to all the time; DDL and TRUNCATE of captured tables wait while
    rows are copied. The replica's tables have to be empty, or are made. What topics hold from before is not applied.

    Ended at any moment (Ctrl-C, a crash), run it again: tables that are whole stay, the others begin again. Until then
    the slot keeps the source's WAL.

    Exit code 0: loaded, and the connector streams. 1: refused, or a table has to be read again, which is said. 3: a
    server does not answer, or something was not over in time: run it again.

    Examples: `deltasync bootstrap` · `deltasync bootstrap --jobs 8 --json` · `deltasync bootstrap --anew`
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tell = (lambda _doing: None) if as_json else output.doing
    try:
        report = load(settings_module.load(), Job(jobs, anew, keys_only, timeout, tell))
    except KeyboardInterrupt:
        output.stderr.print("ended; run deltasync bootstrap again to go on: its slot keeps the source's WAL until then")
        raise
    if as_json:
        output.json(report)
    else:
        _say(report)
    if report.resync:
        raise typer.Exit(1)


def _say(report: Report) -> None:
    for one in report.tables:
        output.say(f"{one.table}: {one.rows:,} rows")
    for note in report.notes:
        output.say(f"note: {note}")
    for table in report.resync:
        output.say(f"a worker applied records of {table} that it held already: deltasync resync {table}")
    output.say(
        f"{report.rows:,} rows in {report.seconds:.1f} s; the connector {report.connector} streams what came since"
    )
