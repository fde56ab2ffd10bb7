"""Every type through real Debezium: initial snapshot, stream, large values that do not travel, keys."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import sql
from tests.acceptance import types_matrix, types_tables
from tests.acceptance.topics import Topics
from tests.flow import Flow, until

from deltasync.debezium.rows import Rows
from deltasync.plan import TablePlan
from deltasync.postgres.catalog import describe_table
from deltasync.postgres.connect import connect
from deltasync.postgres.types import unsupported
from deltasync.replica import writer
from deltasync.replica.writer import Writer
from deltasync.source.setup import setup as source_setup
from deltasync.table import Table, TableId

DOCUMENT = Path(__file__).parents[2] / "docs" / "TYPES.md"
_DEADLINE_S = 120.0
_NEEDS = ("", "full", "raw")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("raw_text", [False, True])
def test_every_type_travels_exactly(flow: Flow, monkeypatch: pytest.MonkeyPatch, *, raw_text: bool) -> None:
    """The text of every value is the same on both sides, after the snapshot and after each kind of change."""
    flow.use_converter(raw_text)
    made = types_tables.tables(raw_text=raw_text)
    flow.source.execute("; ".join(f"CREATE EXTENSION {name}" for name in types_matrix.EXTENSIONS))
    flow.set_up(types_matrix.TYPES + "".join(table.create for table in made))
    flow.start_worker()
    _same(flow, made)

    for step in range(max(len(table.changes) for table in made)):
        for table in made:
            for change in table.changes[step : step + 1]:
                flow.source.execute(change)
    flow.cli("wait", "--timeout", "80")
    _same(flow, made)
    _copied_alike(flow, made, monkeypatch)


def _same(flow: Flow, made: Sequence[types_tables.Made]) -> None:
    """Wait, then compare column by column, so that a failure names types and values."""
    try:
        until(lambda: flow.equal(*(table.name for table in made)), "equal", _DEADLINE_S)
    except AssertionError:
        different = [f"{table.name} {what}" for table in made for what in _different(flow, table)]
        said = [line for line in flow.workers[-1].log.read_text().splitlines() if '"level":"info"' not in line]
        raise AssertionError("\n".join([*different, *(line[:500] for line in said[-40:])])) from None


def _different(flow: Flow, made: types_tables.Made) -> list[str]:
    found = []
    query = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
    columns = [name for (name,) in flow.source.execute(query, [made.name])]
    for column in columns:
        query = f"SELECT ROW({columns[0]}, left({column}::text, 200))::text FROM {made.name}"
        try:
            source, replica = ({row for (row,) in side.execute(query)} for side in (flow.source, flow.replica))
        except psycopg.Error as error:
            found.append(f"{column}: {error}")
            continue
        if source != replica:
            kind = made.kinds[int(column[1:])].type if column[1:].isdigit() else column
            missing, surplus = sorted(source - replica)[:3], sorted(replica - source)[:3]
            found.append(f"{column} {kind}: missing {missing}, surplus {surplus}")
    return found


def _copied_alike(flow: Flow, made: Sequence[types_tables.Made], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write all rows anew by COPY, as many rows at once are: it reads their text as `unnest` did."""
    monkeypatch.setattr(writer, "UNNEST_ROWS_MAX", 0)
    with connect(flow.settings.replica.conninfo() or "", name="test") as connection:
        rewriting = Writer(connection)
        for one in made:
            table = _described(connection, one.name)
            names = tuple(column.name for column in table.stored_columns)
            plan = TablePlan(table, True, None, [Rows(names, _texts(connection, table))], [], [])  # noqa: FBT003
            rewriting.write([plan])
        connection.commit()
    different = [f"{one.name} {what}" for one in made for what in _different(flow, one)]
    assert not different, "\n".join(different)


def _described(connection: psycopg.Connection[Any], name: str) -> Table:
    table = describe_table(connection, TableId(*name.split(".")))
    assert table is not None
    return table


def _texts(connection: psycopg.Connection[Any], table: Table) -> list[list[str | None]]:
    """Column by column, each value in the text that its type prints."""
    names = [sql.Identifier(column.name) for column in table.stored_columns]
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(names), sql.Identifier(*table.id))
    found = connection.execute(query).pgresult
    assert found is not None
    raw = [[found.get_value(row, column) for row in range(found.ntuples)] for column in range(found.nfields)]
    return [[None if value is None else value.decode() for value in column] for column in raw]


