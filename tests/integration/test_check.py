"""`deltasync check` on real servers: each finding is planted and named with its remedy; a clean set-up has none."""

from __future__ import annotations

import json

import httpx
import psycopg
import pytest
import stamina
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr
from tests.flow import Flow, until
from tests.integration.pooler import pooler
from tests.integration.reports import expect, only

from deltasync.check.examine import examine
from deltasync.settings import Settings
from deltasync.source.setup import setup

# One table for each finding: what of it, its gravity, and a piece of the remedy.
TABLES = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.fine (id int PRIMARY KEY, name text);
    CREATE TABLE shop.price (id int PRIMARY KEY, v polygon);
    CREATE TABLE shop.flags (id int PRIMARY KEY, f bool[]);
    CREATE TABLE shop.bit_key (id varbit PRIMARY KEY);
    CREATE COLLATION shop.loose (locale = 'C');
    CREATE TABLE shop.loose_key (id text COLLATE shop.loose PRIMARY KEY);
    UPDATE pg_collation SET collisdeterministic = false WHERE oid = 'shop.loose'::regcollation;
    CREATE TABLE shop.keyless (a int);
    CREATE TABLE shop.late_key (id int CONSTRAINT late PRIMARY KEY DEFERRABLE);
    CREATE TABLE shop.broken_key (id int PRIMARY KEY);
    UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'shop.broken_key_pkey'::regclass;
    CREATE TABLE shop.nothing (id int PRIMARY KEY);
    ALTER TABLE shop.nothing REPLICA IDENTITY NOTHING;
    CREATE TABLE shop.beside (id int PRIMARY KEY, code int NOT NULL UNIQUE);
    ALTER TABLE shop.beside REPLICA IDENTITY USING INDEX beside_code_key;
    CREATE TABLE shop.by_index (code int NOT NULL UNIQUE);
    ALTER TABLE shop.by_index REPLICA IDENTITY USING INDEX by_index_code_key;
    CREATE TABLE shop.whole (a int);
    ALTER TABLE shop.whole REPLICA IDENTITY FULL;
    CREATE TABLE shop.parts (a int) PARTITION BY LIST (a);
    CREATE TABLE shop.parts_1 PARTITION OF shop.parts (PRIMARY KEY (a)) FOR VALUES IN (1);
    ALTER TABLE shop.parts REPLICA IDENTITY FULL;
    CREATE TABLE shop.whole_parts (a int) PARTITION BY LIST (a);
    CREATE TABLE shop.whole_parts_1 PARTITION OF shop.whole_parts DEFAULT;
    ALTER TABLE shop.whole_parts REPLICA IDENTITY FULL;
    ALTER TABLE shop.whole_parts_1 REPLICA IDENTITY FULL;
    CREATE TABLE shop.parts_by_index (code int NOT NULL, UNIQUE (code)) PARTITION BY RANGE (code);
    ALTER TABLE shop.parts_by_index REPLICA IDENTITY USING INDEX parts_by_index_code_key;
    CREATE UNLOGGED TABLE shop.cache (id int PRIMARY KEY);
    CREATE TABLE shop.parent (id int PRIMARY KEY);
    CREATE TABLE shop.child (PRIMARY KEY (id)) INHERITS (shop.parent);
    CREATE TABLE shop.visit (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE shop.visit_2020 PARTITION OF shop.visit FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    ALTER TABLE shop.visit_2020 REPLICA IDENTITY NOTHING;
    CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
    CREATE TABLE shop.outside (id int, day date) PARTITION BY RANGE (day);
    CREATE FOREIGN TABLE shop.outside_2020 PARTITION OF shop.outside DEFAULT SERVER far;
    CREATE TABLE shop."a b" (id int PRIMARY KEY);
    CREATE TABLE shop."a_b" (id int PRIMARY KEY);
    CREATE TABLE shop.said (id int PRIMARY KEY);
    CREATE TABLE shop."Said" (a int);
    CREATE TABLE shop."a""q" (id int PRIMARY KEY);
    CREATE TABLE shop.twice (id int PRIMARY KEY, note int, "Note" int);
"""
LEFT_OUT = (
    ("shop.keyless has no primary key", "warning", 'ALTER TABLE "shop"."keyless" ADD PRIMARY KEY'),
    ("shop.parts has the partition shop.parts_1 without a usable key", "warning", "REPLICA IDENTITY FULL;"),
    ("shop.late_key has a deferrable primary key", "warning", 'DROP CONSTRAINT "late", ADD CONSTRAINT "late" PRIMARY'),
    ("shop.broken_key has an invalid primary key", "warning", 'REINDEX INDEX "shop"."broken_key_pkey";'),
    ("shop.nothing has REPLICA IDENTITY NOTHING", "warning", "REPLICA IDENTITY DEFAULT;"),
    ("shop.beside has an index as REPLICA IDENTITY", "warning", "REPLICA IDENTITY DEFAULT;"),
    ("shop.parts_by_index is partitioned and has an index as", "warning", "ADD PRIMARY KEY"),
    ("shop.cache is unlogged", "warning", "SET LOGGED;"),
    ("shop.parent has tables that inherit from it", "warning", "partitioned"),
    ("shop.visit has the partition shop.visit_2020 without a usable key", "warning", "REPLICA IDENTITY DEFAULT;"),
    ("shop.outside has the foreign partition shop.outside_2020", "warning", 'DETACH PARTITION "shop"."outside_2020"'),
    ('shop.a"q has a quote', "warning", "RENAME TO"),
    ("shop.a b has the same topic name as shop.a_b", "warning", "RENAME TO"),
    ("shop.Said is left out, and its name differs", "warning", "RENAME TO"),
    ("shop.price: column v: the type polygon", "refused", 'exclude = ["shop.price"]'),
    ("shop.flags: column f: the type boolean[]", "refused", "exclude"),
    ("shop.bit_key: column id: the type bit varying", "refused", "exclude"),
    ("shop.loose_key: column id: its collation", "refused", "exclude"),
    ("shop.twice: the column names Note, note differ only by case", "refused", 'RENAME COLUMN "note"'),
)
CLEAN = """
    CREATE SCHEMA shop;
    CREATE TYPE shop.status AS ENUM ('new', 'paid');
    CREATE TABLE shop.item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, status shop.status,
                            price numeric(10, 2), born date, seen timestamp, numbers int[]);
    CREATE TABLE shop.part (id int PRIMARY KEY, code varchar(20), extra int);
    INSERT INTO shop.item (name) VALUES ('a');
