"""The connector: as its file says, as Connect holds it, and how it does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deltasync.connect import apply as reconciling
from deltasync.connect import rules, template
from deltasync.connect.client import ConnectClient, Plugin
from deltasync.connect.reconcile import SNAPSHOT_MODE, Plan, Step
from deltasync.connect.status import Condition, Status
from deltasync.connect.template import Connector
from deltasync.errors import DeltasyncError, UnreachableError
from deltasync.finding import Area, Finding, Gravity

_DEBEZIUM = "io.debezium.connector.postgresql.PostgresConnector"
# Earlier ones lose rows when they are restarted.
_VERSION_MIN = (3, 7, 0)
_RESTING = {Condition.PAUSED: "resume", Condition.STOPPED: "resume"}


class Facts(NamedTuple):
    """What Connect says: `actual` and `status` are None where it has no such connector.

    `todo` is what applying the file would do, `refused` what Connect or the connector says against that.
    """

    name: str
    actual: Mapping[str, str] | None
    status: Status | None
    plugins: tuple[Plugin, ...]
    refused: DeltasyncError | None
    todo: Plan | None = None

    @property
    def record_bytes_max(self) -> int | None:
        """The largest record that the connector sends, where its own settings tell."""
        told = (self.actual or {}).get("producer.override.max.request.size", "")
        return int(told) if told.isdecimal() else None


def load(
    files: Sequence[Path], variables: Mapping[str, str], generated: Mapping[str, str], name: str
) -> Connector | DeltasyncError | None:
    """The connector of this name as its file says; why the files will not do; None where none of them has it."""
    try:
        return next((one for one in template.load(files, variables, generated) if one.name == name), None)
    except DeltasyncError as error:
        return error


def read(client: ConnectClient, name: str, wanted: Connector | None) -> Facts:
    """Ask Connect. Blocks for some requests; validation has the connector reach the source. Changes nothing."""
    plugins = tuple(client.plugins())
    actual = reconciling.actual(client, name)
    refused, todo = None, None
    if wanted is not None and any(plugin.class_ == wanted.config["connector.class"] for plugin in plugins):
        try:
            (todo,) = reconciling.check(client, [wanted])
        except UnreachableError:
            raise
        except DeltasyncError as error:
            refused = error
    status = reconciling.find_status(client, name) if actual is not None else None
    return Facts(name, actual, status, plugins, refused, todo)


def judge_file(found: Connector | DeltasyncError | None, name: str) -> Iterator[Finding]:
    """Every finding about the file; pure."""
    if isinstance(found, DeltasyncError):
        why = "It cannot be applied, and `deltasync connectors apply` refuses it too."
        yield _found(Gravity.REFUSED, found.what, why, found.remedy)
    elif found is None:
        what = f"No file describes the connector {name}."
        remedy = "Add it to the files of --file, or leave --file out to take the shipped one."
        yield _found(Gravity.WARNING, what, "What Connect holds has nothing to be compared with.", remedy)


def judge(facts: Facts, agreed: rules.Agreed) -> Iterator[Finding]:
    """Every finding about what Connect says; pure."""
    yield from _plugin(facts.plugins)
    if facts.refused is not None:
        why = "Connect asked the connector, and the connector the source."
        yield _found(Gravity.REFUSED, facts.refused.what, why, facts.refused.remedy)
    if facts.actual is None:
        what = f"Connect has no connector {facts.name} yet."
        yield _found(Gravity.NOTE, what, "Nothing is captured.", "Run `deltasync connectors apply`.")
        return
    for refusal in rules.refusals(facts.actual, agreed):
        yield _found(
            Gravity.REFUSED,
            f"The connector {facts.name} in Connect has {refusal.key} = {refusal.value}.",
            f"It would lose or alter values: {refusal.why}.",
            "Run `deltasync connectors apply`, after correcting the file if it says the same (`--file`).",
        )
    if facts.todo is not None and facts.todo.step is Step.UPDATE:
        yield from _difference(facts.name, facts.todo)
    if facts.status is not None:
        yield from _status(facts.status)


def _found(gravity: Gravity, what: str, why: str, remedy: str) -> Finding:
    return Finding(gravity, Area.CONNECTOR, what, why, remedy)


def _plugin(plugins: Sequence[Plugin]) -> Iterator[Finding]:
    remedy = "Install Debezium 3.7.0.Final in plugin.path of every worker, and restart them."
    found = next((plugin for plugin in plugins if plugin.class_ == _DEBEZIUM), None)
    if found is None:
        what = "Connect has no plug-in for PostgreSQL of Debezium's."
        yield _found(Gravity.REFUSED, what, f"The class {_DEBEZIUM} is not installed.", remedy)
        return
    known = re.match(r"(\d+)\.(\d+)\.(\d+)", found.version)
    if known and tuple(map(int, known.groups())) < _VERSION_MIN:
        why = "Versions before 3.7.0 lose rows when they are restarted, without a word."
        yield _found(Gravity.REFUSED, f"Connect has Debezium {found.version}.", why, remedy)


def _difference(name: str, todo: Plan) -> Iterator[Finding]:
    # The snapshot's mode is put into force by `run` once the first one is complete.
    keys = ", ".join(change.key for change in todo.changes if change.key != SNAPSHOT_MODE)
    if keys:
        yield _found(
            Gravity.WARNING,
            f"The connector {name} in Connect is not what its file says: {keys}.",
            "It was changed since, or the settings were.",
            "See `deltasync connectors plan`, then `deltasync connectors apply`.",
        )


def _status(status: Status) -> Iterator[Finding]:
    for failure in status.failures():
        why = failure.diagnosis.cause or failure.diagnosis.line
        yield _found(
            Gravity.REFUSED,
            f"The {failure.part} of the connector {status.name} has failed."
            if failure.part != "connector"
            else f"The connector {status.name} has failed.",
            f"{why.rstrip('.')}.",
            failure.diagnosis.remedy,
        )
    if status.condition in _RESTING:
        what = f"The connector {status.name} is {status.condition}."
        yield _found(
            Gravity.WARNING, what, "Its slot holds the source's WAL meanwhile.", "`deltasync connectors resume`"
        )
    elif status.condition is Condition.IDLE:
        what = f"The connector {status.name} runs without a task."
        yield _found(Gravity.REFUSED, what, "It reads nothing.", "Read the log of Connect's workers.")