SWITCHED = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.tagged (id int PRIMARY KEY, n int, numbers int[], tags text[]);
    ALTER TABLE shop.tagged ALTER tags SET STORAGE EXTERNAL;
    CREATE TABLE shop.keyed (id int[] PRIMARY KEY, v text);
    CREATE TABLE shop.late (id int PRIMARY KEY, v text);
    INSERT INTO shop.tagged SELECT n, n, ARRAY[n, NULL], array_agg(md5(i::text))
      FROM generate_series(1, 5) n, generate_series(1, 500) i GROUP BY n;
    INSERT INTO shop.keyed VALUES ('{1}', 'a'), ('{2,NULL}', 'b'); INSERT INTO shop.late VALUES (1, 'a');
"""
_EVERY_WAY = """
    UPDATE shop.tagged SET n = n + 10; UPDATE shop.tagged SET id = id + 10 WHERE id % 10 = {0};
    UPDATE shop.tagged SET numbers = '{{9,8}}', tags = NULL WHERE id % 10 = {1};
    DELETE FROM shop.keyed WHERE id = '{{{0}}}';
    INSERT INTO shop.keyed VALUES ('{{{0},{1}}}', 'c'); UPDATE shop.keyed SET id = id || 7 WHERE v = 'b';
"""


@pytest.mark.timeout(300)
def test_the_converter_is_switched_on_while_records_from_before_wait(flow: Flow) -> None:
    """What lies in the topics then is told exactly from stock Debezium's form, or stops; what comes, by the new one."""
    captured = ("shop.tagged", "shop.keyed", "shop.late")
    flow.set_up(SWITCHED)
    worker = flow.start_worker()
    flow.wait_equal(*captured)
    worker.stop()
    flow.source.execute(_EVERY_WAY.format(1, 2))
    flow.source.execute("ALTER TABLE shop.late ADD COLUMN mask varbit; UPDATE shop.late SET mask = '0001'")
    topics = Topics(flow)
    until(lambda: topics.ends("shop.keyed")[0] == 6 and topics.ends("shop.late")[0] == 2, "captured in the old form")

    flow.use_converter(True)  # noqa: FBT003 - what it sets
    source_setup(flow.settings)
    first = flow.streaming()
    flow.start_connector()
    until(lambda: flow.streaming() not in (None, first), "it streams on")
    flow.source.execute(_EVERY_WAY.format(3, 4))
    until(lambda: topics.ends("shop.keyed")[0] >= 9, "captured in the new form")
    headed = ["deltasync.table" in dict(record.headers) for record in topics.read("shop.keyed")]
    assert (any(headed[:6]), headed[-1]) == (False, True)
    stock = flow.start_worker(DELTASYNC_CONNECT_RAW_TEXT="false", DELTASYNC_KAFKA_GROUP="a worker that was forgotten")
    until(lambda: stock.said("set DELTASYNC_CONNECT_RAW_TEXT=true"), "the one without the setting stops")
    stock.stop()
    worker = flow.start_worker()
    flow.wait_equal("shop.tagged", "shop.keyed")

    flow.source.execute("UPDATE shop.tagged SET numbers = '[0:1]={1,2}', tags = '{{a,NULL},{b,c}}' WHERE id % 2 = 0")
    flow.wait_equal("shop.tagged")
    # Which bits these were, nobody can tell: 0001 and 01 are alike in stock Debezium's form.
    until(lambda: worker.said("from before Connect had the raw-text converter, and the column mask"), "it stops")
    flow.source.execute("UPDATE shop.late SET v = v")
    flow.cli("ledger", "set", f"{flow.settings.topic_prefix}.shop.late", "0", "2", "--reason", "sent again")
    flow.wait_equal("shop.late")


