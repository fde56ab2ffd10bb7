"""The replica that is filled: its tables, what they are without until the rows are in, and how far each is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple

import msgspec
import psycopg
import sqlalchemy as sa
from msgspec.structs import replace
from psycopg import sql

from deltasync.bootstrap import definitions
from deltasync.bootstrap.definitions import Definition
from deltasync.bootstrap.origin import Origin
from deltasync.change import Log, Partition
from deltasync.errors import RefusedError
from deltasync.failure import describe
from deltasync.postgres.catalog import describe_table
from deltasync.postgres.connect import connect
from deltasync.progress import Claim, Progress
from deltasync.replica import by_hand, catalog, dead_letters, evolve
from deltasync.replica.dead_letters import Outcome
from deltasync.replica.engine import TRANSACTION_TIMEOUT_SINCE, driver, open_replica
from deltasync.replica.misfit import misfit
from deltasync.replica.session import take_replica_role
from deltasync.replica.tables import bootstrap, dead_letter, source_canary, source_table
from deltasync.settings import Settings
from deltasync.table import SourceTable, Table, TableId

REASON = "bootstrap"
# One load at a time for each pipeline; an arbitrary number that is ours.
_LOCK = 0x626F6F74
LOADING, LOADED, DONE = "loading", "loaded", "done"
# What a crash of the replica takes back it takes back in the order of its log: rows, then what is said of them.
_SESSION = {
    "synchronous_commit": "off",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "300s",
    # Of each job; PostgreSQL's default of 64 MB sorts a large index in many more runs.
    "maintenance_work_mem": "256MB",
}
ANEW = "Begin anew, with all tables: deltasync bootstrap --anew"
# Why the replica cannot have an index or a constraint as it is on the source, or cannot go without its own.
_NOT_HERE = (
    psycopg.ProgrammingError,
    psycopg.NotSupportedError,
    psycopg.IntegrityError,
    psycopg.errors.DependentObjectsStillExist,
    psycopg.errors.ProgramLimitExceeded,
)


class State(NamedTuple):
    """How far one table is: see `replica.tables.bootstrap`."""

    state: str
    slot_lsn: int
    lsn: int
    snapshot: str
    statements: tuple[Definition, ...]
    rows: int

    @property
    def is_late(self) -> bool:
        """True where its rows are of a later moment than the slot's begin: the stream has changes that they hold."""
        return self.lsn > self.slot_lsn


