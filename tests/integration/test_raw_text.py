"""The jar of connectors/raw-text in a real Connect: PostgreSQL's own text in the topic, the table in a header."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, cast

import pytest
from confluent_kafka import Consumer, TopicPartition
from tests.flow import Flow, until

from deltasync.connect.apply import apply
from deltasync.connect.client import ConnectClient
from deltasync.connect.template import load
from deltasync.settings import Settings
from deltasync.source.setup import setup as source_setup
from deltasync.source.snapshot import template_variables

TYPES = """
CREATE EXTENSION vector SCHEMA public;
CREATE TYPE shop.mood AS ENUM ('sad', 'a,b');
CREATE DOMAIN shop.numbers AS int[];
CREATE DOMAIN shop.more_numbers AS shop.numbers;
CREATE DOMAIN shop.clock AS timetz;
CREATE DOMAIN shop.mask AS varbit;
CREATE DOMAIN shop.area AS polygon;
CREATE DOMAIN shop.short AS int2vector;
"""
# Each column's type, and what PostgreSQL makes a value of.
COLUMNS = {
    "two_d": ("int[]", "{{1,NULL},{3,4}}"),
    "bounds": ("int[]", "[-1:0][2:3]={{1,2},{3,4}}"),
    "texts": ("text[] NOT NULL DEFAULT '{}'", r'{a,"b,c",NULL,"NULL","q\"x\\y",""}'),
    "texts_2d": ("text[]", "{{a,b},{c,NULL}}"),
    "money": ("money[]", "{$1.50,NULL}"),
    "intervals": ("interval[]", '{"1 mon -1 days +00:00:01",infinity,NULL}'),
    "names": ("name[]", "{abc,NULL}"),
    "times": ("time[]", "{12:34:56.789012,24:00:00,NULL}"),
    "numerics": ("numeric[]", "{NaN,1.500,-Infinity,NULL}"),
    "instants": ("timestamptz[]", '{infinity,-infinity,"0044-03-15 12:00:00+00 BC",NULL}'),
    "moods": ("shop.mood[]", '{sad,NULL,"a,b"}'),
    "bytes": ("bytea[]", r'{"\\x00ff",NULL}'),
    "bits": ("bit(3)[]", "{001,NULL}"),
    "numbers": ("shop.numbers", "{{1,2},{3,NULL}}"),
    "more_numbers": ("shop.more_numbers", "[0:1]={1,2}"),
    "mask": ("varbit", "0001"),
    "mask_5": ("varbit(5) NOT NULL DEFAULT B'01'", "00001"),
    "mask_none": ("varbit", ""),
    "clock": ("timetz", "24:00:00-15:59:59"),
    "clock_3": ("timetz(3) NOT NULL DEFAULT '12:00:00+02'", "12:34:56.789+02"),
    "area": ("polygon", "((0.1,1e300),(NaN,-0),(0.1,1e300))"),
    "short": ("int2vector", ""),
    "oids": ("oidvector", "1 4294967295"),
    "vector": ("vector(3)", "[1,2.5,3]"),
    "half": ("halfvec(3)", "[1,2.5,3]"),
    "sparse": ("sparsevec(5)", "{1:1.5,4:2}/5"),
    "own_clock": ("shop.clock", "12:34:56.789+02"),
    "own_mask": ("shop.mask", "0001"),
    "own_area": ("shop.area", "((0,0),(1,1),(0,0))"),
    "own_short": ("shop.short", "1 2"),
    # For the header: bounded and unbounded, quoted and not of this script.
    "amount": ("numeric(12,2)", "1.50"),
    "any_amount": ("numeric", "1.50"),
    'odd "q\\\t ü': ("varchar(20) NOT NULL DEFAULT 'x'", "y"),
}
TAKEN = [name for name in COLUMNS if name not in {"amount", "any_amount"} and "odd" not in name]
POLYGONS = {"area", "own_area"}
LARGE = {
    "numerics": ("numeric[] NOT NULL", "array_agg(i * 1.5)"),
    "bools": ("bool[]", "array_agg(i % 2 = 0)"),
    "texts": ("text[]", "array_agg(md5(i::text))"),
    "ints": ("int[]", "array_agg(i)"),
    "numbers": ("shop.numbers", "array_agg(i)"),
    "mask": ("varbit", "repeat('01', 20 * count(*)::int)::varbit"),
    "area": ("polygon", "('(' || string_agg(format('(%s,%s)', i, i), ',') || ')')::polygon"),
    "vector": ("vector", "array_agg(i)::vector"),
}


class Message(NamedTuple):
    """A record of a topic."""

    value: dict[str, Any]
    headers: dict[str, bytes]


class Capture(NamedTuple):
    """A source with its connector, and nobody who applies its changes."""

    flow: Flow
    settings: Settings

    def topic(self, table: str, at_least: int) -> list[Message]:
        """The records of a table's topic, once there are so many."""
        partition = TopicPartition(f"{self.settings.topic_prefix}.shop.{table}", 0, 0)
        options = {"bootstrap.servers": self.settings.kafka.bootstrap, "group.id": "t", "enable.auto.commit": False}
        consumer = Consumer(options)
        found: list[Message] = []

        def enough() -> bool:
            for message in consumer.consume(500, timeout=0.2):
                if not message.error():
                    headers = dict(cast("list[tuple[str, bytes]]", message.headers() or []))
                    found.append(Message(json.loads(message.value() or b""), headers))
            return len(found) >= at_least

        try:
            consumer.assign([partition])
            until(enough, f"{at_least} records of {table}")
        finally:
            consumer.close()
        return found


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def insert(flow: Flow, number: int) -> None:
    names = ", ".join(quoted(name) for name in COLUMNS)
    values = [text for _, text in COLUMNS.values()]
    flow.source.execute(
        f"INSERT INTO shop.thing (id, {names}) VALUES (%s{', %s' * len(values)})".encode(), [number, *values]
    )


