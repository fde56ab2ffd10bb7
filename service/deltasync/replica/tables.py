"""The tables that deltasync keeps in the replica: schema `deltasync`, one set for all pipelines."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from deltasync.table import Column as Described
from deltasync.table import Table as Description
from deltasync.table import TypeName

SCHEMA = "deltasync"
# Raised with every change of the tables below; `replica setup` migrates, `run` refuses a newer one.
VERSION = 5
# What leads from the version before to this one; new tables need no statement.
MIGRATIONS = {
    2: (
        "ALTER TABLE deltasync.ledger ADD COLUMN tied bytea[] NOT NULL DEFAULT '{}'",
        "ALTER TABLE deltasync.ledger ADD COLUMN floor_seq0 bigint, ADD COLUMN floor_committed_at timestamptz",
    ),
    3: (
        "ALTER TABLE deltasync.source_table ADD COLUMN pending jsonb NOT NULL DEFAULT '[]'",
        "ALTER TABLE deltasync.source_table ADD COLUMN missing varchar",
        "ALTER TABLE deltasync.source_canary ADD COLUMN refused varchar, ADD COLUMN doubt varchar",
    ),
    4: (
        "ALTER TABLE deltasync.source_table ADD COLUMN gone_lsn bigint",
        "ALTER TABLE deltasync.source_table ADD COLUMN gone_at_us bigint NOT NULL DEFAULT 0",
        "ALTER TABLE deltasync.source_canary ADD COLUMN settled_xid bigint",
    ),
    5: (),
}

metadata = MetaData(schema=SCHEMA)
_now = func.clock_timestamp()

version = Table(
    "version",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("version", Integer, nullable=False),
    Column("migrated_at", DateTime(timezone=True), nullable=False, server_default=_now),
)

# One row per partition: how far it has been applied, written in the transaction of its rows.
ledger = Table(
    "ledger",
    metadata,
    Column("pipeline", String, primary_key=True),
    Column("topic", String, primary_key=True),
    Column("topic_id", String, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
    Column("seq0", BigInteger),
    Column("seq1", BigInteger),
    Column("source_committed_at", DateTime(timezone=True)),
    Column("skipped", BigInteger, nullable=False, server_default="0"),
    Column("system_identifier", String),
    Column("timeline", Integer),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("tied", ARRAY(LargeBinary), nullable=False, server_default="{}"),
    Column("floor_seq0", BigInteger),
    Column("floor_committed_at", DateTime(timezone=True)),
)

# Who moved the ledger by hand, and why.
ledger_audit = Table(
    "ledger_audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("by", String, nullable=False, server_default=text("session_user")),
    Column("pipeline", String, nullable=False),
    Column("topic", String, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("old_next_offset", BigInteger),
    Column("new_next_offset", BigInteger, nullable=False),
    Column("reason", String, nullable=False),
)

# Records that are set aside: one that could not be applied has an `error`, others wait behind it for their key's sake.
dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("parked_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("pipeline", String, nullable=False),
    Column("topic", String, nullable=False),
    Column("topic_id", String, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("schema_name", String, nullable=False),
    Column("table_name", String, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("old_key", LargeBinary),
    Column("committed_at", DateTime(timezone=True), nullable=False),
    Column("error", String),
    Column("record_key", LargeBinary),
    Column("record_value", LargeBinary),
    Column("record_headers", JSONB, nullable=False),
    Column("moves", Boolean, nullable=False),
    Column("raw_text", Boolean, nullable=False),
    UniqueConstraint("pipeline", "topic", "topic_id", "partition", "offset"),
)

# What became of them, and why; of those that were given up, the record itself.
dead_letter_audit = Table(
    "dead_letter_audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("by", String, nullable=False, server_default=text("session_user")),
    Column("outcome", String, nullable=False),
    Column("reason", String),
    Column("pipeline", String, nullable=False),
    Column("topic", String, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("schema_name", String, nullable=False),
    Column("table_name", String, nullable=False),
    Column("error", String),
    Column("record_key", LargeBinary),
    Column("record_value", LargeBinary),
)

# Who approved which change of a table, and why.
schema_audit = Table(
    "schema_audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("by", String, nullable=False, server_default=text("session_user")),
    Column("pipeline", String, nullable=False),
    Column("schema_name", String, nullable=False),
    Column("table_name", String, nullable=False),
    Column("log_id", BigInteger, nullable=False),
    Column("sql", String, nullable=False),
    Column("reason", String, nullable=False),
)

# Each table's description and what became of it since, folded from the source's schema_log; `missing`: which beats of
# the canary never came, so that rows of it may not have come either (see `canary`).
source_table = Table(
    "source_table",
    metadata,
    Column("pipeline", String, primary_key=True),
    Column("schema_name", String, primary_key=True),
    Column("table_name", String, primary_key=True),
    Column("log_id", BigInteger, nullable=False),
    Column("captured", Boolean, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("dropped", Boolean, nullable=False, server_default=text("false")),
    Column("reason", String),
    Column("held", String),
    Column("description", JSONB),
    Column("missing", String),
    Column("pending", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("gone_lsn", BigInteger),
    Column("gone_at_us", BigInteger, nullable=False, server_default=text("0")),
)

# The newest canary: what the source's heartbeat saw of itself, and when that became visible here. `refused`: why
# nothing of this source is applied; `doubt`: what an operator has to know of it. Both stay until they are accepted.
source_canary = Table(
    "source_canary",
    metadata,
    Column("pipeline", String, primary_key=True),
    Column("beat", BigInteger, nullable=False),
    Column("beat_at", DateTime(timezone=True), nullable=False),
    Column("publication_digest", String, nullable=False),
    Column("publication_tables", Integer, nullable=False),
    Column("slot_wal_status", String),
    Column("system_identifier", String, nullable=False),
    Column("timeline", Integer, nullable=False),
    Column("settled_xid", BigInteger),
    Column("refused", String),
    Column("doubt", String),
)


# The tables of an initial load that is under way, and how far each is: `loading`, `loaded` (its rows are there), or
# `done`. `slot_lsn` is where the slot begins in the source's log. `snapshot` is that of the source in which the rows
# are read, and `lsn` its place in the log; behind an interruption it is a later one than the slot's. `statements`: what
# is made behind the rows.
bootstrap = Table(
    "bootstrap",
    metadata,
    Column("pipeline", String, primary_key=True),
    Column("schema_name", String, primary_key=True),
    Column("table_name", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("slot_lsn", BigInteger, nullable=False),
    Column("lsn", BigInteger, nullable=False),
    Column("snapshot", String, nullable=False),
    Column("statements", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("rows", BigInteger, nullable=False, server_default=text("0")),
)


def _described(name: str, sql_type: str, type_name: str, *, not_null: bool = True) -> Described:
    return Described(name, sql_type, TypeName("pg_catalog", type_name), not_null=not_null)


# The source's control tables are decoded by these: they are known before any schema_log is read.
CANARY = Description(
    SCHEMA,
    source_canary.name,
    (
        _described("pipeline", "text", "text"),
        _described("beat", "bigint", "int8"),
        _described("beat_at", "timestamp with time zone", "timestamptz"),
        _described("publication_digest", "text", "text"),
        _described("publication_tables", "integer", "int4"),
        _described("slot_wal_status", "text", "text", not_null=False),
        _described("system_identifier", "text", "text"),
        _described("timeline", "integer", "int4"),
        _described("settled_xid", "bigint", "int8", not_null=False),
    ),
    ("pipeline",),
)
