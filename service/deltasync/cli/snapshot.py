"""`deltasync snapshot`: tables, or a part of them, that Debezium reads again among the changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import psycopg
import typer

from deltasync import settings as settings_module
from deltasync.cli import output
from deltasync.errors import RefusedError
from deltasync.incremental import run, signals
from deltasync.incremental.reading import Reading, State
from deltasync.incremental.run import Outcome
from deltasync.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Have Debezium read tables, or a part of them, again among the changes.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0, help="Seconds to wait at most, at the end, for the replica.")
]

_NO_DELETES = "rows that the source does not have any more stay on the replica: deltasync resync takes them away, too"


@app.callback()
def group() -> None:
    """Commands about incremental snapshots."""


@app.command()
def start(
    tables: Annotated[list[str], typer.Argument(metavar="TABLE...", help="As schema.table.")],
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="A condition for the rows of each table.")
    ] = None,
    timeout: Timeout = 300.0,
    as_json: AsJson = False,
) -> None:
    """Have the connector read tables again, or rows of them, and wait until the replica has all of it.

    For rows that are missing or wrong on the replica, in tables so large that `deltasync resync` would read too much:
    it takes a condition, nothing is locked, and changes flow on meanwhile. It brings no deletes. The condition is SQL
    behind WHERE, which the connector runs as its role. Where Debezium would not be exact, it is refused: a date or a
    moment in the key, dates from before 1582-10-15, large values without REPLICA IDENTITY FULL, a table without a key.
    Ctrl-C ends the waiting, not the snapshot.

    Exit code 0: all of it is read, and applied on the replica. 1: refused, or a table was left out or stopped, or got
    wrong dates. 2: a name is wrong. 3: could not tell: a server does not answer, the replica is late, or a table was
    truncated or altered meanwhile.

    Examples: `deltasync snapshot start shop.orders --where "id > 40000"` · `deltasync snapshot start shop.items --json`
    """
    with run.opened(settings_module.load()) as parts:
        asked = run.ask(parts, tables, where)
        with _left_running():
            outcome = run.follow(parts, asked, timeout, _teller(as_json))
    _end(outcome, as_json=as_json)


@app.command()
def status(
    follow: Annotated[bool, typer.Option("--follow", help="Wait for its end, as `start` does.")] = False,
    timeout: Timeout = 300.0,
    as_json: AsJson = False,
) -> None:
    """Show how far the newest snapshot is, or how it ended.

    Exit code 0: it goes on, or all of it is read; with --follow as `start`. 1: there was none, or a table was left out
    or stopped. 3: a server does not answer.

    Example: `deltasync snapshot status --follow`
    """
    with run.opened(settings_module.load()) as parts:
        reading, asked = run.newest(parts)
        if follow and asked is None:
            raise RefusedError(
                "It was not asked for by deltasync, which cannot tell what it read.", remedy="deltasync snapshot status"
            )
        if follow and asked is not None:
            with _left_running():
                outcome = run.follow(parts, asked, timeout, _teller(as_json))
            _end(outcome, as_json=as_json)
            return
    output.json(_as_value(reading)) if as_json else _say(reading)
    if reading.state is State.ENDED and not reading.is_complete:
        raise typer.Exit(1)


@app.command()
def pause(as_json: AsJson = False) -> None:
    """Have the connector read no further chunk until `resume`. Changes flow on.

    Exit code 0: it is paused. 1: none goes on. 3: a server, or the connector, does not answer.

    Example: `deltasync snapshot pause`
    """
    _order(signals.pause, State.PAUSED, as_json=as_json)


@app.command()
def resume(as_json: AsJson = False) -> None:
    """Have the connector read on.

    Exit code 0: it goes on. 1: there is none. 3: a server, or the connector, does not answer.

    Example: `deltasync snapshot resume`
    """
    _order(signals.resume, State.RUNNING, as_json=as_json)


@app.command()
def stop(as_json: AsJson = False) -> None:
    """End the snapshot: what was read of it is applied, the rest is not read.

    Exit code 0: it is over. 1: none goes on. 3: a server, or the connector, does not answer.

    Example: `deltasync snapshot stop`
    """
    _order(signals.stop, State.ENDED, as_json=as_json)


def _order(send: Callable[[Settings, psycopg.Connection], None], wanted: State, *, as_json: bool) -> None:
    with run.opened(settings_module.load()) as parts:
        reading = run.order(parts, send, wanted)
    output.json(_as_value(reading)) if as_json else _say(reading)


@contextmanager
def _left_running() -> Iterator[None]:
    """On Ctrl-C: what goes on, and how it is followed or ended."""
    try:
        yield
    except KeyboardInterrupt:
        output.stderr.print(
            "the snapshot goes on at the connector; deltasync snapshot status --follow waits for it, "
            "deltasync snapshot stop ends it",
            markup=False,
            soft_wrap=True,
        )
        raise


def _teller(as_json: bool) -> Callable[[str], None]:
    return (lambda _doing: None) if as_json else output.doing


def _end(outcome: Outcome, *, as_json: bool) -> None:
    """Print how a snapshot ended; leaves with 1 or 3 where not all of it is right on the replica."""
    reading = outcome.reading
    if as_json:
        output.json({**_as_value(reading), "shifted": outcome.shifted, "altered": outcome.altered})
    else:
        _say(reading)
        for name in outcome.shifted:
            output.say(
                f"{name}: dates from before 1582-10-15 came meanwhile, and may be wrong: deltasync resync {name}"
            )
        for name in outcome.altered:
            told = "it was truncated, written anew or altered meanwhile, or large values came"
            output.say(f"{name}: {told}: see deltasync compare {name}")
        output.say(_NO_DELETES)
    if outcome.shifted or not reading.is_complete:
        raise typer.Exit(1)
    if outcome.altered:
        raise typer.Exit(3)


def _as_value(reading: Reading) -> dict[str, object]:
    tables = [
        {
            "table": table.table,
            "read": table.is_read,
            "status": table.status,
            "why": table.why,
            "rows": table.rows,
            "rows_total": table.rows_total,
            "chunks": table.chunks,
            "chunks_total": table.chunks_total,
        }
        for table in reading.tables.values()
    ]
    return {"id": reading.id, "state": reading.state, "tables": tables}


def _say(reading: Reading) -> None:
    if reading.state is not State.ENDED:
        output.say(f"{reading.state.value}: {reading}")
        return
    for table in reading.tables.values():
        rows = f", {table.rows:,} rows" if table.rows_total is not None or not table.is_read else ", no row"
        output.say(f"{table.table}: {'read' + rows if table.is_read else 'not read: ' + table.why}")
