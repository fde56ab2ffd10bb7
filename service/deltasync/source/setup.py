"""`deltasync source setup`: make the source ready to be captured, once and again, in one transaction."""

from __future__ import annotations

import msgspec
import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from deltasync.errors import RefusedError, SettingsError
from deltasync.postgres.connect import connect, where
from deltasync.settings import Settings
from deltasync.source.preflight import read_installed, read_server, refuse
from deltasync.source.statements import Installed, Pipeline, Reader, Statement, statements
from deltasync.table import TableId

# Any number that nothing else locks: two set-ups at once take turns.
LOCK = 0x64656C746173796E
_NO_EVENT_TRIGGERS = (
    "No event triggers: only a superuser may create them. A table that is created or altered from now on"
    " is captured, and its change known, once `deltasync source setup` has run again."
)


class Announced(msgspec.Struct, frozen=True):
    """A table of the captured schemas as the schema log has it now; `changed` by this run."""

    schema: str
    name: str
    captured: bool
    complete: bool | None
    reason: str | None
    changed: bool


class Report(msgspec.Struct, frozen=True):
    """What a set-up did; `sql` is what it ran, or would run (`dry_run`), passwords masked."""

    publication: str
    role: str
    dry_run: bool
    tables: list[Announced] = []
    notes: list[str] = []
    sql: list[str] = []


def setup(settings: Settings, *, dry_run: bool = False) -> Report:
    """Create or bring up to date what deltasync needs on the source: see DESIGN.md, "On the source".

    Uses `source.admin_dsn`, or `source.dsn` where there is none. All in one transaction: on any error
    nothing has changed. Idempotent: run again it migrates, and announces only what differs. Blocks;
    waits at most 10 s for each lock. Raises SettingsError, UnreachableError or RefusedError.
    """
    pipeline = pipeline_of(settings)
    conninfo = settings.source.admin_conninfo() or ""
    with connect(conninfo, name="source-setup") as connection:
        try:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            reader = _reader(settings, connection)
            installed = read_installed(connection, pipeline, reader.name)
            refuse(read_server(connection, pipeline), installed, pipeline)
            report = _carry_out(connection, pipeline, reader, installed, dry_run=dry_run)
        except psycopg.Error as error:
            raise failed("set-up", error, where(conninfo)) from None
    return report


def pipeline_of(settings: Settings) -> Pipeline:
    """What the pipeline captures. Raises SettingsError without a source."""
    settings.need("source.dsn")
    return Pipeline(
        name=settings.pipeline,
        publication=settings.publication,
        slot=settings.slot,
        schemas=settings.source.schemas,
        exclude=tuple(TableId(*name.split(".", 1)) for name in settings.source.exclude),
        raw_text=settings.connect.raw_text,
        skip=tuple(sorted(settings.skipping)),
        keyless=settings.source.keyless,
        failover=settings.source.failover,
    )


def _reader(settings: Settings, connection: Connection[TupleRow]) -> Reader:
    known = conninfo_to_dict(settings.source.conninfo() or "")
    name, password = known.get("user"), known.get("password")
    if not name:
        raise SettingsError(
            "DELTASYNC_SOURCE_DSN (`dsn` in [source]) names no user.",
            remedy="Add the service's own role: postgresql://USER:PASSWORD@…",
        )
    admin = str(name) == connection.info.user
    verifier = None
    if password and not admin:
        # Hashed here, the password itself reaches neither the server's log nor its statistics.
        hashed = connection.pgconn.encrypt_password(str(password).encode(), str(name).encode(), b"scram-sha-256")
        verifier = hashed.decode()
    return Reader(str(name), verifier, admin)


def _carry_out(
    connection: Connection[TupleRow], pipeline: Pipeline, reader: Reader, installed: Installed, *, dry_run: bool
) -> Report:
    steps = statements(pipeline, reader, installed)
    report = Report(pipeline.publication, reader.name, dry_run, sql=[f"{step.shown.rstrip(';')};" for step in steps])
    if dry_run:
        return report
    for step in steps:
        if step.optional:
            report.notes.extend(_try(connection, step))
        elif step.announces:
            report.tables.extend(Announced(*row) for row in connection.execute(step.text))
        else:
            connection.execute(step.text)
    return report


def _try(connection: Connection[TupleRow], step: Statement) -> list[str]:
    try:
        with connection.transaction():
            connection.execute(step.text)
    except psycopg.errors.InsufficientPrivilege:
        return [_NO_EVENT_TRIGGERS]
    return []


def failed(doing: str, error: psycopg.Error, server: str) -> RefusedError:
    """The error for a set-up or teardown that was rolled back."""
    why = (error.diag.message_primary or type(error).__name__).rstrip(".")
    what = f"The {doing} of {server} failed and changed nothing: {why} (SQLSTATE {error.sqlstate})."
    match error:
        case psycopg.errors.InsufficientPrivilege():
            return RefusedError(what, remedy="Give a superuser's connection in DELTASYNC_SOURCE_ADMIN_DSN.")
        case psycopg.errors.LockNotAvailable():
            return RefusedError(what, remedy="Run it again when no long transaction holds the tables.")
        case _:
            return RefusedError(what, remedy="Correct the cause and run the command again.")
