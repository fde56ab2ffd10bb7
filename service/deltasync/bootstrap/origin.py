"""The source as a slot begins: a snapshot of all that is before it, and the tables as they are in that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from threading import Timer
from typing import NamedTuple

import psycopg
from msgspec.structs import replace
from psycopg import IsolationLevel, sql

from deltasync.bootstrap.parts import Part, Size
from deltasync.errors import RefusedError, UnreachableError
from deltasync.postgres.catalog import describe_tables
from deltasync.postgres.connect import connect, connect_for_replication
from deltasync.postgres.types import skipping
from deltasync.settings import Settings
from deltasync.source.position import slot_state
from deltasync.source.teardown import wait_free
from deltasync.table import SourceTable, Table, TableId

# A row that a policy hides would be missing: rather an error. A load takes as long as it takes.
_SESSION = {
    "row_security": "off",
    "idle_in_transaction_session_timeout": "0",
    "statement_timeout": "0",
    "lock_timeout": "300s",
}
_FAILOVER_SINCE = _TRANSACTION_TIMEOUT_SINCE = 170_000
_ANNOUNCED = """
    SELECT DISTINCT ON (schema_name, table_name)
           schema_name, table_name, id, event, captured, complete, reason, description
      FROM deltasync.schema_log WHERE schema_name = ANY(%s) ORDER BY schema_name, table_name, id DESC
"""
_SIZES = """
    SELECT n.nspname, c.relname, max(pg_relation_size(t.relid)) / current_setting('block_size')::int,
           sum(pg_table_size(t.relid))::bigint
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     CROSS JOIN LATERAL (SELECT relid FROM pg_partition_tree(c.oid)
                          UNION SELECT c.oid WHERE c.relkind = 'r') t
     WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p')
     GROUP BY 1, 2
