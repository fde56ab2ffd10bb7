"""The event triggers on the source: what DDL logs and publishes, and that it never fails because of them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from tests.integration.shop import Source

from deltasync.postgres.catalog import describe_tables
from deltasync.postgres.connect import connect
from deltasync.postgres.types import skipping, unsupported
from deltasync.source import position
from deltasync.table import Table

TYPES = """
    bool bytea date float4 float8 int2 int4 int8 json jsonb numeric text time timestamp timestamptz uuid varchar(9)
    char(9) name money interval timetz inet oid varbit xml point int4range tsvector shop.status shop.positive shop.pair
    text[] varchar(3)[] int4[] int8[] uuid[] int2[] numeric[] bool[] date[] jsonb[] shop.status[] shop.pair[] bit(3)[]
    bit(3) varbit(4) int4multirange jsonpath xid8 tid refcursor int2vector polygon path regclass pg_lsn shop.bits
    shop.list shop.list[] shop.span shop.spans shop.customer shop.nested citext citext[] shop.folded_pair shop.folding
    hstore hstore[] lo ltree cube seg isbn ean13 vector vector(3) vector(3)[] halfvec sparsevec shop.vec
"""
USER_TYPES = """
    CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION lo; CREATE EXTENSION ltree;
    CREATE EXTENSION cube; CREATE EXTENSION seg; CREATE EXTENSION isn; CREATE EXTENSION vector;
    CREATE DOMAIN shop.positive AS int CHECK (VALUE > 0); CREATE TYPE shop.pair AS (a int);
    CREATE DOMAIN shop.bits AS varbit(4); CREATE DOMAIN shop.list AS int[]; CREATE TYPE shop.span AS RANGE (
      subtype = float8, multirange_type_name = shop.spans); CREATE TYPE shop.nested AS (p shop.pair, l shop.list[]);
    CREATE TYPE shop.folded_pair AS (a citext); CREATE DOMAIN shop.folding AS citext;
    CREATE DOMAIN shop.vec AS vector(2);
