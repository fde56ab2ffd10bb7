"""What is made once for a shape, and read by all runs: the source's database, topics, and the replica's databases."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg

from bench.capture import Form, connector
from bench.shapes import SCHEMA, Shape, mark
from bench.stage import TIMEOUT_S, WORKERS, Stage
from deltasync.errors import PartError
from deltasync.local.process import Process
from deltasync.local.stack import Applier, run_command

Tell = Callable[[str], None]
# What PostgreSQL's own replication subscribes to.
NATIVE = "native"
_FOLDER = "run"


class Prepared(msgspec.Struct, frozen=True):
    """The names of what a shape was made to; all begin with `database`, that of the source.

    On the replica `empty` has tables without rows, `base` holds the snapshot, and its ledger is behind it. `slot` is
    where the changes begin, and `end` the place in the source's log behind them. `rows` are those of the snapshot, by
    table. The topics in `forms` hold all: snapshot, changes, marks.
    """

    shape: str
    records: int
    database: str
    end: str
    rows: dict[str, int]
    forms: tuple[Form, ...]

    @property
    def empty(self) -> str:
        return f"{self.database}_empty"

    @property
    def base(self) -> str:
        return f"{self.database}_base"

    @property
    def slot(self) -> str:
        return f"{self.database}_changes"

    def prefix(self, form: Form) -> str:
        return f"{self.database}_{form}"


def known(folder: Path) -> list[Prepared]:
    """All that was prepared on the stage in this folder."""
    files = sorted((folder / _FOLDER).glob("prepared-*.json"))
    return [msgspec.json.decode(file.read_bytes(), type=Prepared) for file in files]


def prepare(
    stage: Stage, shape: Shape, tell: Tell, forms: Sequence[Form] = ("json", "schemas"), *, base: bool = True
) -> Prepared:
    """Fill the source, have Debezium capture all of it in these forms, and make the replica's databases.

    What the stage has already is taken. `base` needs the form json. Blocks for minutes; raises PartError.
    """
    for found in known(stage.folder):
        if (found.shape, found.records) == (shape.name, shape.records):
            return found
    prepared = _Preparing(stage, shape, tell, forms).run(base=base)
    file = stage.folder / _FOLDER / f"prepared-{prepared.database}.json"
    file.write_bytes(msgspec.json.encode(prepared))
    return prepared


class _Preparing:
    def __init__(self, stage: Stage, shape: Shape, tell: Tell, forms: Sequence[Form]) -> None:
        self._stage, self._shape, self._tell = stage, shape, tell
        self._names = Prepared(shape.name, shape.records, f"{shape.name}_{secrets.token_hex(3)}", "", {}, tuple(forms))
        self._source = stage.source(self._names.database)

    def run(self, *, base: bool) -> Prepared:
        try:
            return self._run(base=base)
        finally:  # else they would take part in what comes next
            for form in self._names.forms:
                self._stage.delete(self._names.prefix(form))
                self._stage.drop_slot(self._names.prefix(form))

    def _run(self, *, base: bool) -> Prepared:
        stage, shape, names = self._stage, self._shape, self._names
        self._fill()
        for form in names.forms:
            self._tell(f"{shape.name}: capturing {shape.rows:,} rows, {form}")
            config = connector(stage, names.database, names.prefix(form), form)
            stage.put(names.prefix(form), config)
            stage.wait_for_slot(names.prefix(form), "active AND confirmed_flush_lsn IS NOT NULL")
        if base:
            self._make_base()
        rows = self._rows()
        self._tell(f"{shape.name}: {shape.changes:,} changes")
        slot = f"SELECT pg_create_logical_replication_slot('{names.slot}', 'pgoutput')"
        stage.execute(self._source, slot, shape.change, *map(mark, shape.tables))
        end = self._end()
        for form in names.forms:
            self._tell(f"{shape.name}: capturing them, {form}")
            name = names.prefix(form)
            stage.wait_for_slot(name, f"confirmed_flush_lsn >= '{end}'", lambda name=name: stage.refuse_failed(name))  # type: ignore[misc]
        return msgspec.structs.replace(names, end=end, rows=rows)

    def _fill(self) -> None:
        stage, shape, names = self._stage, self._shape, self._names
        self._tell(f"{shape.name}: filling the source with {shape.rows:,} rows")
        stage.servers.source.create_database(names.database, schema=SCHEMA)
        native = f"CREATE PUBLICATION {NATIVE} FOR TABLES IN SCHEMA {SCHEMA}"
        stage.execute(self._source, shape.create, shape.fill, "ANALYZE", native)
        stage.servers.replica.create_database(names.empty)
        env = stage.env(names.database, names.empty)
        run_command(env, "source", "setup")
        run_command(env, "replica", "setup")

    def _make_base(self) -> None:
        """A copy of the empty database to which deltasync applies the snapshot."""
        stage, names = self._stage, self._names
        stage.execute(stage.servers.replica.dsn(), f"CREATE DATABASE {names.base} TEMPLATE {names.empty}")
        prefix = names.prefix("json")
        own = {"DELTASYNC_KAFKA_TOPIC_PREFIX": prefix, "DELTASYNC_SOURCE_SLOT": prefix}
        env = stage.env(names.database, names.base, **own)
        run_command(env, "replica", "setup")  # rights on a database do not come with its template
        self._tell(f"{self._shape.name}: applying them")
        with workers(stage, env):
            run_command(env, "wait", "--timeout", str(int(TIMEOUT_S)), timeout_s=TIMEOUT_S + 30)

    def _rows(self) -> dict[str, int]:
        with psycopg.connect(self._source) as source:
            counts = {
                table: source.execute(f"SELECT count(*) FROM {SCHEMA}.{table}".encode()).fetchone()
                for table in self._shape.tables
            }
        return {table: int(found[0]) for table, found in counts.items() if found}

    def _end(self) -> str:
        with psycopg.connect(self._source) as source:
            (end,) = source.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ("0/0",)
        return str(end)


@contextmanager
def workers(stage: Stage, *envs: Mapping[str, str]) -> Iterator[list[Process]]:
    """`deltasync run` with each of these settings, ended at the end. Raises PartError where one does not start.

    All are started at once, and the first that lives is waited for: none has begun by then.
    """
    appliers = [
        Applier(name, stage.folder, env["DELTASYNC_MONITOR_URL"]) for name, env in zip(WORKERS, envs, strict=False)
    ]
    processes = [applier.process for applier in appliers]
    try:
        for applier, env in zip(appliers, envs, strict=True):
            applier.start(env)
        processes[0].wait(lambda: any(applier.is_ready() for applier in appliers))
        yield processes
    finally:
        for process in processes:
            process.stop(signal.SIGTERM)


def refuse_ended(process: Process) -> None:
    """Raises PartError where a worker has ended."""
    if process.find() is None:
        raise PartError(f"deltasync has ended: {process.tail()}", remedy="")


def digest(dsn: str, shape: Shape) -> list[object]:
    """What tells the rows of all tables."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        query = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {}.{} AS t"
        return [connection.execute(query.format(SCHEMA, table).encode()).fetchone() for table in shape.tables]
