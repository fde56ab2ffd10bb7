"""The source's server, publication and slot, and what earlier set-ups left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from deltasync.finding import Area, Finding, Gravity
from deltasync.source import observe
from deltasync.source.position import SlotState
from deltasync.source.preflight import Server, obstacles, read_installed, read_server
from deltasync.source.statements import VERSION, Installed, Pipeline
from deltasync.table import TableId

_SETUP = "Run `deltasync source setup`."


class Publication(NamedTuple):
    """A publication: whether it has every operation, and its tables as they were added, with what narrows them.

    `partial` are tables with a row filter or a column list; `twice` partitions that are in it beside their root.
    """

    whole: bool
    via_root: bool
    tables: tuple[TableId, ...]
    partial: tuple[TableId, ...]
    twice: tuple[TableId, ...]


class Announced(NamedTuple):
    """The newest entry of the schema log about a table."""

    table: TableId
    captured: bool
    complete: bool


class Facts(NamedTuple):
    """All that is judged. `announced` is empty before the first set-up; `triggers` counts ours that are enabled.

    `copied`: standbys may keep copies of the slot; `awaited` are those that have to have what the connector gets.
    """

    server: Server
    installed: Installed
    view: observe.View
    standby: bool
    wal_keep_mb: int
    slot_timeout: int
    plugin: str | None
    database_of_slot: bool
    publication: Publication | None
    announced: tuple[Announced, ...]
    triggers: int
    copied: bool = False
    awaited: str = ""


def read(connection: Connection[TupleRow], pipeline: Pipeline, role: str) -> Facts:
    """Blocks for a dozen short queries, on a connection in autocommit."""
    query = """
        SELECT pg_is_in_recovery(),
               (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
               (SELECT setting::bigint FROM pg_settings WHERE name = 'idle_replication_slot_timeout'),
               s.plugin::text, s.database = current_database(),
               (SELECT count(*) FROM pg_event_trigger
                 WHERE evtname IN ('deltasync_ddl', 'deltasync_drop') AND evtenabled = 'A'),
               (to_jsonb(s) ->> 'failover')::boolean, current_setting('synchronized_standby_slots', true)
          FROM (SELECT) AS always LEFT JOIN pg_replication_slots s ON s.slot_name = %s
    """
    row = connection.execute(query, [pipeline.slot]).fetchone() or (False, *[None] * 4, 0, None, None)
    installed = read_installed(connection, pipeline, role)
    return Facts(
        server=read_server(connection, pipeline),
        installed=installed,
        view=observe.view(connection, pipeline.publication, pipeline.slot, installed=installed.version > 0),
        standby=row[0],
        wal_keep_mb=-1 if row[1] is None else row[1],
        slot_timeout=row[2] or 0,
        plugin=row[3],
        database_of_slot=bool(row[4]),
        publication=_publication(connection, pipeline.publication),
        announced=_announced(connection, pipeline) if installed.version else (),
        triggers=row[5],
        copied=bool(row[6]),
        awaited=row[7] or "",
    )


def _publication(connection: Connection[TupleRow], name: str) -> Publication | None:
    options = """
        SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot
          FROM pg_publication WHERE pubname = %s
    """
    row = connection.execute(options, [name]).fetchone()
    if row is None:
        return None
    query = """
        SELECT n.nspname, c.relname, r.prqual IS NOT NULL OR r.prattrs IS NOT NULL,
               EXISTS (SELECT FROM pg_partition_ancestors(c.oid) a
                        JOIN pg_publication_rel o ON o.prrelid = a.relid AND o.prpubid = r.prpubid
                       WHERE a.relid <> c.oid)
          FROM pg_publication_rel r
          JOIN pg_publication p ON p.oid = r.prpubid AND p.pubname = %s
          JOIN pg_class c ON c.oid = r.prrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname <> 'deltasync' ORDER BY 1, 2
    """
    rows = [(TableId(schema, table), *rest) for schema, table, *rest in connection.execute(query, [name])]
    return Publication(
        whole=row[0],
        via_root=row[1],
        tables=tuple(table for table, _, _ in rows),
        partial=tuple(table for table, partial, _ in rows if partial),
        twice=tuple(table for table, _, twice in rows if twice),
    )


def _announced(connection: Connection[TupleRow], pipeline: Pipeline) -> tuple[Announced, ...]:
    query = """
        SELECT DISTINCT ON (schema_name, table_name) schema_name, table_name, captured, coalesce(complete, true)
          FROM deltasync.schema_log
         WHERE schema_name = ANY(%s) AND event <> 'hole' ORDER BY schema_name, table_name, id DESC
    """
    rows = connection.execute(query, [list(pipeline.schemas)])
    return tuple(Announced(TableId(schema, name), *rest) for schema, name, *rest in rows)


def judge(facts: Facts, pipeline: Pipeline) -> Iterator[Finding]:
    """Every finding about them; pure."""
    yield from obstacles(facts.server, facts.installed, pipeline)
    yield from _server(facts)
    yield from _set_up(facts)
    if facts.installed.version:
        yield from _published(facts, pipeline)
    if facts.view.slot is not None:
        yield from _slot(facts, facts.view.slot, pipeline)
    elif facts.installed.version:
        yield _found(
            Gravity.NOTE,
            f"The source has no slot {pipeline.slot}.",
            "The connector makes it at its first start; if that was before, it was dropped, and changes are lost.",
            '`deltasync connectors apply` for a first start; otherwise see the README, "The slot is lost".',
        )


def _found(gravity: Gravity, what: str, why: str, remedy: str, table: TableId | None = None) -> Finding:
    return Finding(gravity, Area.SOURCE, what, why, remedy, table)


def _server(facts: Facts) -> Iterator[Finding]:
    if facts.standby:
        yield _found(
            Gravity.REFUSED,
            "The source is a standby.",
            "Neither set-up nor the connector's heartbeat can write to it.",
            "Name the primary in DELTASYNC_SOURCE_DSN (target_session_attrs=read-write).",
        )
    if facts.wal_keep_mb == -1:
        yield _found(
            Gravity.NOTE,
            "The source's max_slot_wal_keep_size sets no limit.",
            "While Connect is away the slot keeps all WAL, until the disk is full and the source stops.",
            "Choose one below the disk's free space: ALTER SYSTEM SET max_slot_wal_keep_size = '100GB';"
            " SELECT pg_reload_conf();",
        )
    if facts.slot_timeout:
        yield _found(
            Gravity.WARNING,
            "The source's idle_replication_slot_timeout is set.",
            "A connector that rests for longer loses its slot, and with it changes.",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
        )


def _set_up(facts: Facts) -> Iterator[Finding]:
    if not facts.installed.version:
        why = "Role, publication, canary and schema log are still to be made."
        yield _found(Gravity.NOTE, "The source is not set up yet.", why, _SETUP)
        return
    if facts.installed.version < VERSION:
        yield _found(
            Gravity.REFUSED,
            f"The source was set up by an older deltasync (version {facts.installed.version}, here {VERSION}).",
            "Its functions decide otherwise than this one.",
            _SETUP,
        )
    if facts.triggers < 2:  # noqa: PLR2004 - one for DDL, one for DROP
        yield _found(
            Gravity.WARNING,
            "deltasync's event triggers are missing or disabled on the source.",
            "Tables that are created or altered are not known until set-up has run again.",
            "Run `deltasync source setup` with a superuser in DELTASYNC_SOURCE_ADMIN_DSN, or after each change.",
        )
    for table, code in facts.view.holes:
        yield _found(
            Gravity.WARNING,
            f"The schema log has a hole at {table}.",
            f"Its event trigger failed (SQLSTATE {code}), so that a change of the table is not known.",
            _SETUP,
            table,
        )


def _published(facts: Facts, pipeline: Pipeline) -> Iterator[Finding]:
    publication = facts.publication
    if publication is None:
        why = "What is committed meanwhile is lost to Kafka, and Connect does not notice."
        yield _found(Gravity.REFUSED, f"The publication {pipeline.publication} is missing.", why, _SETUP)
        return
    if not publication.whole or not publication.via_root:
        yield _found(
            Gravity.REFUSED,
            f"The publication {pipeline.publication} leaves out operations, or names partitions by themselves.",
            "Changes would be missing, or travel under names that nobody reads.",
            f"ALTER PUBLICATION {pipeline.publication} SET (publish = 'insert, update, delete, truncate',"
            " publish_via_partition_root = true);",
        )
    if "signal" not in facts.installed.published:
        why = "The connector does not see what it is asked: `deltasync snapshot` refuses."
        yield _found(Gravity.WARNING, f"The publication {pipeline.publication} lacks deltasync.signal.", why, _SETUP)
    for table in publication.partial:
        yield _found(
            Gravity.REFUSED,
            f"{table} is published with a row filter or a column list.",
            "The initial snapshot reads all of it, and later changes bring a part only.",
            f"ALTER PUBLICATION {pipeline.publication} DROP TABLE {table.sql}; then `deltasync source setup`.",
            table,
        )
    for table in publication.twice:
        yield _found(
            Gravity.REFUSED,
            f"The partition {table} is published beside its partitioned table.",
            "The initial snapshot would read its rows twice, under two names.",
            f"ALTER PUBLICATION {pipeline.publication} DROP TABLE {table.sql};",
            table,
        )
    yield from _announcements(facts.announced, publication, pipeline)


def _announcements(announced: tuple[Announced, ...], publication: Publication, pipeline: Pipeline) -> Iterator[Finding]:
    published, captured = set(publication.tables), {one.table for one in announced if one.captured}
    for table in sorted(captured - published):
        yield _found(
            Gravity.REFUSED,
            f"{table} was announced as captured and is not in the publication.",
            "Its changes do not travel.",
            f'{_SETUP[:-1]}, then read its rows again (README, "Adding tables and schemas").',
            table,
        )
    for table in sorted(published - captured - set(publication.twice)):
        yield _found(
            Gravity.WARNING,
            f"{table} is in the publication and was not announced as captured.",
            "The replica waits for its description, or leaves its changes aside.",
            f"{_SETUP[:-1]}, or ALTER PUBLICATION {pipeline.publication} DROP TABLE {table.sql};",
            table,
        )
    for one in announced:
        if one.captured and not one.complete:
            yield _found(
                Gravity.WARNING,
                f"{one.table} is incomplete.",
                "It held rows before it was captured, and they have not travelled.",
                'Let every row change once: README, "Adding tables and schemas".',
                one.table,
            )


def _copies(facts: Facts, pipeline: Pipeline) -> Iterator[Finding]:
    if not facts.copied:
        yield _found(
            Gravity.WARNING,
            f"No standby keeps a copy of the slot {pipeline.slot}.",
            "It was made without `failover`, or on a PostgreSQL before 17: it does not outlive the source's server.",
            f"ALTER_REPLICATION_SLOT {pipeline.slot} (FAILOVER true), on a replication connection while the "
            'connector is stopped: README, "The source fails over".',
        )
    elif not facts.awaited:
        yield _found(
            Gravity.WARNING,
            "The source's synchronized_standby_slots names no standby.",
            "The connector may get commits that a standby lacks; where that takes over, all tables are read again.",
            "ALTER SYSTEM SET synchronized_standby_slots = '…'; with the physical slots of the standbys that may; "
            "SELECT pg_reload_conf();",
        )


def _slot(facts: Facts, slot: SlotState, pipeline: Pipeline) -> Iterator[Finding]:
    if facts.plugin != "pgoutput" or not facts.database_of_slot:
        yield _found(
            Gravity.REFUSED,
            f"The slot {pipeline.slot} is not one of pgoutput in this database.",
            "The connector cannot read from it.",
            f"Choose another name (`slot` in [source]), or SELECT pg_drop_replication_slot('{pipeline.slot}');",
        )
    if pipeline.failover:
        yield from _copies(facts, pipeline)
    if slot.wal_status == "lost" or slot.invalidation_reason:
        why = f" ({slot.invalidation_reason})" if slot.invalidation_reason else ""
        yield _found(
            Gravity.REFUSED,
            f"The slot {pipeline.slot} is invalidated{why}.",
            "The source removed what the connector had not read: these changes are lost to Kafka.",
            'Start anew: README, "The slot is lost".',
        )
    elif slot.wal_status == "unreserved":
        yield _found(
            Gravity.WARNING,
            f"The slot {pipeline.slot} is about to be invalidated.",
            "The connector is behind by more WAL than the source keeps.",
            "Raise it at once: ALTER SYSTEM SET max_slot_wal_keep_size = '200GB'; SELECT pg_reload_conf();",
        )
    elif not slot.active:
        yield _found(
            Gravity.WARNING,
            f"Nobody reads the slot {pipeline.slot}.",
            "The source keeps its WAL until the connector runs.",
            "See why: `deltasync connectors status`.",
        )
