"""A source with a shop in it, and what tests ask of it: the log, the publication, what a slot holds."""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg import Connection

from deltasync.settings import Settings
from deltasync.source.setup import Report, setup

SHOP = """
    CREATE SCHEMA shop;
    CREATE TYPE shop.status AS ENUM ('new', 'paid');
    CREATE TABLE shop.customer (
      id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      name varchar(40) NOT NULL DEFAULT 'x',
      status shop.status,
      tags text[],
      lower_name text GENERATED ALWAYS AS (lower(name)) STORED
    );
    INSERT INTO shop.customer (name) VALUES ('first');
    CREATE TABLE shop."Order Line" (order_id bigint, line int, price numeric(12,2), PRIMARY KEY (line, order_id));
    CREATE TABLE shop.keyless (a int);
    CREATE UNLOGGED TABLE shop.cache (id int PRIMARY KEY);
    CREATE TABLE shop.visit (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE shop.visit_2020 PARTITION OF shop.visit FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
"""


# event, captured, complete, reason
Entry = tuple[str, bool | None, bool | None, str | None]


class Source(NamedTuple):
    """A source with the shop in it: an administrator's connection, and the settings for `setup`."""

    admin: Connection[Any]
    settings: Settings

    def setup(self, **changes: object) -> Report:
        section = self.settings.source.model_copy(update=changes)
        return setup(self.settings.model_copy(update={"source": section}))

    def make_slot(self) -> None:
        """What the connector does when it starts: from now on a joining table's rows are owed."""
        self.admin.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [self.settings.slot])

    def log(self, name: str) -> list[Entry]:
        query = "SELECT event, captured, complete, reason FROM deltasync.schema_log WHERE table_name = %s ORDER BY id"
        return self.admin.execute(query, [name]).fetchall()

    def newest(self, name: str) -> Entry:
        return self.log(name)[-1]

    def published(self) -> set[str]:
        query = "SELECT tablename FROM pg_publication_tables WHERE pubname = %s AND schemaname <> 'deltasync'"
        return {name for (name,) in self.admin.execute(query, [self.settings.publication])}

    def decoded(self) -> list[tuple[str, str]]:
        """(operation, table) of every row change that the slot holds, as pgoutput sends them."""
        query = """SELECT data FROM pg_logical_slot_peek_binary_changes(
                     %s, NULL, NULL, 'proto_version', '1', 'publication_names', %s)"""
        names: dict[bytes, str] = {}
        changes = []
        for (data,) in self.admin.execute(query, [self.settings.slot, self.settings.publication]):
            kind, relation = chr(data[0]), bytes(data[1:5])
            if kind == "R":
                schema, name = bytes(data[5:]).split(b"\0")[:2]
                names[relation] = f"{schema.decode()}.{name.decode()}"
            elif kind in "IUD":
                changes.append((kind, names[relation]))
        return changes