@pytest.fixture
def capture(flow: Flow) -> Capture:
    """A row of each kind captured by the snapshot; published by hand, whatever deltasync says of the types."""
    connect = flow.settings.connect.model_copy(update={"raw_text": True})
    settings = flow.settings.model_copy(update={"connect": connect})
    columns = ", ".join(f"{quoted(name)} {kind}" for name, (kind, _) in COLUMNS.items())
    large = ", ".join(f"{name} {kind}" for name, (kind, _) in LARGE.items())
    external = ", ".join(f"ALTER {name} SET STORAGE EXTERNAL" for name in LARGE)
    flow.source.execute("CREATE SCHEMA shop")
    source_setup(settings)
    flow.source.execute(
        f"{TYPES} CREATE TABLE shop.thing (id int PRIMARY KEY, {columns});"
        f"CREATE TABLE shop.large (id int PRIMARY KEY, n int, {large}); ALTER TABLE shop.large {external};"
        f"CREATE TABLE shop.keyed (id int[] PRIMARY KEY, v text);"
        f"ALTER PUBLICATION {settings.publication} SET TABLE deltasync.schema_log, deltasync.canary,"
        f" shop.thing, shop.large, shop.keyed;"
        f"GRANT SELECT ON ALL TABLES IN SCHEMA shop TO {settings.pipeline}".encode()
    )
    insert(flow, 1)
    flow.source.execute(
        f"INSERT INTO shop.large SELECT 1, 1, {', '.join(made for _, made in LARGE.values())}"
        f" FROM generate_series(1, 2000) AS i".encode()
    )
    with ConnectClient(settings.connect.url or "") as client:
        apply(client, load([], template_variables(settings)))
    found = Capture(flow, settings)
    found.topic("large", 1)
    streams = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND active"
    until(lambda: flow.source.execute(streams, [settings.slot]).fetchone(), "the connector streams")
    return found