"""
# A table's files and columns, those of its partitions, too: TRUNCATE gives it another file, and so does what writes its
# rows anew. No function in it waits for a lock.
_SHAPE = """
    WITH RECURSIVE tree (oid) AS (
      SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE (n.nspname, c.relname) = (%s, %s)
       UNION ALL SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
    SELECT c.oid, c.relfilenode::bigint, c.relname::text, 0 FROM tree JOIN pg_class c ON c.oid = tree.oid
    UNION ALL
    SELECT a.attrelid, a.attnum::bigint, a.attname::text || ' ' || a.atttypid, a.atttypmod
      FROM tree JOIN pg_attribute a ON a.attrelid = tree.oid
     WHERE a.attnum > 0 AND NOT a.attisdropped
"""
_SET_UP = "Run deltasync source setup, then deltasync bootstrap again."


class Origin(NamedTuple):
    """The source in a snapshot: what is behind `lsn` in its log is not in it, and all else is.

    `tables` are those of the schema log there. `exported` is the snapshot's name for other sessions, for as long as the
    block lasts, and `snapshot` what `pg_current_snapshot()` tells of it.
    """

    connection: psycopg.Connection
    tables: dict[TableId, SourceTable]
    lsn: int
    exported: str
    snapshot: str

    @property
    def captured(self) -> dict[TableId, Table]:
        return _captured(self.tables)

    def sizes(self, wanted: Collection[TableId]) -> dict[TableId, Size]:
        """How large these tables are, their partitions together."""
        rows = self.connection.execute(_SIZES, [sorted({id_.schema for id_ in wanted})])
        found = {TableId(schema, name): Size(blocks, count) for schema, name, blocks, count in rows}
        return {id_: found[id_] for id_ in wanted}


@contextmanager
def opened(
    settings: Settings, slot: str, *, lasting: bool, timeout_s: float, tell: Callable[[str], None]
) -> Iterator[Origin]:
    """Make a slot, and have the source in the snapshot with which it begins; a slot that is not `lasting` goes at once.

    Blocks until the transactions that write now are over. Locks nothing. Raises RefusedError where the tables are not
    what the schema log says, or no slot can be made, UnreachableError where it takes too long.
    """
    with _session(settings) as now:
        _refuse_unlike(now, settings, _captured(_announced(now, settings)))
    with _session(settings) as source:
        tell("making the slot; waiting for the transactions that write to the source now")
        lsn = _begin(settings, source, slot, lasting=lasting, timeout_s=timeout_s)
        try:
            found = Origin(source, _announced(source, settings), lsn, *_names(source))
        except BaseException:
            if lasting:
                drop_slot(settings, slot)
            raise
        yield found


class ChangedError(Exception):
    """A table is not what the snapshot shows of it any more: its rows cannot be read there."""


class Reader:
    """Sessions that read rows of the snapshot. Between two blocks they have no locks: DDL waits for one at most."""

    def __init__(self, origin: Origin, source: psycopg.Connection, now: psycopg.Connection) -> None:
        self._origin, self.source, self.now = origin, source, now

    @contextmanager
    def reading(self, table: TableId) -> Iterator[None]:
        """A block in which rows of a table are read. Raises ChangedError where those are not all of the snapshot's.

        A table that was emptied or written anew since looks empty there, and a name may mean another column by now.
        Nobody can change that between the first row that is read and the block's end.
        """
        _use(self.source, self._origin.exported)
        try:
            yield
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            self.source.rollback()
            raise ChangedError from None
        was, is_ = (set(session.execute(_SHAPE, table)) for session in (self.source, self.now))
        self.source.rollback()
        if not was <= is_:
            raise ChangedError


@contextmanager
def readers(settings: Settings, origin: Origin) -> Iterator[Reader]:
    """Sessions of one job."""
    with _session(settings) as source, _session(settings) as now:
        now.autocommit = True
        try:
            yield Reader(origin, source, now)
        finally:
            source.close()


def select(part: Part, table: Table) -> sql.Composed:
    """The rows of a part, their columns in the order of the description."""
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.stored_columns)
    end = sql.SQL("") if part.end is None else sql.SQL(" AND ctid < '({},0)'").format(sql.Literal(part.end))
    return sql.SQL("SELECT {} FROM {} {} WHERE ctid >= '({},0)'{}").format(
        names,
        sql.SQL("" if table.kind == "p" else "ONLY"),
        sql.Identifier(*table.id),
        sql.Literal(part.first),
        end,
    )


@contextmanager
def _session(settings: Settings) -> Iterator[psycopg.Connection]:
    with closing(connect(settings.source.conninfo() or "", name="bootstrap", session=_SESSION)) as source:
        if source.info.server_version >= _TRANSACTION_TIMEOUT_SINCE:
            source.execute("SET transaction_timeout = 0")
            source.commit()
        yield source


def _announced(source: psycopg.Connection, settings: Settings) -> dict[TableId, SourceTable]:
    """What the newest entry of the schema log says of each table, as if it had been folded."""
    try:
        rows = source.execute(_ANNOUNCED, [list(settings.source.schemas)]).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        raise RefusedError("The source is not set up.", remedy=_SET_UP) from None
    found = {}
    for schema, name, log_id, event, captured, complete, reason, description in rows:
        id_ = TableId(schema, name)
        if event == "hole":
            raise RefusedError(f"A change of {id_} could not be logged on the source.", remedy=_SET_UP)
        if event != "drop" and description is not None:
            table = Table.from_value(description)
            owed = complete is not False
            found[id_] = SourceTable(log_id, bool(captured), owed, False, reason, None, table)  # noqa: FBT003
    if not _captured(found):
        raise RefusedError(
            f"No table of {', '.join(settings.source.schemas)} is captured.",
            remedy=f"See DELTASYNC_SOURCE_SCHEMAS. {_SET_UP}",
        )
    return found


def _captured(tables: dict[TableId, SourceTable]) -> dict[TableId, Table]:
    return {id_: table.description for id_, table in tables.items() if table.captured and table.description}


def _refuse_unlike(source: psycopg.Connection, settings: Settings, captured: dict[TableId, Table]) -> None:
    """Without event triggers nothing has told of what became of a table since it was announced."""
    found = describe_tables(source, settings.source.schemas)
    tables = {t.id: t for t in skipping(found, settings.skipping, raw_text=settings.connect.raw_text)}
    for id_, table in captured.items():
        if id_ not in tables or _shape(tables[id_]) != _shape(table):
            raise RefusedError(f"The table {id_} is not what was announced of it.", remedy=_SET_UP)


def _shape(table: Table) -> object:
    return table.primary_key, tuple(replace(column, missing=None) for column in table.stored_columns)


def _begin(settings: Settings, source: psycopg.Connection, slot: str, *, lasting: bool, timeout_s: float) -> int:
    """Make a slot, and put a session into its snapshot; returns where it begins in the source's log."""
    with closing(connect_for_replication(settings.source.conninfo() or "", name="bootstrap")) as slots:
        failover = lasting and settings.source.failover and slots.info.server_version >= _FAILOVER_SINCE
        create = sql.SQL("CREATE_REPLICATION_SLOT {}{} LOGICAL pgoutput (SNAPSHOT 'export'{})").format(
            sql.Identifier(slot),
            sql.SQL("" if lasting else " TEMPORARY"),
            sql.SQL(", FAILOVER true" if failover else ""),
        )
        timer = Timer(timeout_s, slots.cancel_safe)
        timer.start()
        try:
            row = slots.execute(create).fetchone()
        except psycopg.Error as error:
            raise _not_made(error, slot, timeout_s) from None
        finally:
            timer.cancel()
        if row is None:
            raise UnreachableError(f"The source did not tell of the slot {slot}.", remedy="Run it again.")
        _use(source, row[2])
    high, low = row[1].split("/")
    return (int(high, 16) << 32) + int(low, 16)


def _use(source: psycopg.Connection, exported: str) -> None:
    source.isolation_level = IsolationLevel.REPEATABLE_READ
    source.read_only = True
    source.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(exported)))