ODD = r"""
    CREATE SCHEMA shop;
    CREATE TABLE shop."Tab.le 100%% o'f ü 😀, a;b" (
      "I%d" int PRIMARY KEY, "a.b" text, "c ""d"" e" text, "ünï 😀" text, "order" int, "$1" int, "%s" int,
      "back\slash" int, "x-y" int DEFAULT 7, "0num" int, "a'b" text);
    CREATE TABLE shop."select" ("table" int, "where" text, PRIMARY KEY ("where", "table"));
    CREATE TABLE shop."{long}" ("{long}" int PRIMARY KEY, v int);
    CREATE TABLE shop."Case" (id int PRIMARY KEY, v text);
    CREATE TABLE shop."lower" (id int PRIMARY KEY, a int,
      stored int GENERATED ALWAYS AS (a * 2) STORED, virtual text GENERATED ALWAYS AS (upper(a::text)) VIRTUAL);
    CREATE TABLE shop.numbered (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, s serial, v int);
    CREATE TABLE shop.wide (id int PRIMARY KEY, {columns});
""".format(long="n" * 63, columns=", ".join(f"c{number} int" for number in range(1599)))
ODD_TABLES = (
    'shop."Tab.le 100%% o\'f ü 😀, a;b"', 'shop."select"', f'shop."{"n" * 63}"', 'shop."Case"', 'shop."lower"',
    "shop.numbered", "shop.wide",
)  # fmt: skip


def test_names_and_widths(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any name, 1,600 columns, and values that the replica computes or numbers itself."""
    odd, select, long, case, lower, numbered, wide = ODD_TABLES
    flow.set_up(
        ODD
        + f"""
        INSERT INTO {odd} VALUES (1, 'a', 'b', 'c', 1, 2, 3, 4); INSERT INTO {select} VALUES (1, 'x');
        INSERT INTO {long} VALUES (1); INSERT INTO {case} VALUES (1, 'A'); INSERT INTO {lower} VALUES (1, 1);
        INSERT INTO {numbered} (v) VALUES (1); INSERT INTO {wide} VALUES (1, 1);
        """
    )
    flow.start_worker()
    flow.wait_equal(*ODD_TABLES)

    flow.source.execute(f"""
        UPDATE {odd} SET "%s" = 9, "a.b" = NULL, "I%d" = 2; UPDATE {select} SET "table" = 2;
        UPDATE {long} SET v = 2; UPDATE {case} SET v = NULL; UPDATE {lower} SET a = NULL;
        INSERT INTO {lower} VALUES (2, 5); INSERT INTO {numbered} (v) VALUES (2); UPDATE {numbered} SET v = 3;
        UPDATE {wide} SET c1598 = -1, c0 = NULL; INSERT INTO {wide} SELECT 2, n FROM generate_series(1, 1) n;
        DELETE FROM {case} WHERE v = 'B'; TRUNCATE {long}; INSERT INTO {long} VALUES (5, 5);
    """)
    flow.wait_equal(*ODD_TABLES)
    monkeypatch.setattr(writer, "UNNEST_ROWS_MAX", 0)
    with connect(flow.settings.replica.conninfo() or "", name="test") as connection:
        table = _described(connection, wide)
        names = tuple(column.name for column in table.stored_columns)
        rows = Rows(names, [[str(row) for row in range(700)] for _ in names])
        assert Writer(connection).write([TablePlan(table, True, None, [rows], [], [])]) == 700  # noqa: FBT003


def test_what_is_documented_is_what_travels(flow: Flow) -> None:
    """docs/TYPES.md says of each type what set-up says, and of what is carried the run above is the proof."""
    flow.source.execute("; ".join(f"CREATE EXTENSION {name}" for name in types_matrix.EXTENSIONS))
    columns = ", ".join(f"c{number} {kind.type}" for number, kind in enumerate(types_matrix.KINDS))
    flow.source.execute(f"{types_matrix.TYPES} CREATE TABLE shop.every (id int PRIMARY KEY, {columns})")
    with connect(flow.pipeline.source_admin, name="test") as connection:
        table = _described(connection, "shop.every")
    found: dict[str, str] = {}
    for kind, column in zip(types_matrix.KINDS, table.stored_columns[1:], strict=True):
        one = msgspec.structs.replace(table, columns=(table.columns[0], column), types=())
        full = msgspec.structs.replace(one, replica_identity="f")
        assert not unsupported(one, raw_text=True), kind.type
        refused = [bool(unsupported(shape, raw_text=False)) for shape in (one, full)]
        found[kind.type] = "raw" if refused[1] else "full" if refused[0] else ""
    least = {type_: min((k.needs for k in types_matrix.KINDS if k.type == type_), key=_NEEDS.index) for type_ in found}
    assert found == least, "the matrix proves less, or other, than set-up lets through"

    written = types_tables.document(found)
    if os.environ.get("DELTASYNC_TEST_WRITE_TYPES"):
        DOCUMENT.write_text(written, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == written, "make types writes it anew"
