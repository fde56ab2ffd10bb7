"""A real replica, for scenarios and for the conformance suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import psycopg
from psycopg import sql
from tests.property.connector import Connector
from tests.property.kinds import PLACEHOLDER, Row
from tests.property.resync import Resync
from tests.property.source import Source

from deltasync.change import Partition
from deltasync.kafka.memory import Broker
from deltasync.parking import Letter
from deltasync.plan import TablePlan
from deltasync.policy import Ddl
from deltasync.ports import Batch, at_once
from deltasync.progress import Claim, Progress
from deltasync.replay import replay
from deltasync.replica import by_hand, ddl, dead_letters, identity, ledger
from deltasync.replica.approval import approve
from deltasync.replica.engine import alchemy, driver
from deltasync.replica.memory_table import Foreign, Unique
from deltasync.replica.session import Replica
from deltasync.replica.setup import setup
from deltasync.settings import Settings
from deltasync.settings import Source as SourceSettings
from deltasync.table import Table, TableId

_OURS = ("ledger", "ledger_audit", "source_table", "source_canary", "dead_letter", "dead_letter_audit")

_DDL = Ddl()


class _Plans(list[TablePlan]):
    """Plans that tell when they begin to be carried out: then the ledger is locked, and nothing is written."""

    def __init__(self, plans: Sequence[TablePlan], tell: Callable[[str], object]) -> None:
        super().__init__(plans)
        self._tell = tell

    def __iter__(self) -> Iterator[TablePlan]:
        self._tell("fenced")
        return super().__iter__()


class _Session(Replica):
    """A session that tells where it is (see `replica.memory.Replica`)."""

    def __init__(self, settings: Settings, at: Callable[[str], object]) -> None:
        super().__init__(settings)
        self._at = at

    def apply(self, batch: Batch) -> int:
        self._at("begin")
        written = super().apply(batch._replace(plans=_Plans(batch.plans, self._at)))
        self._at("committed")
        return written

    def start(self, batch: Batch) -> Callable[[], int]:
        return at_once(partial(self.apply, batch))

    def terminate(self, admin: psycopg.Connection) -> None:
        """End its connection from the server's side."""
        if self._connection is not None:
            admin.execute("SELECT pg_terminate_backend(%s)", [driver(self._connection).info.backend_pid])


