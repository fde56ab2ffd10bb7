"""`deltasync recover`: go on behind a lost slot."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from deltasync import settings as settings_module
from deltasync.cli import output
from deltasync.cli.resync import report
from deltasync.resync.recover import recover as recover_pipeline
from deltasync.resync.run import Job


def recover(
    force: Annotated[bool, typer.Option("--force", help="Give up a slot that is sound, too.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in deltasync.ledger_audit.")] = "recover",
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds to wait at most for each thing that is waited for.")
    ] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Go on behind a slot that was dropped or invalidated: changes are lost to the stream, deletes among them.

    Stops the connector, deletes its offsets and what is left of the slot, has it make another one without a snapshot,
    and then reads every captured table again, as `deltasync resync` does. The source may be written to, the replica
    serves, and `deltasync run` should run, since tables may have changed. The connector keeps its settings, but
    `snapshot.mode`. Needs DELTASYNC_SOURCE_ADMIN_DSN, for the slot and the schema log.

    Exit code 0: equal again, as far as the ledger is. 1: refused, as long as the slot is sound. 3: a server does not
    answer, or something was not over in time: run it again with --force, or `deltasync resync` for the tables left.

    Example: `deltasync recover --reason "slot invalidated"`
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    job = Job(reason, timeout, tell=(lambda _doing: None) if as_json else output.doing)
    report(recover_pipeline(settings_module.load(), job, force=force), as_json=as_json)
