"""Asks every server that the settings name, one after the other, and gathers what it finds. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import psycopg
import sqlalchemy as sa
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from deltasync.check import connector, data, kafka, replica, role, source, tables
from deltasync.connect.client import ConnectClient
from deltasync.connect.rules import Agreed
from deltasync.errors import DeltasyncError, SettingsError, UnreachableError
from deltasync.failure import Verdict, describe, driver_error, verdict
from deltasync.finding import Area, Finding, Gravity, by_gravity
from deltasync.kafka.admin import Admin
from deltasync.postgres.connect import connect
from deltasync.replica.engine import alchemy
from deltasync.settings import Database, Settings
from deltasync.source.generated import generated
from deltasync.source.setup import pipeline_of
from deltasync.source.snapshot import template_variables
from deltasync.table import Table

# No question takes longer: the catalogs answer in moments.
_SESSION = {"default_transaction_read_only": "on", "statement_timeout": "30s"}
# A Connect that rebalances is not waited for.
_CONNECT_RETRY_S = 5.0


class Asked(msgspec.Struct, frozen=True):
    """A server: `state` is "asked", "not set" (the settings do not name it) or "not answering"; then why."""

    server: str
    state: str
    why: str = ""
    remedy: str = ""


class Report(msgspec.Struct, frozen=True):
    """All findings, the gravest first, and who was asked. `ok`: none is refused."""

    ok: bool
    findings: tuple[Finding, ...]
    servers: tuple[Asked, ...]

    @property
    def exit_code(self) -> int:
        """1 where a finding is grave, 3 where none is and a server could not be asked, 0 otherwise."""
        if not self.ok:
            return 1
        return 3 if any(one.state == "not answering" for one in self.servers) else 0


def examine(settings: Settings, files: Sequence[Path] = (), *, with_data: bool = False) -> Report:
    """Look at source, connector, Kafka and replica, in this order.

    A server that does not answer is told in the report, not raised. Raises SettingsError where the settings name
    no server at all. Blocks for some seconds; `with_data` for up to a minute a table.
    """
    examination = _Examination(settings, files, with_data=with_data)
    examination.run()
    findings = tuple(sorted(dict.fromkeys(examination.findings), key=by_gravity))
    ok = all(finding.gravity is not Gravity.REFUSED for finding in findings)
    return Report(ok, findings, tuple(examination.asked))


class _Examination:
    def __init__(self, settings: Settings, files: Sequence[Path], *, with_data: bool) -> None:
        self.findings: list[Finding] = []
        self.asked: list[Asked] = []
        self._settings, self._files, self._with_data = settings, files, with_data
        self._captured: list[Table] | None = None
        self._reader_gets_in = False
        self._record_bytes_max: int | None = None

    def run(self) -> None:
        settings = self._settings
        parts: dict[Area, tuple[object, Callable[[], Iterable[Finding]]]] = {
            Area.SOURCE: (settings.source.dsn, self._source),
            Area.CONNECTOR: (settings.connect.url, self._connector),
            Area.KAFKA: (settings.kafka.bootstrap, self._kafka),
            Area.REPLICA: (settings.replica.dsn, self._replica),
        }
        if not any(address for address, _ in parts.values()):
            settings.need("source.dsn")
        for area, (address, look) in parts.items():
            if address is None:
                self.asked.append(Asked(area, "not set"))
            else:
                self._ask(area, look)

    def _ask(self, area: Area, look: Callable[[], Iterable[Finding]]) -> None:
        """What was found before a server fell silent counts."""
        try:
            for finding in look():
                self.findings.append(finding)
        except SettingsError:
            raise
        except UnreachableError as error:
            self.asked.append(Asked(area, "not answering", error.what, error.remedy))
            return
        except DeltasyncError as error:
            why = "deltasync would be turned away in the same way."
            self.findings.append(Finding(Gravity.REFUSED, area, error.what, why, error.remedy))
        except (psycopg.Error, sa.exc.SQLAlchemyError) as error:
            if verdict(error) is Verdict.RETRY:
                remedy = "See whether it is up; try again."
                self.asked.append(Asked(area, "not answering", f"The {area} failed: {describe(error)}.", remedy))
                return
            if not isinstance(driver_error(error), psycopg.errors.InsufficientPrivilege):
                raise
            self.findings.append(_turned_down(area, error))
        self.asked.append(Asked(area, "asked"))

    def _source(self) -> Iterator[Finding]:
        settings = self._settings
        pipeline = pipeline_of(settings)
        name = _user(settings.source)
        with closing(_open(settings.source.admin_conninfo() or "", "source")) as connection:
            facts = source.read(connection, pipeline, name)
            published = facts.publication.tables if facts.publication else ()
            raw_text = settings.connect.raw_text
            found = tables.read(connection, facts.server.tables, published, pipeline)
            self._captured = found.captured
            yield from source.judge(facts, pipeline)
            yield from tables.judge(found)
            yield from tables.strangers(found.tables, "[tables]", settings.tables, Gravity.WARNING)
            yield from tables.strangers(found.tables, "`exclude` in [source]", settings.source.exclude, Gravity.NOTE)
            reader = role.read(connection, pipeline, name)
            if reader is not None:
                yield from role.judge(reader, found.guarded)
                turned_down = list(_login(settings.source, Area.ROLE))
                self._reader_gets_in = not turned_down
                yield from turned_down
            if self._with_data:
                yield from data.judge(connection, found.captured, raw_text=raw_text)

    def _connector(self) -> Iterator[Finding]:
        settings = self._settings
        name = settings.connector
        wanted = connector.load(self._files, *self._variables(), name)
        yield from connector.judge_file(wanted, name)
        known = None if isinstance(wanted, DeltasyncError) else wanted
        with ConnectClient(settings.connect.url or "", retry_s_max=_CONNECT_RETRY_S) as client:
            agreed = Agreed(
                settings.unavailable_value,
                raw_text=settings.connect.raw_text,
                transactions=settings.consistency == "transaction",
                keyless=settings.source.keyless,
            )
            facts = connector.read(client, name, known)
            self._record_bytes_max = facts.record_bytes_max
            yield from connector.judge(facts, agreed)

    def _variables(self) -> tuple[dict[str, str], dict[str, str]]:
        """The template's variables and what is generated; of the tables only where the service's role can ask."""
        settings = self._settings
        if self._reader_gets_in:
            return template_variables(settings), generated(settings)
        without = settings.model_copy(update={"source": settings.source.model_copy(update={"dsn": None})})
        return {**template_variables(without), **settings.variables()}, {}

    def _kafka(self) -> Iterator[Finding]:
        captured = self._captured or ()
        named = [table.id for table in captured]
        keyless = {table.id for table in captured if table.is_told_by_rows}
        settings = self._settings
        ends = settings.transaction_topic if settings.consistency == "transaction" else None
        admin = Admin(settings)
        logs = admin.logs()
        yield from kafka.judge(logs, named, settings.topic_prefix, keyless, ends)
        yield from kafka.judge_settings(admin.settings({partition.topic for partition in logs}), self._record_bytes_max)

    def _replica(self) -> Iterator[Finding]:
        settings = self._settings
        name = _user(settings.replica)
        conninfo = settings.replica.admin_conninfo() or ""
        with closing(alchemy(lambda: connect(conninfo, name="check", session=_SESSION))) as core, core.begin():
            facts = replica.read(core, settings, name)
        yield from replica.judge(facts, self._captured)
        if facts.may_create is not None:
            yield from _login(settings.replica, Area.REPLICA)


def _open(conninfo: str, area: str) -> Connection[TupleRow]:
    return connect(conninfo, name=f"check {area}", autocommit=True, session=_SESSION)


def _user(database: Database) -> str:
    for conninfo in (database.conninfo(), database.admin_conninfo()):
        user = conninfo_to_dict(conninfo or "").get("user")
        if user:
            return str(user)
    raise SettingsError(
        "A PostgreSQL connection string names no user.", remedy="Write it as postgresql://USER:PASSWORD@HOST/DATABASE."
    )


def _login(database: Database, area: Area) -> Iterator[Finding]:
    """Whether the service's own role gets in, where the questions were asked with another one."""
    if database.admin_dsn is None:
        return
    try:
        connect(database.conninfo() or "", name="check").close()
    except UnreachableError as error:
        why = "A superuser gets in, the service's own role does not."
        yield Finding(Gravity.REFUSED, area, error.what, why, error.remedy)


def _turned_down(area: Area, error: Exception) -> Finding:
    return Finding(
        Gravity.REFUSED,
        area,
        f"The {area} refused a question: {describe(error)}.",
        "The role lacks a right that it needs to look, and perhaps to work.",
        f"Run `deltasync {area} setup`, or look with DELTASYNC_{area.upper()}_ADMIN_DSN set.",
    )