def numbers(polygon: str) -> list[float]:
    return [float(part) for part in re.findall(r"[^(),]+", polygon)]


def test_values_and_tables_arrive_as_postgresql_has_them(capture: Capture) -> None:
    flow = capture.flow
    insert(flow, 2)
    flow.source.execute("INSERT INTO shop.thing (id) VALUES (3); DELETE FROM shop.thing WHERE id = 1")
    snapshot, streamed, empty, deleted = capture.topic("thing", 4)
    assert [message.value["op"] for message in (snapshot, streamed, empty, deleted)] == ["r", "c", "c", "d"]
    selected = ", ".join(f"{quoted(name)}::text" for name in TAKEN)
    row = flow.source.execute(f"SELECT {selected} FROM shop.thing WHERE id = 2".encode()).fetchone()
    assert row is not None
    wanted = dict(zip(TAKEN, row, strict=True))
    for message in (snapshot, streamed):
        found = {name: message.value["after"][name] for name in TAKEN}
        for name in POLYGONS:
            assert [repr(n) for n in numbers(found[name])] == [repr(n) for n in numbers(wanted[name])]
        assert {n: v for n, v in found.items() if n not in POLYGONS} == {
            n: v for n, v in wanted.items() if n not in POLYGONS
        }
    assert (empty.value["after"]["mask"], empty.value["after"]["texts"]) == (None, "{}")
    assert deleted.value["before"]["texts"] is None  # it is NOT NULL, but did not travel

    (description,) = {message.headers["deltasync.table"] for message in (snapshot, streamed, empty, deleted)}
    assert list(snapshot.headers) == ["deltasync.table"]
    columns = {name: rest for name, *rest in json.loads(description)}
    assert list(columns) == ["id", *COLUMNS]
    assert columns["id"] == ["INT4", 10, 0, False]
    assert columns["amount"] == ["NUMERIC", 12, 2, True]
    assert columns["any_amount"] == ["NUMERIC", None, None, True]
    assert columns["texts"] == ["_TEXT", None, None, False]
    assert columns["more_numbers"][0] == "MORE_NUMBERS"
    assert columns['odd "q\\\t ü'] == ["VARCHAR", 20, 0, False]


def test_large_values_that_did_not_change_are_one_word(capture: Capture) -> None:
    """Debezium alone fails for numeric[], bool[] and polygon, and has other forms for the rest."""
    capture.flow.source.execute("UPDATE shop.large SET n = 2; UPDATE shop.large SET id = 2")
    _, update, deleted, created = capture.topic("large", 4)
    for message in (update, created):
        assert {message.value["after"][name] for name in LARGE} == {capture.settings.unavailable_value}
    assert (update.value["after"]["n"], created.value["after"]["id"]) == (2, 2)
    assert set(deleted.headers) == {"deltasync.table", "__debezium.newkey"}
    assert set(created.headers) == {"deltasync.table", "__debezium.oldkey"}


def test_the_header_changes_with_the_table_and_keys_are_text(capture: Capture) -> None:
    source = capture.flow.source
    source.execute("INSERT INTO shop.keyed VALUES ('{{1,2}}', 'a')")
    source.execute("ALTER TABLE shop.keyed ADD COLUMN price numeric(7,3) NOT NULL DEFAULT 1")
    source.execute("INSERT INTO shop.keyed VALUES ('[0:0]={1}', 'b'); TRUNCATE shop.keyed")
    first, second, truncated = capture.topic("keyed", 3)
    assert [first.value["after"]["id"], second.value["after"]["id"]] == ["{{1,2}}", "[0:0]={1}"]
    before, after = (json.loads(message.headers["deltasync.table"]) for message in (first, second))
    assert [*before, ["price", "NUMERIC", 7, 3, False]] == after
    assert truncated.headers["deltasync.table"] == second.headers["deltasync.table"]