class Target:
    """The replica, and what is known of the load. Not thread-safe."""

    def __init__(self, replica: sa.Connection, settings: Settings) -> None:
        self._replica, self._settings = replica, settings
        self._connection = driver(replica)

    def states(self) -> dict[TableId, State]:
        """The tables of the load that is under way; none where none is."""
        query = sa.select(bootstrap).where(bootstrap.c.pipeline == self._settings.pipeline)
        with self._replica.begin():
            rows = self._replica.execute(query.order_by(bootstrap.c.schema_name, bootstrap.c.table_name)).all()
        return {
            TableId(row.schema_name, row.table_name): State(
                row.state,
                row.slot_lsn,
                row.lsn,
                row.snapshot,
                msgspec.convert(row.statements, tuple[Definition, ...]),
                row.rows,
            )
            for row in rows
        }

    def begin(self, origin: Origin, ends: Mapping[Partition, Log], carried: Iterable[Definition]) -> None:
        """Have the tables, empty and without what is made behind their rows, and forget what was before.

        One transaction. `carried` are the source's indexes and constraints. What the topics hold up to `ends` is not
        applied. Raises RefusedError where tables hold rows, do not fit, or are filled by another pipeline.
        """
        with self._replica.begin():
            captured = origin.captured
            catalog.refuse_shared(self._connection, self._settings.pipeline, captured)
            for table in captured.values():
                self._fit(table, "Make it fit, or drop it here: it is made as it is on the source.")
            self._refuse_filled(captured)
            statements = self._lay_aside(captured)
            for one in carried:
                statements.setdefault(one.table, []).append(replace(one, wanted=False))
            self._forget(origin, ends)
            rows = [self._row(id_, origin, statements.get(id_, [])) for id_ in captured]
            self._replica.execute(sa.insert(bootstrap), rows)

    def go_on(self, origin: Origin, unfinished: Mapping[TableId, State]) -> None:
        """Empty the tables whose rows were not all there; they are filled from a later snapshot. One transaction.

        They follow what became of them on the source, if that can be: else RefusedError.
        """
        with self._replica.begin():
            for id_, state in unfinished.items():
                table = origin.captured.get(id_)
                if table is None:
                    raise RefusedError(f"The table {id_} is not captured on the source any more.", remedy=ANEW)
                self._empty(id_)
                keys = [one for one in state.statements if one.kind == "p"]
                for one in keys:
                    made(self._connection, one)
                self._fit(table, remedy=ANEW)
                for one in keys:
                    definitions.drop(self._connection, one)
                changed = {"lsn": origin.lsn, "snapshot": origin.snapshot, "rows": 0}
                self._replica.execute(sa.update(bootstrap).where(*self._is(id_)).values(changed))
            catalog.store(self._replica, self._settings.pipeline, {id_: owed(origin, id_) for id_ in unfinished})

    def give_up(self, states: Mapping[TableId, State]) -> None:
        """Empty the tables of a load, give them back what they were without, and forget it. One transaction."""
        with self._replica.begin():
            for id_ in states:
                if describe_table(self._connection, id_) is not None:
                    self._empty(id_)
            every = [one for state in states.values() for one in state.statements if one.wanted]
            for one in sorted(every, key=lambda one: one.is_foreign):
                if describe_table(self._connection, one.table) and not definitions.is_there(self._connection, one):
                    definitions.make(self._connection, one)
            self._replica.execute(sa.delete(bootstrap).where(bootstrap.c.pipeline == self._settings.pipeline))

    def relate(self, states: Mapping[TableId, State]) -> list[str]:
        """Make the foreign keys; returns which could not be made, and why."""
        every = [one for state in states.values() for one in state.statements if one.is_foreign]
        with self._replica.begin():
            return [why for one in every if (why := made(self._connection, one))]

    def complete(self, tables: Collection[TableId]) -> None:
        """No rows of these tables are owed any more; what was written before is safe by then."""
        with self._replica.begin():
            self._replica.execute(sa.text("SET LOCAL synchronous_commit = on"))
            for id_ in tables:
                catalog.complete(self._replica, self._settings.pipeline, id_)

    def end(self) -> None:
        """Forget the load: it is over."""
        with self._replica.begin():
            self._replica.execute(sa.delete(bootstrap).where(bootstrap.c.pipeline == self._settings.pipeline))

    def log_ids(self) -> dict[TableId, int]:
        """The newest entry of the schema log about each captured table."""
        with self._replica.begin():
            known = catalog.load(self._replica, self._settings.pipeline)
        return {id_: table.log_id for id_, table in known.items() if table.captured}

    def _fit(self, table: Table, remedy: str) -> None:
        """Make the table, or add what it lacks. Raises RefusedError where it cannot take the rows."""
        try:
            with self._connection.transaction():
                why = evolve.fit(self._connection, table) or self._unlike(table)
        except psycopg.errors.InsufficientPrivilege as error:
            why = describe(error)
        if why is not None:
            raise RefusedError(
                f"The replica's table {table.id} does not fit the source's: {why}.",
                remedy=remedy,
            )

    def _unlike(self, table: Table) -> str | None:
        """Why the replica's table cannot take the rows."""
        error = misfit(table, describe_table(self._connection, table.id) or table)
        return None if error is None else error.what.removesuffix(".")

    def _refuse_filled(self, tables: Iterable[TableId]) -> None:
        query = "SELECT FROM {} LIMIT 1"
        filled = [
            id_
            for id_ in sorted(tables)
            if self._connection.execute(sql.SQL(query).format(sql.Identifier(*id_))).fetchone() is not None
        ]
        if filled:
            raise RefusedError(
                f"Tables of the replica hold rows already: {', '.join(map(str, filled))}.",
                remedy=f"If they are not needed: TRUNCATE {', '.join(id_.sql for id_ in filled)}; Else leave "
                "bootstrap alone: deltasync resync puts their rows right.",
            )

    def _lay_aside(self, tables: Collection[TableId]) -> dict[TableId, list[Definition]]:
        """Drop keys and indexes, which are built faster behind the rows, and remember them.

        Where the role may not, since the table is somebody else's, or something depends on them, they stay.
        """
        every = [one for one in definitions.found(self._connection, tables) if one.kind != "c"]
        aside: dict[TableId, list[Definition]] = {}
        for one in sorted(every, key=lambda one: not one.is_foreign):
            try:
                with self._connection.transaction():
                    definitions.drop(self._connection, one)
            except _NOT_HERE:
                continue
            aside.setdefault(one.table, []).append(one)
        return aside

    def _forget(self, origin: Origin, ends: Mapping[Partition, Log]) -> None:
        """Another stream begins: whatever was known of one before is void."""
        pipeline = self._settings.pipeline
        by_hand.begin(
            self._replica,
            pipeline,
            {p: Claim(log.topic_id, Progress(log.end_offset)) for p, log in ends.items()},
            REASON,
        )
        dead_letters.end(self._replica, dead_letter.c.pipeline == pipeline, Outcome.VOID, REASON)
        for table in (source_canary, source_table):
            self._replica.execute(sa.delete(table).where(table.c.pipeline == pipeline))
        catalog.store(self._replica, pipeline, {id_: owed(origin, id_) for id_ in origin.tables})

    def _empty(self, id_: TableId) -> None:
        name = sql.Identifier(*id_)
        try:
            with self._connection.transaction():
                self._connection.execute(sql.SQL("TRUNCATE {}").format(name))
        except psycopg.errors.FeatureNotSupported:  # a foreign key of somebody else's references it
            self._connection.execute(sql.SQL("DELETE FROM {}").format(name))

    def _is(self, id_: TableId) -> tuple[sa.ColumnElement[bool], ...]:
        c = bootstrap.c
        return c.pipeline == self._settings.pipeline, c.schema_name == id_.schema, c.table_name == id_.name

    def _row(self, id_: TableId, origin: Origin, statements: Sequence[Definition]) -> dict[str, object]:
        return {
            "pipeline": self._settings.pipeline,
            "schema_name": id_.schema,
            "table_name": id_.name,
            "state": LOADING,
            "slot_lsn": origin.lsn,
            "lsn": origin.lsn,
            "snapshot": origin.snapshot,
            "statements": msgspec.to_builtins(statements),
        }


