"""`deltasync dead-letters`: the records that could not be applied, and what waits behind them."""

from __future__ import annotations

from typing import Annotated

import typer

from deltasync import replay as letters
from deltasync import settings as settings_module
from deltasync.cli import output
from deltasync.cli.options import AsJson
from deltasync.replica.ledger import from_us

app = typer.Typer(no_args_is_help=True, help="Show, replay and discard the records that could not be applied.")

Letter = Annotated[int, typer.Argument(metavar="ID", help="A dead letter, as `list` names it.")]


@app.callback()
def group() -> None:
    """Commands about dead letters."""


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List what is set aside, a row of a table each: the record that failed, and how many wait behind it.

    A record that the replica refuses is set aside, and so is what follows of its key; all other keys go on. No values
    are shown here.

    Exit code 0: nothing is set aside. 1: something is. 3: the replica does not answer.

    Example: `deltasync dead-letters list --json`
    """
    found = letters.listed(settings_module.load())
    output.json([_as_value(queue) for queue in found]) if as_json else _print(found)
    if found:
        raise typer.Exit(1)


@app.command()
def show(letter: Letter, as_json: AsJson = False) -> None:
    """Show a row's letters, and what a replay would do: it is tried on the replica, and rolled back.

    Shows values: the row as it is, and as it would be, column by column where they differ; and the statements, each
    with its parameters, which are a column's values. One that finds no room for a unique value is followed by others.

    Exit code 0: a replay would do. 1: it would be refused, or there is no such letter. 3: the replica does not answer.

    Example: `deltasync dead-letters show 7`
    """
    found = letters.show(settings_module.load(), letter)
    if as_json:
        would = {"before": found.before, "after": found.after, "statements": [s._asdict() for s in found.statements]}
        output.json({**_as_value(found.queue), **would, "refused": found.refused, "remedy": found.remedy})
    else:
        _print_preview(found)
    if found.refused:
        raise typer.Exit(1)


@app.command()
def replay(
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID…", help="Dead letters, as `list` names them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is set aside.")] = False,
    from_source: Annotated[
        bool, typer.Option("--from-source", help="Write the rows as the source has them now, not as recorded.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Apply what is set aside of these rows, in order, and let their keys flow again.

    Mend first what refused the record: the replica's constraint, say. Each row is replayed in a transaction of its own;
    one that is refused again stays as it was. With --from-source the rows are read by DELTASYNC_SOURCE_DSN instead: for
    a moment a row may be ahead of others, and records on their way may take it back until they have all come.

    Exit code 0: all was applied. 1: something was refused. 2: name letters, or --all. 3: a server does not answer.

    Examples: `deltasync dead-letters replay 7 12` · `deltasync dead-letters replay --all --from-source`
    """
    if bool(ids) == everything:
        raise typer.BadParameter("Name dead letters, or --all.")
    done = []
    for one in letters.replay(settings_module.load(), ids or (), from_source=from_source):
        done.append(one)
        if not as_json:
            told = f"refused: {one.refused}" if one.refused else f"{one.records} records applied"
            output.say(f"{one.queue.id} {one.queue.table}: {told}")
            if one.remedy:
                output.say(one.remedy)
    if as_json:
        output.json([{"id": o.queue.id, "table": str(o.queue.table), **_outcome(o)} for o in done])
    if any(one.refused for one in done):
        raise typer.Exit(1)


@app.command()
def discard(
    letter: Letter,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in deltasync.dead_letter_audit.")],
    as_json: AsJson = False,
) -> None:
    """Give one record up for good: the replica's row will lack what it did.

    The record is kept in deltasync.dead_letter_audit. What waits behind it stays until it is replayed or discarded too.

    Exit code 0: discarded. 1: refused, and nothing was changed. 3: the replica does not answer.

    Example: `deltasync dead-letters discard 7 --reason "the order was entered by hand"`
    """
    left = letters.discard(settings_module.load(), letter, reason)
    if as_json:
        output.json({"id": letter, "left": left})
        return
    output.say(f"{letter} is discarded")
    if left:
        output.say(f"{left} records of its row are still set aside: deltasync dead-letters list")


def _outcome(one: letters.Replayed) -> dict[str, object]:
    return {"records": one.records, "refused": one.refused, "remedy": one.remedy}


def _as_value(queue: letters.Queue) -> dict[str, object]:
    return {
        "id": queue.id,
        "table": str(queue.table),
        "topic": queue.partition.topic,
        "partition": queue.partition.number,
        "records": [
            {
                "id": stored.id,
                "offset": stored.letter.record.offset,
                "error": stored.letter.error,
                "source_committed_at": from_us(stored.letter.committed_us),
                "parked_at": from_us(stored.parked_at_us),
            }
            for stored in queue.letters
        ],
    }


def _print(found: list[letters.Queue]) -> None:
    if not found:
        output.say("nothing is set aside")
        return
    table = output.table(*output.right("id"), "table", "topic", *output.right("offset", "records"), "since", "reason")
    for queue in found:
        first = queue.letters[0]
        where = f"{queue.partition}"
        counts = (str(first.letter.record.offset), str(len(queue.letters)))
        since = f"{from_us(first.parked_at_us):%Y-%m-%d %H:%M:%S}"
        reason = next((stored.letter.error for stored in queue.letters if stored.letter.error), "")
        output.row(table, [str(queue.id), str(queue.table), where, *counts, since, reason or ""])
    output.console.print(table)


def _print_preview(found: letters.Preview) -> None:
    for stored in found.queue.letters:
        why = stored.letter.error or "waits behind those before it"
        output.say(f"{stored.id} offset {stored.letter.record.offset}: {why}")
    for number, statement in enumerate(found.statements, start=1):
        output.say(f"statement {number}: {statement.sql}")
        for place, texts in enumerate(statement.parameters, start=1):
            output.say(f"  ${place} = {', '.join('NULL' if text is None else text for text in texts)}")
    if found.refused:
        output.say(f"a replay would be refused: {found.refused}")
        output.say(found.remedy or "")
        return
    before, after = found.before or {}, found.after or {}
    told = {True: "the row would be deleted", False: "a replay would change:"}
    output.say(told[found.after is None and found.before is not None])
    table = output.table("column", "is", "would be")
    for name in after or before:
        if before.get(name) != after.get(name) or not before or not after:
            output.row(table, [name, _cell(before, name), _cell(after, name)])
    output.console.print(table)


def _cell(row: dict[str, str | None], name: str) -> str:
    if name not in row:
        return ""
    value = row[name]
    return "NULL" if value is None else value