"""


@pytest.mark.parametrize("keyless", [True, False])
def test_tables_are_judged_before_anything_is_set_up(flow: Flow, *, keyless: bool) -> None:
    """And as deltasync.refusal judges them on the source afterwards: what is left out is the same."""
    section = flow.settings.source.model_copy(update={"keyless": keyless})
    flow.settings = flow.settings.model_copy(update={"source": section})
    flow.source.execute("SET allow_system_table_mods = on")
    flow.source.execute(TABLES)
    report = examine(only(flow.settings, "source"))
    whole = {"shop.whole", "shop.whole_parts"}
    fine = {"shop.fine", "shop.said", "shop.child", "shop.by_index"} | (whole if keyless else set())

    expect(report, LEFT_OUT)
    if not keyless:
        expect(report, [(f"{name} has no primary key", "warning", "DELTASYNC_SOURCE_KEYLESS=true") for name in whole])
    expect(report, [("The source is not set up yet", "note", "deltasync source setup")])
    assert not [f for f in report.findings if str(f.table) in fine]
    assert report.exit_code == 1

    refused = {t: [f.what for f in report.findings if str(f.table) == t] for t in _tables(flow)}
    flow.source.execute("DROP TABLE shop.price, shop.flags, shop.bit_key, shop.loose_key, shop.twice")
    for name, reason in _refusals(flow).items():
        left_out = [what for what in refused[name] if "differs from that of" not in what]
        assert bool(left_out) == (reason is not None), (name, reason, left_out)


def _tables(flow: Flow) -> list[str]:
    query = (
        "SELECT 'shop.' || relname FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r', 'p')"
    )
    return [name for (name,) in flow.source.execute(query)]


def _refusals(flow: Flow) -> dict[str, str | None]:
    return {f"{table.schema}.{table.name}": table.reason for table in setup(flow.settings).tables}


def test_a_clean_set_up_has_no_finding_and_each_fault_has_one(flow: Flow) -> None:
    """One pipeline, running; then one fault after the other is planted on source, role, replica and connector."""
    flow.set_up(CLEAN)
    until(flow.streaming, "it streams")
    first = flow.streaming()
    worker = flow.start_worker()
    flow.wait_equal("shop.item", "shop.part")
    # The worker restarts the connector once, when its snapshot is complete.
    until(lambda: flow.streaming() not in (None, first), "it streams on")
    report = json.loads(flow.cli("check", "--json"))
    assert (report["ok"], report["findings"]) == (True, [])
    assert {one["server"]: one["state"] for one in report["servers"]} == dict.fromkeys(
        ("source", "connector", "kafka", "replica"), "asked"
    )
    worker.stop()

    _source_and_role(flow)
    _data(flow)
    _replica(flow)
    _connector(flow)


def _source_and_role(flow: Flow) -> None:
    name = flow.pipeline.name
    flow.source.execute(f"""
        ALTER ROLE {name} NOREPLICATION;
        ALTER ROLE {name} VALID UNTIL '2020-01-01';
        ALTER ROLE {name} SET extra_float_digits = 0;
        ALTER ROLE {name} RESET "IntervalStyle";
        ALTER ROLE {name} IN DATABASE {name} SET bytea_output = 'escape';
        REVOKE SELECT ON shop.part FROM {name};
        REVOKE USAGE ON SCHEMA shop FROM {name};
        ALTER TABLE shop.item ENABLE ROW LEVEL SECURITY;
        ALTER EVENT TRIGGER deltasync_ddl DISABLE;
        CREATE TABLE shop.visit (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE shop.visit_2020 PARTITION OF shop.visit FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
        ALTER PUBLICATION {name} DROP TABLE shop.item;
        ALTER PUBLICATION {name} ADD TABLE shop.item WHERE (id > 0), shop.visit, shop.visit_2020;
        ALTER PUBLICATION {name} SET (publish = 'insert');
    """)
    expected = [
        ("lacks the attribute REPLICATION", "refused", f'ALTER ROLE "{name}" REPLICATION;'),
        ("password of the role", "refused", "VALID UNTIL 'infinity';"),
        ("extra_float_digits is 0", "refused", "SET \"extra_float_digits\" = '1';"),
        ("has no IntervalStyle of its own", "warning", "SET \"IntervalStyle\" = 'postgres';"),
        ("bytea_output is escape", "refused", f'IN DATABASE "{name}" RESET "bytea_output";'),
        ("lacks SELECT on shop.part", "refused", f'GRANT SELECT ON "shop"."part" TO "{name}";'),
        ("lacks USAGE ON SCHEMA shop", "refused", 'GRANT USAGE ON SCHEMA "shop"'),
        ("shop.item has row security", "refused", "BYPASSRLS;"),
        ("event triggers are missing or disabled", "warning", "deltasync source setup"),
        ("The partition shop.visit_2020 is published beside", "refused", 'DROP TABLE "shop"."visit_2020";'),
        ("shop.item is published with a row filter", "refused", 'DROP TABLE "shop"."item";'),
        ("shop.visit is in the publication and was not announced", "warning", "deltasync source setup"),
        ("leaves out operations", "refused", "publish = 'insert, update, delete, truncate'"),
    ]
    expect(examine(only(flow.settings, "source")), expected)

    flow.source.execute(f"""
        ALTER ROLE {name} REPLICATION VALID UNTIL 'infinity';
        ALTER ROLE {name} IN DATABASE {name} RESET bytea_output;
        ALTER TABLE shop.item DISABLE ROW LEVEL SECURITY;
        DROP TABLE shop.visit;
        ALTER PUBLICATION {name} DROP TABLE shop.item;
        UPDATE deltasync.schema_log SET complete = false WHERE table_name = 'part';
    """)
    report = examine(only(flow.settings, "source"))
    expect(report, [("shop.item was announced as captured and is not in", "refused", "deltasync source setup")])
    expect(report, [("shop.part is incomplete", "warning", "Adding tables")])


def _data(flow: Flow) -> None:
    flow.source.execute(f"ALTER PUBLICATION {flow.pipeline.name} ADD TABLE shop.item")
    # The connector's overrides cannot name a table with a dot in its name.
    flow.source.execute("""
        CREATE TABLE shop."a.b" (id int PRIMARY KEY, born date, pause interval);
        INSERT INTO shop."a.b" VALUES (1, '0044-03-15 BC', 'infinity');
        INSERT INTO shop.item (born, seen, numbers) VALUES
            ('1582-10-10', '294250-01-01', '[0:1]={1,2}'), (NULL, NULL, '{NULL}')
    """)
    without, with_data = (examine(only(flow.settings, "source"), with_data=wanted) for wanted in (False, True))
    assert not [f for f in without.findings if "holds" in f.what]
    expect(
        with_data,
        [
            ("shop.a.b: column born holds dates before the year 1 or from 5", "refused", 'WHERE "born" <'),
            ("shop.a.b: column pause holds infinite intervals", "refused", 'NOT isfinite("pause")'),
            ("column seen holds timestamps after 294247", "refused", 'SELECT * FROM "shop"."item"'),
            ("column numbers holds arrays with more than one", "refused", "array_lower"),
            ("column numbers holds arrays of nothing but nulls", "refused", "array_remove"),
        ],
    )
    assert not [f for f in with_data.findings if f.table and f.table.name == "part" and "holds" in f.what]
    assert not [f for f in with_data.findings if "shop.item: column born" in f.what]
    flow.source.execute('DROP TABLE shop."a.b"')


def _replica(flow: Flow) -> None:
    flow.replica.execute("TRUNCATE shop.item")
    flow.replica.execute(f"""
        ALTER TABLE shop.item ALTER COLUMN price TYPE numeric(6, 1), ADD COLUMN own int NOT NULL,
            ALTER COLUMN name SET NOT NULL, ADD CONSTRAINT once UNIQUE (name), ALTER COLUMN id SET GENERATED ALWAYS;
        ALTER TABLE shop.part DROP COLUMN extra, ADD CONSTRAINT to_item FOREIGN KEY (id) REFERENCES shop.item NOT VALID;
        CREATE UNIQUE INDEX part_code ON shop.part (code);
        CREATE FUNCTION shop.nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER mine BEFORE INSERT ON shop.part FOR EACH ROW EXECUTE FUNCTION shop.nop();
        ALTER TABLE shop.part OWNER TO postgres;
        REVOKE ALL ON shop.part FROM {flow.pipeline.name};
        UPDATE deltasync.source_table SET held = 'of this test' WHERE table_name = 'part';
    """)
    expected = [
        ("shop.item cannot hold every value", "refused", 'ALTER COLUMN "price" TYPE numeric(10,2);'),
        ("column own is not on the source, NOT NULL", "refused", 'ALTER COLUMN "own" DROP NOT NULL;'),
        ("column name is NOT NULL, and may be NULL", "warning", 'ALTER COLUMN "name" DROP NOT NULL;'),
        ("column id is GENERATED ALWAYS", "refused", 'ALTER COLUMN "id" SET GENERATED BY DEFAULT;'),
        ("has the unique constraint once", "warning", 'DROP CONSTRAINT "once";'),
        ("shop.part lacks the column extra", "refused", 'ADD COLUMN IF NOT EXISTS "extra" integer;'),
        ("has the unique index part_code", "warning", 'DROP INDEX "shop"."part_code";'),
        ("lacks SELECT, INSERT, UPDATE, DELETE, TRUNCATE on the replica's shop.part", "refused", "GRANT SELECT"),
        ("shop.part is held: of this test", "refused", "deltasync replica setup"),
    ]
    expect(examine(only(flow.settings, "source", "replica")), expected)
    # Without the source, what was announced counts.
    expect(examine(only(flow.settings, "replica")), expected)
    _acts(flow)
    _version(flow)


def _acts(flow: Flow) -> None:
    """Foreign keys and triggers are told of where they act: by the setting, and by how they are enabled."""
    here = only(flow.settings, "replica")
    ordered = here.model_copy(update={"replica": here.replica.model_copy(update={"constraints": "ordered"})})
    key = ("has the foreign key to_item", "warning", 'DROP CONSTRAINT "to_item";')
    trigger = ("has the trigger mine", "warning", 'DISABLE TRIGGER "mine";')

    def told(settings: Settings) -> list[str]:
        found = examine(settings).findings
        return sorted(name for name in ("to_item", "mine") if any(f"{name}." in f.what for f in found))

    expect(examine(ordered), [key, trigger])
    assert told(here) == []
    query = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'shop.part'::regclass AND tgisinternal"
    names = [f'"{name}"' for (name,) in flow.replica.execute(query)]
    for how, triggers, by_replica, usually in (
        ("ENABLE ALWAYS", ["mine"], ["mine"], ["mine", "to_item"]),
        ("ENABLE REPLICA", ["mine"], ["mine"], ["to_item"]),
        ("ENABLE ALWAYS", names, ["mine", "to_item"], ["to_item"]),
        # The referenced table's own triggers stay.
        ("DISABLE", ["ALL"], [], ["to_item"]),
    ):
        flow.replica.execute(f"ALTER TABLE shop.part {', '.join(f'{how} TRIGGER {name}' for name in triggers)}")
        assert (told(here), told(ordered)) == (by_replica, usually), (how, triggers)
    flow.replica.execute("ALTER TABLE shop.item DISABLE TRIGGER ALL")
    assert (told(here), told(ordered)) == ([], [])
    # One row holds the grants of all databases of the server: other tests may be writing it.
    for attempt in stamina.retry_context(on=psycopg.errors.InternalError_, attempts=5, wait_initial=0.05):
        with attempt:
            flow.replica.execute(f"REVOKE SET ON PARAMETER session_replication_role FROM {flow.pipeline.name}")
    grant = f'ON PARAMETER session_replication_role TO "{flow.pipeline.name}";'
    may_not = ("may not set session_replication_role", "refused", grant)
    expect(examine(here), [may_not])
    assert not [f for f in examine(ordered).findings if may_not[0] in f.what]


def _version(flow: Flow) -> None:
    """Of deltasync's own tables: an older one wants set-up, a newer one another deltasync."""
    here = only(flow.settings, "replica")
    (now,) = flow.replica.execute("SELECT version FROM deltasync.version").fetchone() or (0,)
    for version, expected in (
        (now - 1, (f"The replica's tables are of version {now - 1}", "refused", "deltasync replica setup")),
        (now + 1, (f"set up by a newer deltasync (version {now + 1}", "refused", "the newer deltasync")),
    ):
        flow.replica.execute("UPDATE deltasync.version SET version = %s", [version])
        expect(examine(here), [expected])
    flow.replica.execute("UPDATE deltasync.version SET version = %s", [now])


def test_a_pooler_and_another_encoding_are_told_of_either_side(flow: Flow) -> None:
    """In transaction mode a pooler is refused, for the service's role too; so is what is not UTF8."""
    source, replica = flow.settings.source, flow.settings.replica
    address = conninfo_to_dict(flow.pipeline.source_admin)
    flow.source.execute("CREATE SCHEMA shop")
    with pooler((str(address["host"]), int(str(address["port"]))), by_transaction=True) as port:
        through = SecretStr(make_conninfo(flow.pipeline.source_admin, host="127.0.0.1", port=port))
        settings = flow.settings.model_copy(
            update={
                "source": source.model_copy(update={"dsn": through, "admin_dsn": through}),
                "replica": replica.model_copy(update={"dsn": through}),  # set-up goes round it
            }
        )
        refused = ("goes through a pooler in transaction mode", "refused", "session mode")
        expect(examine(only(settings, "source")), [refused])
        expect(examine(only(settings, "replica")), [refused])

    database = f"{flow.pipeline.name}_ascii"
    flow.source.execute(f"CREATE DATABASE {database} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        other = SecretStr(make_conninfo(flow.pipeline.source_admin, dbname=database))
        ascii_ = {"dsn": other, "admin_dsn": other}
        settings = flow.settings.model_copy(
            update={"source": source.model_copy(update=ascii_), "replica": replica.model_copy(update=ascii_)}
        )
        for side in ("source", "replica"):
            expect(examine(only(settings, side)), [(f"/{database} is encoded in SQL_ASCII", "refused", "UTF8")])
    finally:
        flow.source.execute(f"DROP DATABASE {database} WITH (FORCE)")


def _connector(flow: Flow) -> None:
    flow.start_connector(binary__handling__mode="base64")
    settings = only(flow.settings, "source", "connect")
    expected = [("has binary.handling.mode = base64", "refused", "deltasync connectors apply")]
    expect(examine(settings), expected)
    httpx.put(f"{settings.connect.url}/connectors/{settings.connector}/pause", timeout=30).raise_for_status()
    paused = ("is paused", "warning", "deltasync connectors resume")
    until(lambda: [f for f in examine(settings).findings if "is paused" in f.what], "paused")
    expect(examine(settings), [*expected, paused, ("is not what its file says: binary.", "warning", "plan")])

    without = settings.model_copy(update={"unavailable_value": None})
    expect(examine(without), [("DELTASYNC_UNAVAILABLE_VALUE has no value", "refused", "openssl rand")])


def test_a_server_that_does_not_answer_is_told_and_the_rest_is_shown(flow: Flow) -> None:
    """Exit code 3 where nothing else is wrong; what could be looked at is there."""
    flow.source.execute("CREATE SCHEMA shop; CREATE TABLE shop.keyless (a int)")
    flow.env["DELTASYNC_KAFKA_BOOTSTRAP"] = "127.0.0.1:1"
    flow.env["DELTASYNC_CONNECT_URL"] = "http://127.0.0.1:1"
    said = flow.cli("check", code=3)

    assert "shop.keyless has no primary key" in said
    assert "not asked kafka" in said
    assert "not asked connector" in said
    assert "The replica is not set up yet" in said