@contextmanager
def opened(settings: Settings) -> Iterator[Target]:
    """The replica, for one load at a time. Raises RefusedError while another one is under way."""
    with closing(open_replica(settings, name="bootstrap")) as replica:
        taken = sa.select(sa.func.pg_try_advisory_lock(_LOCK, sa.func.hashtext(settings.pipeline)))
        with replica.begin():
            if not replica.execute(taken).scalar_one():
                raise RefusedError(
                    f"Another deltasync bootstrap of the pipeline {settings.pipeline} runs.", remedy="Wait for its end."
                )
        yield Target(replica, settings)


@contextmanager
def filling(settings: Settings) -> Iterator[psycopg.Connection]:
    """A session that writes rows as the applier does, and builds indexes."""
    with closing(connect(settings.replica.conninfo() or "", name="bootstrap", session=_SESSION)) as replica:
        if replica.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
            replica.execute("SET transaction_timeout = 0")
            replica.commit()
        if settings.replica.constraints == "replica-role":
            take_replica_role(replica)
        yield replica


def mark(replica: psycopg.Connection, pipeline: str, id_: TableId, state: str, rows: int) -> None:
    """Write down how far a table is."""
    query = """UPDATE deltasync.bootstrap SET state = %s, rows = %s
                WHERE (pipeline, schema_name, table_name) = (%s, %s, %s)"""
    replica.execute(query, [state, rows, pipeline, *id_])


def made(replica: psycopg.Connection, one: Definition) -> str | None:
    """Make an index or a constraint that is not there; why the replica cannot have it, in words. A key it must."""
    if definitions.is_there(replica, one):
        return None
    try:
        with replica.transaction():
            definitions.make(replica, one)
    except _NOT_HERE as error:
        if one.kind == "p":
            raise
        return f"{one.name} of {one.table} is not made on the replica: {describe(error)}"
    return None


def owed(origin: Origin, id_: TableId) -> SourceTable:
    """What is known of a table whose rows are still to come."""
    table = origin.tables[id_]
    return table._replace(complete=not table.captured)
