"""What `source setup` runs, as a list of statements made from settings and facts alone. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import LiteralString, NamedTuple

from psycopg import sql

from deltasync.postgres.catalog import describe_sql
from deltasync.postgres.types import CARRIED
from deltasync.table import TableId

VERSION = 5

# Each changes the text in which Debezium reads a value, when it is set otherwise on the server.
READER_SETTINGS: Mapping[str, str] = {
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "lc_monetary": "C",
}
Query = sql.SQL | sql.Composed

_OURS = sql.SQL("deltasync.canary, deltasync.schema_log, deltasync.signal")
# Two pipelines of a database share the table: of signals each has its own. The connectors' marks have names that nobody
# chose, and are nothing to a connector that did not make them.
_FILTERED = "deltasync.signal WHERE (split_part(id, ':', 1) = {} OR id ~ '-(open|close)$')"


class Reader(NamedTuple):
    """The role that Debezium and the service log in with. `verifier` is the hashed password, if it has one."""

    name: str
    verifier: str | None
    admin: bool  # it is the role that runs the set-up: nothing to create or to grant


class Pipeline(NamedTuple):
    """What one pipeline captures, from the settings."""

    name: str
    publication: str
    slot: str
    schemas: tuple[str, ...]
    exclude: tuple[TableId, ...]
    raw_text: bool = False  # whether Connect holds the raw-text converter
    skip: tuple[TableId, ...] = ()  # tables of which columns that cannot be carried are left alone
    keyless: bool = False  # whether tables without any key are captured
    failover: bool = False  # whether standbys are to keep copies of the slot


class Installed(NamedTuple):
    """What an earlier set-up left on the source; all empty on a database that has seen none."""

    version: int = 0
    role: bool = False
    role_settings: Mapping[str, str] = {}
    publication: bool = False
    published: tuple[str, ...] = ()  # of our own tables
    closed_database: str | None = None  # its name, where the role may not connect to it


class Statement(NamedTuple):
    """One step: `text` runs, `shown` is printed.

    `optional`: without the right to run it, the set-up goes on. `announces`: its rows are the report's tables.
    """

    text: Query
    shown: str
    optional: bool = False
    announces: bool = False


def statements(pipeline: Pipeline, reader: Reader, installed: Installed) -> list[Statement]:
    """Every statement of a set-up, in order, to be run in one transaction. All may be run again."""
    return [
        *_objects(installed),
        *([] if reader.admin else _role(reader, installed)),
        *_membership(pipeline, reader, installed),
        *_publication(pipeline, installed),
        _statement("SELECT * FROM deltasync.announce({})", pipeline.name)._replace(announces=True),
        _statement("SELECT deltasync.beat({}, {}, {})", pipeline.name, pipeline.publication, pipeline.slot),
        _shown(_file("event_triggers.sql"))._replace(optional=True),
    ]


def _objects(installed: Installed) -> Iterator[Statement]:
    for number in range(installed.version + 1, VERSION + 1):
        yield _shown(_file(f"schema-{number}.sql"))
    yield _statement(
        "INSERT INTO deltasync.source_version (version) VALUES ({})"
        " ON CONFLICT (one) DO UPDATE SET version = excluded.version",
        VERSION,
    )
    yield _shown(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION deltasync.describe(relation oid) RETURNS jsonb\n"
            "LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$\n"
            "SELECT d.description FROM (\n{}) AS d WHERE d.oid = relation\n$body$"
        ).format(describe_sql())
    )
    yield _shown(_file("functions.sql"))
    yield _statement("DELETE FROM deltasync.carried_type")
    rows = sql.SQL(", ").join(
        sql.SQL("({}, {}, {})").format(sql.Literal(name), sql.Literal(how.as_key), sql.Literal(how.needs.value))
        for name, how in sorted(CARRIED.items())
    )
    yield _shown(sql.SQL("INSERT INTO deltasync.carried_type (name, as_key, needs) VALUES {}").format(rows))


def _role(reader: Reader, installed: Installed) -> Iterator[Statement]:
    name = sql.Identifier(reader.name)
    if not installed.role:
        create = sql.SQL("CREATE ROLE {} LOGIN REPLICATION NOINHERIT").format(name)
        if reader.verifier is None:
            yield _shown(create)
        else:
            secret = sql.SQL("{} PASSWORD {}")
            yield Statement(
                secret.format(create, sql.Literal(reader.verifier)), secret.format(create, "***").as_string(None)
            )
    for key, value in READER_SETTINGS.items():
        if installed.role_settings.get(key.lower()) != value:
            yield _shown(sql.SQL("ALTER ROLE {} SET {} = {}").format(name, sql.Identifier(key), sql.Literal(value)))


def _membership(pipeline: Pipeline, reader: Reader, installed: Installed) -> Iterator[Statement]:
    if not reader.admin:
        name = sql.Identifier(reader.name)
        if installed.closed_database:
            grant = "GRANT CONNECT ON DATABASE {} TO {}"
            yield _shown(sql.SQL(grant).format(sql.Identifier(installed.closed_database), name))
        schemas = sql.SQL(", ").join(sql.Identifier(schema) for schema in (*pipeline.schemas, "deltasync"))
        yield _shown(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schemas, name))
        yield _shown(sql.SQL("GRANT SELECT ON {}, deltasync.source_version TO {}").format(_OURS, name))
        yield _shown(sql.SQL("GRANT INSERT ON deltasync.signal TO {}").format(name))
        yield _shown(sql.SQL("GRANT EXECUTE ON FUNCTION deltasync.beat(text, text, text) TO {}").format(name))
    yield _statement(
        "INSERT INTO deltasync.pipeline (pipeline, publication, slot, reader, raw_text, keyless)"
        " VALUES ({}, {}, {}, {}, {}, {})"
        " ON CONFLICT (pipeline) DO UPDATE SET publication = excluded.publication, slot = excluded.slot,"
        " reader = excluded.reader, raw_text = excluded.raw_text, keyless = excluded.keyless",
        pipeline.name,
        pipeline.publication,
        pipeline.slot,
        reader.name,
        pipeline.raw_text,
        pipeline.keyless,
    )
    yield _statement("DELETE FROM deltasync.captured_schema WHERE pipeline = {}", pipeline.name)
    for schema in pipeline.schemas:
        yield _statement("INSERT INTO deltasync.captured_schema VALUES ({}, {})", schema, pipeline.name)
    yield _statement("DELETE FROM deltasync.excluded_table WHERE pipeline = {}", pipeline.name)
    for table in pipeline.exclude:
        yield _statement("INSERT INTO deltasync.excluded_table VALUES ({}, {}, {})", *table, pipeline.name)
    yield _statement("DELETE FROM deltasync.skipping_table WHERE pipeline = {}", pipeline.name)
    for table in pipeline.skip:
        yield _statement("INSERT INTO deltasync.skipping_table VALUES ({}, {}, {})", *table, pipeline.name)


def _publication(pipeline: Pipeline, installed: Installed) -> Iterator[Statement]:
    name = sql.Identifier(pipeline.publication)
    ours: dict[str, Query] = {
        "canary": sql.SQL("deltasync.canary"),
        "schema_log": sql.SQL("deltasync.schema_log"),
        "signal": sql.SQL(_FILTERED).format(sql.Literal(pipeline.name)),
    }
    if not installed.publication:
        create = "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)"
        yield _shown(sql.SQL(create).format(name, sql.SQL(", ").join(ours.values())))
        return
    options = (
        "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)"
    )
    yield _shown(sql.SQL(options).format(name))
    for table, published in ours.items():
        if table not in installed.published:
            yield _shown(sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(name, published))


def _statement(text: LiteralString, *values: object) -> Statement:
    return _shown(sql.SQL(text).format(*(sql.Literal(value) for value in values)))


def _shown(text: Query) -> Statement:
    return Statement(text, text.as_string(None).strip())


def _file(name: str) -> sql.SQL:
    return sql.SQL(files("deltasync.source").joinpath("sql", name).read_text(encoding="utf-8"))
