"""`deltasync source teardown`: end a pipeline on the source. What a set-up made goes, in one transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from deltasync.errors import RefusedError
from deltasync.postgres.connect import connect, where
from deltasync.settings import Settings
from deltasync.source.preflight import newer
from deltasync.source.setup import LOCK, failed
from deltasync.source.statements import VERSION, Query

# A connector that was just deleted lets go of its slot within this time.
_SLOT_TIMEOUT_S = 15.0
_POLL_S = 0.2
_BY_SCHEMA = ("schema_log", "known_table")
# Children before their parent.
_BY_PIPELINE = ("excluded_table", "skipping_table", "captured_schema", "canary", "pipeline")


class Report(msgspec.Struct, frozen=True):
    """What a teardown did, or would do (`dry_run`): in words, and as it ran. Both empty where nothing was there."""

    pipeline: str
    dry_run: bool
    done: list[str] = []
    sql: list[str] = []
    notes: list[str] = []


class _Installed(NamedTuple):
    """A pipeline as it was set up; `others` share its database. None of a name is there any more."""

    version: int
    publication: str | None
    slot: str | None
    triggers: tuple[str, ...]
    others: tuple[str, ...]
    role: str | None


class _Step(NamedTuple):
    text: Query
    did: str


def teardown(settings: Settings, *, dry_run: bool = False) -> Report:
    """Drop slot and publication of the pipeline; with the last one of this database, all that deltasync made in it.

    The service's role stays. Idempotent; all in one transaction. Blocks for up to 15 s while the slot is in use.
    Raises SettingsError, UnreachableError, or RefusedError where the slot stays in use.
    """
    settings.need("source.dsn")
    conninfo = settings.source.admin_conninfo() or ""
    with connect(conninfo, name="source-teardown") as connection:
        try:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            found = _read(connection, settings.pipeline)
            if found is None:
                return Report(settings.pipeline, dry_run)
            _refuse_versions(found)
            steps = list(_steps(found, settings.pipeline))
            if not dry_run:
                if found.slot:
                    wait_free(connection, found.slot)
                for step in steps:
                    connection.execute(step.text)
        except psycopg.Error as error:
            raise failed("teardown", error, where(conninfo)) from None
    return Report(
        settings.pipeline,
        dry_run,
        done=[step.did for step in steps],
        sql=[f"{step.text.as_string(None)};" for step in steps],
        notes=list(_notes(found)),
    )


def _read(connection: Connection[TupleRow], pipeline: str) -> _Installed | None:
    there = connection.execute("SELECT to_regclass('deltasync.pipeline') IS NOT NULL").fetchone()
    if there != (True,):
        return None
    query = """
        SELECT (SELECT coalesce(max(version), 0) FROM deltasync.source_version),
               (SELECT pubname::text FROM pg_publication WHERE pubname = p.publication),
               (SELECT slot_name::text FROM pg_replication_slots
                 WHERE slot_name = p.slot AND database = current_database()),
               ARRAY(SELECT evtname::text FROM pg_event_trigger
                      WHERE evtname IN ('deltasync_ddl', 'deltasync_drop') ORDER BY 1),
               ARRAY(SELECT o.pipeline FROM deltasync.pipeline o WHERE o.pipeline <> p.pipeline ORDER BY 1),
               (SELECT rolname::text FROM pg_roles WHERE rolname = p.reader AND rolname <> current_user)
          FROM deltasync.pipeline p WHERE p.pipeline = %s
    """
    row = connection.execute(query, [pipeline]).fetchone()
    return None if row is None else _Installed(row[0], row[1], row[2], tuple(row[3]), tuple(row[4]), row[5])


def _refuse_versions(found: _Installed) -> None:
    if found.version > VERSION:
        what, _, remedy = newer(found.version)
        raise RefusedError(what, remedy=remedy)
    if found.others and found.version < VERSION:
        raise RefusedError(
            f"The source's objects are of version {found.version}, this deltasync knows {VERSION}.",
            remedy="Run `deltasync source setup` first: it migrates them.",
        )


def _steps(found: _Installed, pipeline: str) -> Iterator[_Step]:
    """Event triggers first, so that they do not see the rest go; the slot last, since no rollback brings it back."""
    if not found.others:
        for trigger in found.triggers:
            yield _Step(sql.SQL("DROP EVENT TRIGGER {}").format(sql.Identifier(trigger)), f"event trigger {trigger}")
    if found.publication:
        drop = sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(found.publication))
        yield _Step(drop, f"publication {found.publication}")
    if found.others:
        yield from _entries(pipeline)
    else:
        yield _Step(sql.SQL("DROP SCHEMA deltasync CASCADE"), "schema deltasync")
    if found.slot:
        drop = sql.SQL("SELECT pg_drop_replication_slot({})").format(sql.Literal(found.slot))
        yield _Step(drop, f"replication slot {found.slot}")


def _entries(pipeline: str) -> Iterator[_Step]:
    """What is said of this pipeline in the tables that it shares."""
    captured = "schema_name IN (SELECT name FROM deltasync.captured_schema WHERE pipeline = {})"
    by_schema, by_pipeline = dict.fromkeys(_BY_SCHEMA, captured), dict.fromkeys(_BY_PIPELINE, "pipeline = {}")
    for table, which in {**by_schema, "signal": "split_part(id, ':', 1) = {}", **by_pipeline}.items():
        condition = sql.SQL(which).format(sql.Literal(pipeline))
        delete = sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier("deltasync", table), condition)
        yield _Step(delete, f"entries of deltasync.{table}")


def wait_free(connection: Connection[TupleRow], slot: str) -> None:
    """Return when nobody reads a slot. Blocks for up to 15 s, and raises RefusedError then."""
    deadline = time.monotonic() + _SLOT_TIMEOUT_S
    query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND active"
    while (row := connection.execute(query, [slot]).fetchone()) is not None:
        if time.monotonic() > deadline:
            raise RefusedError(
                f"The slot {slot} is in use, by the process {row[0]} of the source: nothing was changed.",
                remedy="Delete the connector that reads it (`deltasync connectors delete`), then try again.",
            )
        time.sleep(_POLL_S)


def _notes(found: _Installed) -> Iterator[str]:
    if found.others:
        yield f"event triggers and schema deltasync stay for {', '.join(found.others)}"
    elif found.role:
        role = sql.Identifier(found.role).as_string(None)
        yield f"the role {found.role} stays; where nothing else needs it: DROP OWNED BY {role}; DROP ROLE {role};"
