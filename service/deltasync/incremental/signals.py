"""What the connector is asked to do: rows of `deltasync.signal` on the source, which it finds in its stream.

Its condition is SQL that the connector runs as its role: who may write such a row, may have it do what that role may.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence

import msgspec
import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from deltasync.connect.apply import actual, find_status
from deltasync.connect.client import ConnectClient
from deltasync.connect.status import Condition
from deltasync.errors import RefusedError
from deltasync.incremental.suitable import wrapped
from deltasync.settings import Settings
from deltasync.source.position import current_lsn

_TABLE = "deltasync.signal"
_NOT_YET = "snapshots could be asked for with it"


class Asked(msgspec.Struct, frozen=True):
    """A snapshot as it was asked for; `shapes` tells what each table was by then (see `suitable.shape`).

    `lsn` is behind the signal in the source's log; 0 where it is not known.
    """

    id: str
    tables: tuple[str, ...]
    where: str | None = None
    shapes: Mapping[str, str] = {}
    lsn: int = 0


class _Ours(msgspec.Struct):
    where: str | None = None
    shapes: dict[str, str] = {}


class _Execute(msgspec.Struct, rename="kebab"):
    data_collections: list[str]
    type: str = "incremental"
    additional_conditions: list[dict[str, str]] = []
    deltasync: _Ours = msgspec.field(default_factory=_Ours)  # Debezium passes it over


def refuse_unready(settings: Settings, source: Connection[TupleRow], client: ConnectClient) -> None:
    """Raises RefusedError where the connector would not see a signal, or nobody its answer."""
    query = "SELECT EXISTS (SELECT FROM pg_publication_tables WHERE (pubname, schemaname, tablename) = (%s, %s, %s))"
    published = source.execute(query, [settings.publication, *_TABLE.split(".")]).fetchone()
    if not (published and published[0]):
        raise RefusedError(
            f"The source was set up before {_NOT_YET}.",
            remedy="Run deltasync source setup, then deltasync connectors apply.",
        )
    config = actual(client, settings.connector)
    if config is None or not _hears(config):
        raise RefusedError(
            f"The connector {settings.connector} was applied before {_NOT_YET}."
            if config is not None
            else f"Connect has no connector {settings.connector}.",
            remedy="Run deltasync connectors apply.",
        )
    status = find_status(client, settings.connector)
    condition = status.condition if status else Condition.STARTING
    if condition is not Condition.RUNNING:
        raise RefusedError(
            f"The connector {settings.connector} is {condition.value}: it reads nothing.",
            remedy="See deltasync connectors status; have it run, then ask again.",
        )


def _hears(config: Mapping[str, str]) -> bool:
    channels = (
        config.get("signal.enabled.channels", ""),
        config.get("notification.enabled.channels", ""),
    )
    signals, notices = (set(re.split(r"\s*,\s*", names.strip())) for names in channels)
    # In the driver's binary form, to which it changes after some chunks, moments before all calendars become -infinity.
    is_text = config.get("driver.binaryTransfer") == "false"
    is_ours = config.get("signal.data.collection") == _TABLE
    return "source" in signals and "sink" in notices and is_ours and is_text


def execute(
    settings: Settings, source: Connection[TupleRow], tables: Sequence[str], where: str | None, shapes: dict[str, str]
) -> Asked:
    """Ask for a snapshot of these tables. Returns once the signal is committed."""
    conditions = [{"data-collection": name, "filter": wrapped(where)} for name in tables] if where else []
    data = _Execute(list(tables), additional_conditions=conditions, deltasync=_Ours(where, shapes))
    id_ = _sent(settings, source, "execute-snapshot", data)
    return Asked(id_, tuple(tables), where, shapes, current_lsn(source))


def pause(settings: Settings, source: Connection[TupleRow]) -> None:
    """Ask the connector to read no further chunk."""
    _sent(settings, source, "pause-snapshot", {})


def resume(settings: Settings, source: Connection[TupleRow]) -> None:
    """Ask the connector to read on."""
    _sent(settings, source, "resume-snapshot", {})


def stop(settings: Settings, source: Connection[TupleRow]) -> None:
    """Ask the connector to end the snapshot. One that is paused does so when it is resumed (measured)."""
    _sent(settings, source, "stop-snapshot", {"type": "incremental"})
    resume(settings, source)


def asked(source: Connection[TupleRow], id_: str) -> Asked | None:
    """A snapshot as it was asked for; None where deltasync did not."""
    row = source.execute("SELECT data FROM deltasync.signal WHERE id = %s", [id_]).fetchone()
    if row is None:
        return None
    data = msgspec.json.decode(row[0], type=_Execute)
    return Asked(id_, tuple(data.data_collections), data.deltasync.where, data.deltasync.shapes)


def _sent(settings: Settings, source: Connection[TupleRow], type_: str, data: object) -> str:
    """Only signals of this form reach the connector of this pipeline (see `source/statements.py`)."""
    id_ = f"{settings.pipeline}:{secrets.token_hex(8)}"
    try:
        source.execute(
            "INSERT INTO deltasync.signal (id, type, data) VALUES (%s, %s, %s)",
            [id_, type_, msgspec.json.encode(data).decode()],
        )
    except psycopg.errors.InsufficientPrivilege:
        raise RefusedError(
            "The role of the source's DSN may not write to deltasync.signal.",
            remedy="Run deltasync source setup again.",
        ) from None
    return id_
