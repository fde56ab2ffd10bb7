"""The role by which Debezium reads the source: attributes, settings that would alter values, rights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from deltasync.finding import Area, Finding, Gravity
from deltasync.source.statements import READER_SETTINGS, Pipeline
from deltasync.table import TableId, quoted


class Place(NamedTuple):
    """Where a setting may be pinned (pg_db_role_setting): `role` and `database` say of what it is."""

    role: bool
    database: bool


# Which wins at login, the strongest first.
_PRECEDENCE = (Place(True, True), Place(True, False), Place(False, True), Place(False, False))  # noqa: FBT003
_WHY = {
    "bytea_output": "With another value streamed bytea arrives altered.",
    "extra_float_digits": "Below 1, floats are rounded.",
    "IntervalStyle": "With another style intervals are read wrongly.",
    "TimeZone": "With another zone times may be read wrongly.",
    "lc_monetary": "With another locale money cannot be read.",
}


class Facts(NamedTuple):
    """All that is judged. `settings` are those pinned, by place, their names in lower case.

    `unusable` are schemas without USAGE, `unreadable` published tables without SELECT.
    """

    name: str
    database: str
    login: bool
    replication: bool
    superuser: bool
    bypass_rls: bool
    expired: bool
    settings: Mapping[Place, Mapping[str, str]]
    connect: bool
    beat: bool
    signal: bool
    unusable: tuple[str, ...]
    unreadable: tuple[TableId, ...]


def read(connection: Connection[TupleRow], pipeline: Pipeline, role: str) -> Facts | None:
    """None where there is no such role yet. Blocks for a few short queries."""
    query = """
        SELECT current_database()::text, rolcanlogin, rolreplication, rolsuper, rolbypassrls,
               coalesce(rolvaliduntil < now(), false),
               has_database_privilege(oid, current_database(), 'CONNECT'),
               ARRAY(SELECT nspname::text FROM pg_namespace n WHERE nspname = ANY(%(schemas)s)
                        AND NOT has_schema_privilege(r.oid, n.oid, 'USAGE') ORDER BY 1),
               (SELECT has_function_privilege(r.oid, p.oid, 'EXECUTE') FROM pg_proc p
                  JOIN pg_namespace n ON n.oid = p.pronamespace
                 WHERE n.nspname = 'deltasync' AND p.proname = 'beat'),
               has_table_privilege(r.oid, to_regclass('deltasync.signal'), 'INSERT')
          FROM pg_roles r WHERE rolname = %(role)s
    """
    schemas = [*pipeline.schemas, "deltasync"]
    row = connection.execute(query, {"schemas": schemas, "role": role}).fetchone()
    if row is None:
        return None
    return Facts(
        name=role,
        database=row[0],
        login=row[1],
        replication=row[2],
        superuser=row[3],
        bypass_rls=row[4],
        expired=row[5],
        settings=_settings(connection, role),
        connect=row[6],
        unusable=tuple(row[7]),
        beat=row[8] is not False,
        signal=row[9] is not False,
        unreadable=_unreadable(connection, pipeline, role),
    )


def _settings(connection: Connection[TupleRow], role: str) -> dict[Place, dict[str, str]]:
    query = """
        SELECT s.setrole <> 0, s.setdatabase <> 0, s.setconfig
          FROM pg_db_role_setting s
         WHERE (s.setrole = 0 OR s.setrole = (SELECT oid FROM pg_roles WHERE rolname = %s))
           AND (s.setdatabase = 0
                OR s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))
    """
    return {
        Place(of_role, of_database): {key.lower(): value for key, _, value in (line.partition("=") for line in lines)}
        for of_role, of_database, lines in connection.execute(query, [role])
    }


def _unreadable(connection: Connection[TupleRow], pipeline: Pipeline, role: str) -> tuple[TableId, ...]:
    query = """
        SELECT n.nspname, c.relname
          FROM pg_publication_rel p
          JOIN pg_publication pub ON pub.oid = p.prpubid AND pub.pubname = %s
          JOIN pg_class c ON c.oid = p.prrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE NOT has_table_privilege(%s, c.oid, 'SELECT') ORDER BY 1, 2
    """
    return tuple(TableId(*row) for row in connection.execute(query, [pipeline.publication, role]))


def judge(facts: Facts, guarded: Collection[TableId]) -> Iterator[Finding]:
    """Every finding about it; pure. `guarded` are captured tables with row security."""
    yield from _attributes(facts)
    for key, value in READER_SETTINGS.items():
        yield from _setting(facts, key, value)
    yield from _rights(facts)
    if not (facts.superuser or facts.bypass_rls):
        for table in guarded:
            yield _found(
                Gravity.REFUSED,
                f"{table} has row security, and the role {facts.name} does not see past it.",
                "The initial snapshot would leave out the rows that its policies hide, without a word.",
                f"ALTER ROLE {quoted(facts.name)} BYPASSRLS;",
                table,
            )


def _found(gravity: Gravity, what: str, why: str, remedy: str, table: TableId | None = None) -> Finding:
    return Finding(gravity, Area.ROLE, what, why, remedy, table)


def _attributes(facts: Facts) -> Iterator[Finding]:
    name = quoted(facts.name)
    if not facts.login:
        yield _found(
            Gravity.REFUSED,
            f"The role {facts.name} may not log in.",
            "Debezium and deltasync log in with it.",
            f"ALTER ROLE {name} LOGIN;",
        )
    if not (facts.replication or facts.superuser):
        yield _found(
            Gravity.REFUSED,
            f"The role {facts.name} lacks the attribute REPLICATION.",
            "Without it nobody may stream from a slot.",
            f"ALTER ROLE {name} REPLICATION;",
        )
    if facts.expired:
        yield _found(
            Gravity.REFUSED,
            f"The password of the role {facts.name} has expired.",
            "The connector's next connect fails.",
            f"ALTER ROLE {name} VALID UNTIL 'infinity';",
        )
    if facts.superuser:
        yield _found(
            Gravity.NOTE,
            f"The role {facts.name} is a superuser.",
            "It needs no more than REPLICATION and SELECT.",
            "Name a role of its own in DELTASYNC_SOURCE_DSN, and run `deltasync source setup`.",
        )


def _setting(facts: Facts, key: str, wanted: str) -> Iterator[Finding]:
    place, value = effective(facts.settings, key)
    if value is not None and _alike(key, value, wanted):
        return
    name = quoted(facts.name)
    pin = f"ALTER ROLE {name} SET {quoted(key)} = '{wanted}';"
    if place is None or value is None:
        yield _found(
            Gravity.WARNING,
            f"The role {facts.name} has no {key} of its own.",
            f"The server's default counts, whatever that will be. {_WHY[key]}",
            pin,
        )
        return
    of_both = f"ALTER ROLE {name} IN DATABASE {quoted(facts.database)} RESET {quoted(key)}; "
    yield _found(
        Gravity.REFUSED,
        f"{key} is {value} for the role {facts.name}{' in this database' if place.database else ''}, not {wanted}.",
        _WHY[key],
        (of_both if place == _PRECEDENCE[0] else "") + pin,
    )


def effective(settings: Mapping[Place, Mapping[str, str]], key: str) -> tuple[Place | None, str | None]:
    """Where the setting that counts is pinned, and its value; (None, None) where it is nowhere. Pure."""
    for place in _PRECEDENCE:
        value = settings.get(place, {}).get(key.lower())
        if value is not None:
            return place, value
    return None, None


def _alike(key: str, value: str, wanted: str) -> bool:
    if key == "extra_float_digits":  # any above 0 prints floats exactly
        return value.isdecimal() and int(value) > 0
    return value.strip('"').casefold() == wanted.casefold()


def _rights(facts: Facts) -> Iterator[Finding]:
    name = quoted(facts.name)
    missing = [] if facts.connect else [(f"ON DATABASE {quoted(facts.database)}", "CONNECT")]
    missing += [(f"ON SCHEMA {quoted(schema)}", "USAGE") for schema in facts.unusable]
    missing += [] if facts.beat else [("ON FUNCTION deltasync.beat(text, text, text)", "EXECUTE")]
    missing += [] if facts.signal else [("ON deltasync.signal", "INSERT")]
    for where, right in missing:
        yield _found(
            Gravity.REFUSED,
            f"The role {facts.name} lacks {right} {where.replace(chr(34), '')}.",
            "The connector, its heartbeat or `deltasync snapshot` would fail.",
            f"GRANT {right} {where} TO {name};",
        )
    for table in facts.unreadable:
        yield _found(
            Gravity.REFUSED,
            f"The role {facts.name} lacks SELECT on {table}.",
            "The initial snapshot would fail.",
            f"GRANT SELECT ON {table.sql} TO {name};",
            table,
        )
