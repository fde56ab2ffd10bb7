"""`deltasync connectors`: Kafka Connect's connectors, as files say they should be and as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from deltasync import settings
from deltasync.cli import output
from deltasync.connect import apply as reconciling
from deltasync.connect import template
from deltasync.connect.apply import Patience
from deltasync.connect.client import ConnectClient
from deltasync.connect.masking import shown
from deltasync.connect.reconcile import Plan, Step
from deltasync.connect.status import Condition, Status
from deltasync.errors import SettingsError, UnreachableError
from deltasync.postgres.connect import connect
from deltasync.settings import Settings
from deltasync.source.generated import generated
from deltasync.source.position import slot_state
from deltasync.source.snapshot import template_variables

app = typer.Typer(help="Configure and watch Debezium's connectors in Kafka Connect.", no_args_is_help=True)

Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--file", "-f", help="A connector's JSON file, or a folder of them; repeatable. Default: the shipped one."
    ),
]
Name = Annotated[str | None, typer.Argument(help="The connector; without it, PIPELINE-source.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait at most.")]

# Paused and stopped are somebody's decision, not trouble.
_WELL = {Condition.RUNNING, Condition.PAUSED, Condition.STOPPED}
_IDLE_REMEDY = (
    "The connector cannot start its task. Mostly its slot is invalidated: on the source, "
    "SELECT slot_name, wal_status, invalidation_reason FROM pg_replication_slots; says so, and the worker's log."
)


class FailedPart(msgspec.Struct):
    """One thing that has failed, as `--json` prints it. `part` is "connector" or "task N"."""

    part: str
    worker: str
    error: str
    cause: str
    passing: bool
    remedy: str


class Report(msgspec.Struct):
    """How a connector does, as `--json` prints it."""

    name: str
    condition: str
    tasks: dict[int, str]
    failures: list[FailedPart]


@app.callback()
def root() -> None:
    """Kafka Connect's connectors."""


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List every connector of this Connect, and how it does.

    Exit code 0: they are listed, however they do. 3: Connect does not answer.

    Example: `deltasync connectors list --json`
    """
    with _open() as (_, client):
        reports = [_report(status) for status in client.statuses()]
    if as_json:
        output.json(reports)
    else:
        _print_reports(reports)


@app.command()
def show(name: Name = None) -> None:
    """Print a connector's settings as Connect holds them, secrets masked, as a file that `apply --file` takes.

    Exit code 0: printed. 1: there is no such connector. 3: Connect does not answer.

    Example: `deltasync connectors show > mine.json`
    """
    with _open() as (found, client):
        name = name or found.connector
        actual = client.config(name)
    config = {key: shown(key, value) for key, value in sorted(actual.items()) if key != "name"}
    output.json({"name": name, "config": config})


@app.command()
def plan(file: Files = None, as_json: AsJson = False) -> None:
    """Show what `apply` would change, or refuse.

    Exit code 0: nothing. 1: something. 2: a file is wrong. 3: Connect or the source does not answer.

    Example: `deltasync connectors plan --file connectors/`
    """
    with _open() as (found, client):
        plans = reconciling.check(client, template.load(file or [], template_variables(found), generated(found)))
    _print_plans(plans, as_json=as_json)
    if any(todo.step is not Step.NOTHING for todo in plans):
        raise typer.Exit(1)


@app.command()
def apply(file: Files = None, timeout: Timeout = 60.0, as_json: AsJson = False) -> None:
    """Create or change connectors so that they are as their files say, and wait until they run.

    All are validated by Connect before the first is changed; running it again changes nothing.

    Exit code 0: they run. 1: a connector was refused, has failed or does not run in time. 2: a file is wrong. 3:
    Connect or the source does not answer.

    Example: `deltasync connectors apply --file mine.json --timeout 120`
    """
    with _open() as (found, client):
        wanted = template.load(file or [], template_variables(found), generated(found))
        before = {connector.name: reconciling.find_status(client, connector.name) for connector in wanted}
        plans = reconciling.apply(client, wanted)
        if not as_json:
            _print_plans(plans)
        reports = [_report(_outcome(client, todo, timeout, before[todo.name])) for todo in plans]
    _finish(reports, as_json=as_json)


@app.command()
def status(name: Name = None, as_json: AsJson = False) -> None:
    """Show how a connector and its tasks do, why what failed has failed, and what to do.

    Connect's RUNNING is no proof that changes arrive: `deltasync lag` and `/readyz` watch the canary for that.

    Exit code 0: it runs, or rests on purpose. 1: it or a task has failed, it runs without a task, or there is none. 3:
    Connect does not answer.

    Example: `deltasync connectors status --json`
    """
    with _open() as (found, client):
        report = _report(client.status(name or found.connector))
    _finish([report], as_json=as_json)


@app.command()
def pause(name: Name = None) -> None:
    """Stop reading for a while; the source keeps its WAL meanwhile.

    Exit code 0: Connect will do it. 1: there is no such connector. 3: Connect does not answer.

    Example: `deltasync connectors pause`
    """
    _switch(name, ConnectClient.pause, "is being paused; the slot holds the source's WAL until `resume`")


@app.command()
def resume(name: Name = None) -> None:
    """Go on where `pause` or a stop left off.

    Exit code 0: Connect will do it. 1: there is no such connector. 3: Connect does not answer.

    Example: `deltasync connectors resume`
    """
    _switch(name, ConnectClient.resume, "goes on")


@app.command()
def restart(name: Name = None, timeout: Timeout = 60.0, as_json: AsJson = False) -> None:
    """Restart what has failed, the connector and its tasks, leave the rest alone, and wait until all runs.

    Exit code 0: it runs. 1: it has failed again, or there is none. 3: Connect does not answer.

    Example: `deltasync connectors restart && deltasync connectors status`
    """
    with _open() as (found, client):
        name = name or found.connector
        before = client.status(name)
        client.restart(name)
        report = _report(reconciling.wait_running(client, name, Patience(timeout), before=before))
    _finish([report], as_json=as_json)


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="The connector.")],
    reset_offsets: Annotated[
        bool,
        typer.Option("--reset-offsets", help="Also forget how far it has read: it starts anew when it is applied."),
    ] = False,
) -> None:
    """Delete a connector. A slot that it has on the source stays, and with it the WAL: it says so where there is one.

    Exit code 0: deleted. 1: there is no such connector, or it does not stop. 3: Connect does not answer.

    Examples: `deltasync connectors delete mine` · `deltasync connectors delete deltasync-source --reset-offsets`
    """
    with _open() as (found, client):
        config = client.config(name)
        reconciling.delete(client, name, reset_offsets=reset_offsets)
    kept = "Its offsets are reset." if reset_offsets else "Its offsets stay: applied again, it goes on where it was."
    output.say(f"The connector {name} is deleted. {kept}")
    slot = config.get("slot.name")
    if slot is not None:
        output.say(_left(found, slot))


@app.command()
def jar(folder: Annotated[Path, typer.Argument(help="Where to put it.", file_okay=False, exists=True)]) -> None:
    """Compile the raw-text jar for a Connect of your own; it belongs beside Debezium's jars on every worker.

    Exit code 0: its path is printed. 2: a package or the folder is missing.

    Example: `deltasync connectors jar .`
    """
    try:
        from deltasync.local import jars  # noqa: PLC0415 - an extra, and `run` must not load it
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"Compiling the jar needs the package {error.name}, which is not installed.",
            remedy="pip install 'deltasync[local]'",
        ) from error
    output.say(str(jars.raw_text_jar(folder)))


def _left(found: Settings, slot: str) -> str:
    """What is said of a deleted connector's slot; the source may not be named in the settings, or not answer."""
    drop = f"`deltasync source teardown`, or on the source: SELECT pg_drop_replication_slot('{slot}');"
    with suppress(UnreachableError):
        if found.source.dsn is not None:
            with connect(found.source.admin_conninfo() or "", name="connectors delete") as source:
                if slot_state(source, slot) is None:
                    return f"The source has no slot {slot}."
            return f"The slot {slot} stays on the source and holds WAL. Where nothing needs it any more: {drop}"
    return f"If there is a slot {slot} on the source, it stays and holds WAL. Where nothing needs it any more: {drop}"