class PostgresStore:
    """See `store.Store`. Sets the replica up; `clear` makes it new."""

    waits_for_locks = True

    def __init__(self, settings: Settings, admin: str) -> None:
        own = {"source": SourceSettings(schemas=("shop",)), "unavailable_value": PLACEHOLDER}
        self._settings = settings.model_copy(update=own)
        self.pipeline = settings.pipeline
        setup(self._settings)
        self._dsn = settings.replica.dsn.get_secret_value() if settings.replica.dsn else ""
        self._admin = psycopg.connect(admin, autocommit=True)
        self._core = alchemy(lambda: psycopg.connect(admin))

    def session(
        self, at: Callable[[str], object] = lambda _place: None, *, ordered: bool = False, ddl: Ddl = _DDL
    ) -> Replica:
        constraints = {"constraints": "ordered" if ordered else "replica-role"}
        replica = self._settings.replica.model_copy(update=constraints)
        return _Session(self._settings.model_copy(update={"replica": replica, "ddl": ddl}), at)

    def approve(self, table: TableId, ddl: Ddl) -> None:
        approve(self._settings.model_copy(update={"ddl": ddl}), [str(table)], "a test")

    def fill(self, table: Table, rows: Iterable[Row]) -> None:  # noqa: ARG002 - see `store.Store`
        raise AssertionError("Choose other seeds.")

    def fail(self) -> Exception:
        return psycopg.errors.AdminShutdown()

    def end(self, session: object) -> None:
        if isinstance(session, _Session):
            session.terminate(self._admin)

    def rows(self, table: str, columns: Sequence[str]) -> list[Row]:
        schema = "deltasync" if table == "source_canary" else "shop"
        found = self._admin.execute("SELECT to_regclass(%s)", [f'"{schema}"."{table}"']).fetchone()
        if found is None or found[0] is None:
            return []
        # What a type puts out, which its cast to text need not be: t, and not true.
        output = sql.SQL("CASE WHEN {0} IS NOT NULL THEN format('%s', {0}) END")
        texts = sql.SQL(", ").join(output.format(sql.Identifier(column)) for column in columns)
        query = sql.SQL("SELECT {} FROM {}").format(texts, sql.Identifier(schema, table))
        return [dict(zip(columns, row, strict=True)) for row in self._admin.execute(query)]

    def columns(self, table: str) -> dict[str, str]:
        query = """
            SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
             WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
        """
        return dict(self._admin.execute(query, [f'"shop"."{table}"']).fetchall())

    def ledger(self) -> dict[Partition, Progress]:
        with self._core.begin():
            return {p: claim.progress for p, claim in ledger.read(self._core, self._settings.pipeline).items()}

    def place(self, partition: Partition, topic_id: str, offset: int) -> None:
        with self._core.begin():
            by_hand.place(self._core, self._settings.pipeline, partition, Claim(topic_id, Progress(offset)), "a test")

    def accept(self, reason: str) -> None:
        with self._core.begin():
            identity.accept(self._core, self._settings.pipeline, reason)

    def told(self) -> list[str]:
        with self._core.begin():
            refused, doubt, missing = identity.told(self._core, self._settings.pipeline)
        return [what for what in (refused, doubt, *missing) if what is not None]

    def constrain(self, table: Table, unique: Unique) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            ddl.execute(connection, ddl.create_schema(table.schema))
            ddl.execute(connection, ddl.create_table(table))
            for columns in unique:
                names = sql.SQL(", ").join(map(sql.Identifier, columns))
                connection.execute(sql.SQL("CREATE UNIQUE INDEX ON {} ({})").format(sql.Identifier(*table.id), names))

    def held(self) -> set[str]:
        query = "SELECT table_name FROM deltasync.source_table WHERE held IS NOT NULL"
        return {name for (name,) in self._admin.execute(query)}

    def pending(self) -> set[str]:
        query = "SELECT table_name FROM deltasync.source_table WHERE pending IS NOT NULL AND pending::text <> '[]'"
        return {name for (name,) in self._admin.execute(query)}

    def refit(self, table: Table) -> None:
        known, name = self.columns(table.name), sql.Identifier(*table.id)
        for column in table.columns:
            action = "ALTER COLUMN {} TYPE {}" if column.name in known else "ADD COLUMN {} {}"
            statement = sql.SQL("ALTER TABLE {} " + action)
            self._admin.execute(statement.format(name, sql.Identifier(column.name), sql.SQL(column.sql_type)))
        setup(self._settings)

    def mend(self, table: Table, before: Row, after: Row) -> None:
        self._admin.execute("SET session_replication_role = replica")
        same = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(column)) for column in table.primary_key)
        names = sql.SQL(", ").join(map(sql.Identifier, after))
        values = sql.SQL(", ").join([sql.Placeholder()] * len(after))
        name = sql.Identifier(*table.id)
        self._admin.execute(
            sql.SQL("DELETE FROM {} WHERE {}").format(name, same), [before[column] for column in table.primary_key]
        )
        self._admin.execute(sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(name, names, values), [*after.values()])

    def relate(self, foreign: Foreign) -> None:
        statement = "ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {}"
        statement += " ON DELETE CASCADE" * foreign.acts + " DEFERRABLE" * foreign.deferrable
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            child, parent = (sql.Identifier(*id_) for id_ in (foreign.child, foreign.parent))
            connection.execute(sql.SQL(statement).format(child, sql.Identifier(foreign.column), parent))

    def resync(self, source: Source, connector: Connector, broker: Broker, at: Callable[[str], object]) -> Resync:  # noqa: ARG002
        raise AssertionError("There is no source to read again: choose other seeds.")

    def refuse(self, table: Table, column: str, text: str) -> None:
        statement = "ALTER TABLE {} ADD CHECK (format('%s', {}) <> {}) NOT VALID"
        self._admin.execute(
            sql.SQL(statement).format(sql.Identifier(*table.id), sql.Identifier(column), sql.Literal(text))
        )

    def admit(self) -> None:
        query = "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c' AND NOT convalidated"
        for table, name in self._admin.execute(query).fetchall():
            statement = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}")
            self._admin.execute(statement.format(sql.SQL(table), sql.Identifier(name)))

    def letters(self) -> list[Letter]:
        with self._core.begin():
            return [stored.letter for stored in dead_letters.load(self._core, self._settings.pipeline)]

    def replay(self, *, ordered: bool) -> None:
        constraints = {"constraints": "ordered" if ordered else "replica-role"}
        replica = self._settings.replica.model_copy(update=constraints)
        list(replay(self._settings.model_copy(update={"replica": replica}), []))

    def read_anew(self, rows: Callable[[str], Iterable[Row]]) -> None:  # noqa: ARG002 - see `store.Store`
        raise AssertionError("There is no source to read anew: choose other seeds.")

    def clear(self) -> None:
        self._admin.execute("DROP SCHEMA IF EXISTS shop CASCADE")
        for table in _OURS:
            self._admin.execute(sql.SQL("DELETE FROM deltasync.{}").format(sql.Identifier(table)))

    def close(self) -> None:
        self._admin.close()
        self._core.close()