def _names(source: psycopg.Connection) -> tuple[str, str]:
    row = source.execute("SELECT pg_export_snapshot(), pg_current_snapshot()::text").fetchone()
    return row or ("", "")


def _not_made(error: psycopg.Error, slot: str, timeout_s: float) -> RefusedError | UnreachableError:
    match error:
        case psycopg.errors.DuplicateObject():
            return RefusedError(
                f"The source has a slot {slot} already, and no load that is under way here began with it.",
                remedy=f"If nothing reads it: SELECT pg_drop_replication_slot('{slot}'); on the source.",
            )
        case psycopg.errors.ConfigurationLimitExceeded():
            return RefusedError(
                "All replication slots of the source are in use.", remedy="Raise max_replication_slots, or drop one."
            )
        case psycopg.errors.QueryCanceled():
            return UnreachableError(
                f"A transaction that writes to the source did not end within {timeout_s:g} s: the slot waits for it.",
                remedy="See pg_stat_activity for the oldest backend_xid, or give a longer --timeout.",
            )
        case psycopg.errors.SerializationFailure():  # too many began and ended meanwhile
            return UnreachableError(
                f"The source was too busy for a snapshot of the slot {slot}.", remedy="Run it again."
            )
        case _:
            why = error.diag.message_primary or type(error).__name__
            return RefusedError(
                f"The slot {slot} could not be made: {why}.",
                remedy="The source needs wal_level = logical; the role REPLICATION (deltasync source setup).",
            )


def drop_slot(settings: Settings, slot: str) -> None:
    """Drop a slot, if it is there. Raises RefusedError where somebody reads it."""
    with connect(settings.source.conninfo() or "", name="bootstrap", autocommit=True) as source:
        if slot_state(source, slot) is not None:
            wait_free(source, slot)
            source.execute("SELECT pg_drop_replication_slot(%s)", [slot])


def owed(settings: Settings) -> set[TableId]:
    """The tables of which an entry of the schema log says that rows are owed."""
    query = "SELECT schema_name, table_name FROM deltasync.schema_log WHERE NOT complete"
    with connect(settings.source.conninfo() or "", name="bootstrap", autocommit=True) as source:
        return {TableId(*row) for row in source.execute(query)}