@contextmanager
def _open() -> Iterator[tuple[Settings, ConnectClient]]:
    found = settings.load()
    found.need("connect.url")
    with ConnectClient(found.connect.url or "") as client:
        yield found, client


def _switch(name: str | None, act: Callable[[ConnectClient, str], None], what: str) -> None:
    with _open() as (found, client):
        name = name or found.connector
        act(client, name)
    output.say(f"The connector {name} {what}.")


def _outcome(client: ConnectClient, todo: Plan, timeout_s: float, before: Status | None) -> Status:
    """How a connector does after it was applied; one that was not changed need not prove itself again."""
    if todo.step is Step.NOTHING:
        return reconciling.wait_running(client, todo.name, Patience(timeout_s, steady_s=0))
    return reconciling.wait_running(client, todo.name, Patience(timeout_s), before=before)


def _report(status: Status) -> Report:
    failures = [
        FailedPart(found.part, found.worker, why.line, why.cause, why.passing, why.remedy)
        for found in status.failures()
        for why in (found.diagnosis,)
    ]
    if status.condition is Condition.IDLE:
        worker = status.connector.worker_id
        failures = [FailedPart("connector", worker, "it runs without a task", "", passing=False, remedy=_IDLE_REMEDY)]
    return Report(status.name, status.condition, {task.id or 0: task.state for task in status.tasks}, failures)


def _finish(reports: Sequence[Report], *, as_json: bool) -> None:
    """Print reports; exit code 1 unless all run or rest on purpose."""
    if as_json:
        output.json(reports)
    else:
        _print_reports(reports)
    if any(report.condition not in _WELL for report in reports):
        raise typer.Exit(1)


def _print_reports(reports: Iterable[Report]) -> None:
    table = output.table("connector", "condition", "tasks")
    troubles = []
    for report in reports:
        tasks = ", ".join(f"{task} {state}" for task, state in report.tasks.items())
        output.row(table, [report.name, report.condition, tasks or "-"])
        troubles += [(report.name, failed) for failed in report.failures]
    output.console.print(table)
    for name, failed in troubles:
        output.say(f"\n{name}, {failed.part} on {failed.worker}: {failed.error}")
        if failed.cause:
            output.say(f"  cause: {failed.cause}")
        output.say(f"  do: {failed.remedy}")


def _print_plans(plans: Sequence[Plan], *, as_json: bool = False) -> None:
    if as_json:
        output.json(
            [
                {"name": todo.name, "step": todo.step, "changes": [change._asdict() for change in todo.changes]}
                for todo in plans
            ]
        )
        return
    for todo in plans:
        output.say(f"{todo.name}: {todo.step}")
        for change in todo.changes:
            old = "" if change.old is None else f" {change.old} →"
            output.say(f"  {change.key}:{old} {'(removed)' if change.new is None else change.new}")