"""


NO_KEY = "no primary key: add one, or set REPLICA IDENTITY FULL, or USING INDEX a unique index of NOT NULL columns"


def test_rows_of_the_transaction_that_creates_the_table_travel(source: Source) -> None:
    source.setup()
    source.make_slot()
    with source.admin.transaction():
        source.admin.execute("CREATE TABLE shop.fresh (id int PRIMARY KEY, t text)")
        source.admin.execute("INSERT INTO shop.fresh VALUES (1, 'a'), (2, 'b')")
        source.admin.execute("UPDATE shop.fresh SET t = 'c' WHERE id = 1")

    assert source.decoded() == [
        ("I", "deltasync.schema_log"),
        ("I", "shop.fresh"),
        ("I", "shop.fresh"),
        ("U", "shop.fresh"),
    ]
    assert source.newest("fresh") == ("ddl", True, True, None)


@pytest.mark.parametrize(
    ("name", "ddl"),
    [
        ("copied", "CREATE TABLE shop.copied AS SELECT 1 AS id; ALTER TABLE shop.copied ADD PRIMARY KEY (id)"),
        ("keyless", "INSERT INTO shop.keyless VALUES (1); ALTER TABLE shop.keyless ADD PRIMARY KEY (a)"),
        (
            "moved",
            """CREATE TABLE public.moved (id int PRIMARY KEY); INSERT INTO public.moved VALUES (1);
               ALTER TABLE public.moved SET SCHEMA shop""",
        ),
    ],
)
def test_a_table_that_joins_with_rows_is_incomplete(source: Source, name: str, ddl: str) -> None:
    source.setup()
    source.make_slot()
    source.admin.execute(ddl)

    assert source.newest(name) == ("ddl", True, False, None)
    source.admin.execute(f"ALTER TABLE shop.{name} ADD COLUMN more int")
    assert source.newest(name) == ("ddl", True, False, None)  # still owed


def test_before_the_slot_exists_no_rows_are_owed(source: Source) -> None:
    source.setup()
    source.admin.execute("INSERT INTO shop.keyless VALUES (1); ALTER TABLE shop.keyless ADD PRIMARY KEY (a)")

    assert source.newest("keyless") == ("ddl", True, True, None)


def test_renamed_moved_out_and_dropped_tables_are_logged_as_gone(source: Source) -> None:
    source.setup()
    source.make_slot()
    source.admin.execute("ALTER TABLE shop.customer RENAME TO client")
    assert source.newest("customer")[0] == "drop"
    former = "SELECT former_schema, former_table, complete FROM deltasync.schema_log WHERE table_name = 'client'"
    assert source.admin.execute(former).fetchall() == [("shop", "customer", True)]
    source.admin.execute("CREATE SCHEMA attic; ALTER TABLE shop.client SET SCHEMA attic")
    assert source.newest("client")[0] == "drop"
    source.admin.execute('DROP TABLE shop."Order Line"')
    assert source.newest("Order Line")[0] == "drop"
    assert source.published() == {"visit"}


def test_changes_of_columns_and_of_their_types_are_logged(source: Source) -> None:
    source.admin.execute("""
        CREATE TYPE shop.mood AS ENUM ('sad'); CREATE TYPE shop.pair AS (a shop.mood);
        CREATE DOMAIN shop.d AS shop.pair;
        CREATE TYPE shop.other AS (a int); CREATE TYPE shop.whole AS (d shop.d[]);
        ALTER TABLE shop.customer ADD COLUMN d shop.whole, ADD COLUMN other shop.other
    """)
    source.setup()

    def logged(ddl: str) -> dict[str, Any]:
        before = len(source.log("customer"))
        source.admin.execute(ddl)
        assert len(source.log("customer")) == before + 1, ddl
        query = "SELECT description FROM deltasync.schema_log WHERE table_name = 'customer' ORDER BY id DESC LIMIT 1"
        row = source.admin.execute(query).fetchone()
        assert row is not None
        return {thing["name"]: thing for thing in (*row[0].get("types", ()), *row[0]["columns"])}

    assert "born" in logged("ALTER TABLE shop.customer ADD COLUMN born date")
    assert "birthday" in logged("ALTER TABLE shop.customer RENAME COLUMN born TO birthday")
    assert logged("ALTER TABLE shop.customer ALTER COLUMN birthday TYPE text")["birthday"]["sql_type"] == "text"
    assert logged("ALTER TYPE shop.mood ADD VALUE 'fine'")["mood"]["labels"] == ["sad", "fine"]
    assert len(logged("ALTER TYPE shop.pair ADD ATTRIBUTE b int")["pair"]["attributes"]) == 2
    assert "e" in logged("ALTER DOMAIN shop.d RENAME TO e")
    assert "tags" not in logged("ALTER TABLE shop.customer DROP COLUMN tags")
    assert "other" not in logged("DROP TYPE shop.other CASCADE")
    before = source.log("customer")
    source.admin.execute("ALTER TABLE shop.customer ALTER COLUMN name SET STATISTICS 10")
    source.admin.execute("CREATE INDEX ON shop.customer (name)")
    assert source.log("customer") == before  # nothing that a description holds


def test_a_column_that_cannot_be_carried_is_named_while_the_table_stays(source: Source) -> None:
    source.setup()
    source.admin.execute("ALTER TABLE shop.customer ADD COLUMN budget refcursor")

    event, captured, _, reason = source.newest("customer")
    assert (event, captured) == ("ddl", True)
    assert reason == "column budget: the type refcursor is not carried exactly"
    source.admin.execute("CREATE TABLE shop.price (id int PRIMARY KEY, amount refcursor)")
    assert source.newest("price") == ("ddl", False, None, "column amount: the type refcursor is not carried exactly")


def test_a_table_that_loses_its_key_leaves_so_that_the_application_can_go_on(source: Source) -> None:
    source.setup()
    source.admin.execute("ALTER TABLE shop.customer DROP CONSTRAINT customer_pkey")

    assert source.newest("customer") == ("ddl", False, None, NO_KEY)
    source.admin.execute("UPDATE shop.customer SET name = 'second'")
    source.admin.execute("ALTER TABLE shop.customer ADD PRIMARY KEY (id)")
    assert source.newest("customer")[:2] == ("ddl", True)


def test_an_index_is_the_key_as_long_as_it_is_the_identity(source: Source) -> None:
    """Without the index, UPDATE would fail in the application: the table leaves, by whatever way the index goes."""
    source.setup()
    source.admin.execute("CREATE TABLE shop.seat (n int NOT NULL, code text NOT NULL, more int)")
    assert source.newest("seat") == ("ddl", False, None, NO_KEY)
    source.admin.execute("CREATE UNIQUE INDEX seat_key ON shop.seat (code, n) INCLUDE (more)")
    source.admin.execute("ALTER TABLE shop.seat REPLICA IDENTITY USING INDEX seat_key")

    assert source.newest("seat") == ("ddl", True, True, None)
    query = "SELECT description -> 'primary_key' FROM deltasync.schema_log WHERE table_name = 'seat' ORDER BY id"
    assert source.admin.execute(query).fetchall()[-1] == (["code", "n"],)
    source.admin.execute("REINDEX INDEX CONCURRENTLY shop.seat_key")
    source.admin.execute("ALTER TABLE shop.seat ADD COLUMN another int")
    assert source.newest("seat") == ("ddl", True, True, None)
    source.admin.execute("DROP INDEX shop.seat_key")
    assert source.newest("seat") == ("ddl", False, None, NO_KEY)
    source.admin.execute("INSERT INTO shop.seat VALUES (1, 'a', 1); UPDATE shop.seat SET more = 2")


def test_partitions_travel_as_their_root(source: Source) -> None:
    source.setup()
    source.make_slot()
    source.admin.execute("""
        CREATE TABLE shop.visit_2021 PARTITION OF shop.visit FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
        INSERT INTO shop.visit VALUES (1, '2021-05-05');
    """)
    assert source.log("visit_2021") == []
    assert source.decoded() == [("I", "shop.visit")]

    source.admin.execute("ALTER TABLE shop.visit DETACH PARTITION shop.visit_2021")
    assert source.newest("visit_2021") == ("ddl", True, False, None)
    source.admin.execute(
        "ALTER TABLE shop.visit ATTACH PARTITION shop.visit_2021 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')"
    )
    assert source.newest("visit_2021")[0] == "drop"
    assert source.newest("visit") == ("ddl", True, False, None)


@pytest.mark.parametrize(
    ("ddl", "is_owed"),
    [
        ("ALTER TABLE shop.visit DETACH PARTITION shop.full", True),
        ("ALTER TABLE shop.visit DETACH PARTITION shop.empty", False),
        ("DROP TABLE shop.full", True),
        ("ALTER TABLE shop.visit ATTACH PARTITION away.loaded FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')", True),
        ("ALTER TABLE shop.visit ATTACH PARTITION away.none FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')", False),
        ("CREATE TABLE shop.next PARTITION OF shop.visit FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')", False),
        ("ALTER TABLE shop.full ADD CONSTRAINT positive CHECK (id > 0)", False),
        ("DROP TABLE away.none", False),
    ],
)
def test_rows_that_come_and_go_with_a_partition_are_owed(source: Source, ddl: str, *, is_owed: bool) -> None:
    """No record tells of them. What was there before, and what came through its root, is not."""
    source.admin.execute("""
        CREATE TABLE shop.full PARTITION OF shop.visit FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
        CREATE SCHEMA away; CREATE TABLE away.loaded (LIKE shop.visit INCLUDING ALL);
        CREATE TABLE away.none (LIKE shop.visit INCLUDING ALL); INSERT INTO away.loaded VALUES (1, '2021-05-05');
    """)
    source.setup()
    source.make_slot()
    with source.admin.transaction():
        source.admin.execute("""
            CREATE TABLE shop.empty PARTITION OF shop.visit FOR VALUES FROM ('2018-01-01') TO ('2019-01-01');
            INSERT INTO shop.visit VALUES (2, '2019-05-05'); ALTER TABLE shop.visit ADD n int
        """)
    source.admin.execute("ALTER TABLE away.loaded ADD n int; ALTER TABLE away.none ADD n int")
    assert source.newest("visit") == ("ddl", True, True, None)

    source.admin.execute(ddl)
    assert source.newest("visit") == ("ddl", True, not is_owed, None)


def test_other_tables_are_none_of_our_business(source: Source) -> None:
    source.setup()
    before = source.admin.execute("SELECT count(*) FROM deltasync.schema_log").fetchone()
    source.admin.execute("""
        CREATE TEMP TABLE passing (id int PRIMARY KEY); ALTER TABLE passing ADD COLUMN a int; DROP TABLE passing;
        CREATE TABLE public.other (id int PRIMARY KEY); ALTER TABLE public.other RENAME TO another;
        DROP TABLE public.another; CREATE VIEW shop.names AS SELECT name FROM shop.customer; DROP VIEW shop.names;
    """)
    source.admin.execute("BEGIN; CREATE TABLE shop.undone (id int PRIMARY KEY); ROLLBACK")

    assert source.admin.execute("SELECT count(*) FROM deltasync.schema_log").fetchone() == before


def test_ddl_of_a_role_without_rights_and_of_a_session_in_replica_role_is_logged(source: Source) -> None:
    source.setup()
    role = f"{source.settings.pipeline}_app"
    source.admin.execute(f"CREATE ROLE {role}; GRANT CREATE, USAGE ON SCHEMA shop TO {role}")
    source.admin.execute(f"SET ROLE {role}; CREATE TABLE shop.by_app (id int PRIMARY KEY); RESET ROLE")
    source.admin.execute("SET session_replication_role = replica; CREATE TABLE shop.restored (id int PRIMARY KEY)")
    source.admin.execute("RESET session_replication_role")

    assert {"by_app", "restored"} <= source.published()
    source.admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert source.newest("by_app")[0] == "drop"


@pytest.mark.parametrize(
    "breakage",
    [
        "DROP PUBLICATION {pipeline}",
        "ALTER TABLE deltasync.captured_schema RENAME TO gone",
        "DROP FUNCTION deltasync.describe(oid)",
        "DROP TABLE deltasync.schema_log",
        "DROP FUNCTION deltasync.touched(), deltasync.log_hole(text, oid, text)",
    ],
)
def test_whatever_breaks_in_our_trigger_the_ddl_goes_through(source: Source, breakage: str) -> None:
    source.setup()
    source.admin.execute(breakage.format(pipeline=source.settings.publication))
    warnings: list[str] = []
    source.admin.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    source.admin.execute("CREATE TABLE shop.anyway (id int PRIMARY KEY); INSERT INTO shop.anyway VALUES (1)")
    source.admin.execute("DROP TABLE shop.anyway; DROP TABLE shop.customer")

    assert any("deltasync" in warning for warning in warnings)
    assert source.admin.execute("SELECT to_regclass('shop.customer')").fetchone() == (None,)


def test_a_hole_is_logged_by_code_alone_and_filled_by_the_next_setup(source: Source) -> None:
    source.setup()
    source.admin.execute(f"DROP PUBLICATION {source.settings.publication}")
    source.admin.execute("CREATE TABLE shop.missed (id int PRIMARY KEY)")
    assert source.log("missed") == [("hole", None, None, "42704")]
    source.setup()

    assert source.newest("missed") == ("announce", True, True, None)


def test_ddl_waits_no_longer_than_a_moment_for_another_that_holds_the_publication(source: Source) -> None:
    source.setup()
    with psycopg.connect(source.settings.source.admin_conninfo() or "") as other:
        other.execute("CREATE TABLE shop.slow (id int PRIMARY KEY)")
        source.admin.execute("SET statement_timeout = '20s'")
        source.admin.execute("CREATE TABLE shop.quick (id int PRIMARY KEY)")

    assert source.newest("quick") == ("hole", None, None, "55P03")
    assert source.newest("slow") == ("ddl", True, True, None)
    source.make_slot()
    source.admin.execute("INSERT INTO shop.quick VALUES (1)")
    position.beat(source.admin, source.settings.pipeline, source.settings.publication, source.settings.slot)
    assert source.newest("quick") == ("ddl", True, False, None)


@pytest.mark.parametrize("raw_text", [False, True])
def test_the_database_and_the_code_refuse_the_same_types(source: Source, *, raw_text: bool) -> None:
    connect_section = source.settings.connect.model_copy(update={"raw_text": raw_text})
    Source(source.admin, source.settings.model_copy(update={"connect": connect_section})).setup()
    types = [*TYPES.split(), 'text COLLATE shop."folded"']
    source.admin.execute(USER_TYPES)
    try:
        source.admin.execute("CREATE COLLATION shop.folded (provider=icu, locale='und', deterministic=false)")
    except psycopg.errors.FeatureNotSupported:
        types.pop()  # this build has no ICU
    for number, type_ in enumerate(types):
        source.admin.execute(f"CREATE TABLE shop.value_{number} (id int PRIMARY KEY, v {type_})")
        source.admin.execute(f"CREATE TABLE shop.full_{number} (LIKE shop.value_{number} INCLUDING INDEXES)")
        source.admin.execute(f"ALTER TABLE shop.full_{number} REPLICA IDENTITY FULL")
        try:
            source.admin.execute(f"CREATE TABLE shop.key_{number} (id {type_} PRIMARY KEY)")
        except (psycopg.errors.UndefinedObject, psycopg.errors.FeatureNotSupported):
            continue  # no operator class: it cannot be a key
    source.admin.execute('CREATE TABLE shop.cases (id int PRIMARY KEY, a int, "A" int)')
    computed = "int4range GENERATED ALWAYS AS (int4range(id, id)) STORED"
    source.admin.execute(f"CREATE TABLE shop.computed (id int PRIMARY KEY, c {computed})")
    source.admin.execute(f"CREATE TABLE shop.computed_key (id int, c {computed} PRIMARY KEY)")

    with connect(source.settings.source.admin_conninfo() or "", name="test") as admin:
        tables = [table for table in describe_tables(admin, ["shop"]) if table.primary_key]
        for table in tables:
            row = admin.execute("SELECT deltasync.unsupported(%s)", [Jsonb(table.to_value())]).fetchone()
            assert row is not None
            assert sorted((row[0] or "").split("; ")) == sorted(unsupported(table, raw_text=raw_text) or [""]), (
                table.name
            )
        skip = {table.id for table in tables}
        admin.execute(
            "INSERT INTO deltasync.skipping_table SELECT schema_name, table_name, %s FROM"
            " unnest(%s::text[], %s::text[]) AS t (schema_name, table_name)",
            [source.settings.pipeline, [table.schema for table in tables], [table.name for table in tables]],
        )
        for table, marked in zip(tables, skipping(tables, skip, raw_text=raw_text), strict=True):
            row = admin.execute("SELECT deltasync.skipping(%s)", [Jsonb(table.to_value())]).fetchone()
            assert row is not None
            assert Table.from_value(row[0]) == marked
    assert len(tables) > 2 * len(types)
