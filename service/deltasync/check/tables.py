"""The source's tables: which cannot be carried exactly, which are left out, and why."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from deltasync.finding import Area, Finding, Gravity
from deltasync.invalid import nearest
from deltasync.postgres.types import left_alone, unsupported
from deltasync.source.statements import Pipeline
from deltasync.table import Table, TableId, quoted


class Traits(NamedTuple):
    """What a description does not tell about a table.

    `key_immediate` and `key_valid` are None without a primary key, `key_name` is its constraint's or index's
    name. `leaves` are the partitions below it that publish no key of their own, `foreign` those elsewhere.
    """

    partition: bool
    inherited: bool
    row_security: bool
    key_name: TableId | None
    key_immediate: bool | None
    key_valid: bool | None
    leaves: tuple[TableId, ...]
    foreign: tuple[TableId, ...]


class Reason(NamedTuple):
    """Why a table is left out: what it is, why that matters, what to do."""

    what: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Facts:
    """All that is judged: the tables of the captured schemas and what the publication holds.

    `raw_text` says whether the connector has the raw-text converter, `keyless` whether tables without a key are
    to be captured.
    """

    tables: tuple[Table, ...]
    traits: Mapping[TableId, Traits]
    published: frozenset[TableId]
    exclude: frozenset[TableId]
    raw_text: bool
    keyless: bool = False

    @cached_property
    def topmost(self) -> list[Table]:
        """The tables that travel under their own name, those that are excluded apart: no partitions."""
        return [t for t in self.tables if not self.traits[t.id].partition and t.id not in self.exclude]

    @cached_property
    def left_out(self) -> dict[TableId, list[Reason]]:
        """The tables that are left out as a whole, and why."""
        return {table.id: found for table in self.topmost if (found := list(_reasons(self, table)))}

    @cached_property
    def captured(self) -> list[Table]:
        """The tables that are captured, or will be."""
        carried = (table for table in self.topmost if not unsupported(table, raw_text=self.raw_text))
        return [table for table in carried if table.id not in self.left_out]

    @cached_property
    def guarded(self) -> list[TableId]:
        """Those of them with row security."""
        return [table.id for table in self.captured if self.traits[table.id].row_security]

    @cached_property
    def namesakes(self) -> dict[tuple[str, str], list[TableId]]:
        """The tables behind each topic."""
        found = defaultdict(list)
        for table in self.tables:
            if not self.traits[table.id].partition:
                found[table.schema, topic_part(table.name)].append(table.id)
        return found


def read(
    connection: Connection[TupleRow],
    tables: Sequence[Table],
    published: Collection[TableId],
    pipeline: Pipeline,
) -> Facts:
    """What the catalog tells beside these descriptions. Blocks for one query."""
    schemas = sorted({table.schema for table in tables})
    traits: dict[TableId, Traits] = {}
    for schema, name, key, leaves, foreign, *rest in connection.execute(_TRAITS, [schemas]):
        key_name = None if key is None else TableId(schema, key)
        below = (tuple(TableId(*one) for one in found) for found in (leaves, foreign))
        partition, inherited, row_security, immediate, valid = rest
        traits[TableId(schema, name)] = Traits(partition, inherited, row_security, key_name, immediate, valid, *below)
    known = tuple(table for table in tables if table.id in traits)
    exclude = frozenset(pipeline.exclude)
    return Facts(known, traits, frozenset(published), exclude, pipeline.raw_text, pipeline.keyless)


_TRAITS = """
    SELECT n.nspname::text, c.relname::text, (SELECT k.relname::text FROM pg_class k WHERE k.oid = i.indexrelid),
           ARRAY(SELECT ARRAY[ln.nspname::text, l.relname::text]
                   FROM pg_partition_tree(c.oid) p
                   JOIN pg_class l ON l.oid = p.relid AND p.isleaf AND p.relid <> c.oid AND l.relkind <> 'f'
                   JOIN pg_namespace ln ON ln.oid = l.relnamespace
                  WHERE l.relreplident <> 'f'
                    AND (c.relreplident = 'f' AND i.indexrelid IS NULL OR NOT EXISTS (SELECT FROM pg_index li
                                     WHERE li.indrelid = l.oid AND li.indisvalid AND li.indimmediate
                                       AND CASE l.relreplident WHEN 'd' THEN li.indisprimary
                                                               WHEN 'i' THEN li.indisreplident END))),
           ARRAY(SELECT ARRAY[ln.nspname::text, l.relname::text]
                   FROM pg_partition_tree(c.oid) p
                   JOIN pg_class l ON l.oid = p.relid AND p.isleaf AND l.relkind = 'f'
                   JOIN pg_namespace ln ON ln.oid = l.relnamespace),
           c.relispartition,
           c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid),
           c.relrowsecurity,
           i.indimmediate, i.indisvalid
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname = ANY(%s)
"""


def judge(facts: Facts) -> Iterator[Finding]:
    """Every finding about them; pure. A table that is excluded by name has none, unless it stops the connector."""
    yield from _same_but_for_case(facts)
    for id_, reasons in facts.left_out.items():
        yield from _left_out(id_, reasons, published=id_ in facts.published)
    for table in facts.topmost:
        if table.id not in facts.left_out:
            yield from _not_carried(table, raw_text=facts.raw_text)
    yield from _names(facts)


def strangers(tables: Iterable[Table], where: str, named: Iterable[str], gravity: Gravity) -> Iterator[Finding]:
    """The names in the settings, `where`, that are of no table of the captured schemas; pure."""
    known = {str(table.id) for table in tables}
    for name in sorted({*named} - known):
        near = nearest(name, known)
        yield Finding(
            gravity,
            Area.TABLES,
            f"{where} names {name}, and the captured schemas have no such table.",
            "What is said there of it has no effect.",
            f"Did you mean {near}? Correct or remove it." if near else "Correct or remove it.",
        )


_NOT_EXACT = "What the replica would get may differ from the source's value, or be missing."


def _exclude(table: TableId, instead: str) -> str:
    return f'{instead} Or leave the table out: exclude = ["{table}"] in [source], then `deltasync source setup`.'


def _skip(table: TableId) -> str:
    return f' Or leave the column alone: on_unsupported = "skip-column" in [tables."{table}"].'


def _refused(table: TableId, what: str, why: str, remedy: str) -> Finding:
    return Finding(Gravity.REFUSED, Area.TABLES, what, why, remedy, table)


def _not_carried(table: Table, *, raw_text: bool) -> Iterator[Finding]:
    for problem in left_alone(table, raw_text=raw_text):
        yield Finding(
            Gravity.NOTE,
            Area.TABLES,
            f"{table.id}: {problem}.",
            'It is left alone on the replica, by on_unsupported = "skip-column".',
            mending(table, problem),
            table.id,
        )
    for problem in unsupported(table, raw_text=raw_text):
        if "differ only by case" not in problem:  # told of every table, captured or not
            remedy = _exclude(table.id, mending(table, problem))
            if may_be_skipped(table, problem):
                remedy += _skip(table.id)
            yield _refused(table.id, f"{table.id}: {problem}.", _NOT_EXACT, remedy)


def may_be_skipped(table: Table, problem: str) -> bool:
    """True where the sentence is about a column that the table can do without: not of its key; pure."""
    return any(problem.startswith(f"column {c.name}: ") for c in table.columns if c.name not in table.primary_key)


def mending(table: Table, problem: str) -> str:
    """What mends a sentence of `unsupported`; pure."""
    found = [f"ALTER TABLE {table.id.sql} REPLICA IDENTITY FULL;"] if "REPLICA IDENTITY FULL" in problem else []
    if "DELTASYNC_CONNECT_RAW_TEXT" in problem:
        found.append("Install the raw-text converter in Connect and set DELTASYNC_CONNECT_RAW_TEXT=true.")
    return " Or ".join(found) or "Change the column."


def _left_out(table: TableId, reasons: Iterable[Reason], *, published: bool) -> Iterator[Finding]:
    """A table that is left out as a whole is a warning; one that is published all the same is refused."""
    for what, why, remedy in reasons:
        yield Finding(
            Gravity.REFUSED if published else Gravity.WARNING,
            Area.TABLES,
            f"{table} {what}.",
            f"{why} {'It is in the publication all the same.' if published else 'It is not captured.'}",
            _exclude(table, remedy),
            table,
        )


def _reasons(facts: Facts, table: Table) -> Iterator[Reason]:
    """As deltasync.refusal decides on the source, types apart; a test holds the two together."""
    traits, name = facts.traits[table.id], table.id.sql
    if table.persistence == "u":
        yield Reason("is unlogged", "Its changes are not in the WAL.", f"ALTER TABLE {name} SET LOGGED;")
    if traits.inherited:
        why = "The initial snapshot would repeat its children's rows."
        yield Reason("has tables that inherit from it", why, "Make it a partitioned table.")
    if table.primary_key:
        yield from _key(table, traits)
    elif table.replica_identity != "f":
        yield _no_key(
            name,
            f"ALTER TABLE {name} REPLICA IDENTITY USING INDEX …; (a unique index of NOT NULL columns) Or: "
            f"ALTER TABLE {name} REPLICA IDENTITY FULL; with DELTASYNC_SOURCE_KEYLESS=true.",
        )
    elif not facts.keyless:
        yield _no_key(
            name,
            "DELTASYNC_SOURCE_KEYLESS=true, then deltasync connectors apply and source setup: equal rows are counted.",
        )
    if table.replica_identity == "n":
        why = "Its updates and deletes would not say which row they are about."
        yield Reason("has REPLICA IDENTITY NOTHING", why, f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT;")
    yield from _partitions(table, traits)
    if re.search(r'["\x00-\x1f\x7f]', table.name):
        why = "Debezium reads such a name wrongly, or stops."
        yield Reason("has a quote or a control character in its name", why, f"ALTER TABLE {name} RENAME TO …;")
    same = [other for other in facts.namesakes[table.schema, topic_part(table.name)] if other != table.id]
    if same:
        why = "Their changes would travel in one topic."
        what = f"has the same topic name as {', '.join(map(str, same))}"
        yield Reason(what, why, f"ALTER TABLE {name} RENAME TO …;")


def _no_key(name: str, instead: str) -> Reason:
    why = "Without a key no changed row can be found again."
    return Reason("has no primary key", why, f"ALTER TABLE {name} ADD PRIMARY KEY (…); Or: {instead}")


def _key(table: Table, traits: Traits) -> Iterator[Reason]:
    name = table.id.sql
    key = ", ".join(quoted(column) for column in table.primary_key)
    if table.replica_identity == "i" and table.kind == "p" and traits.key_name is None:
        why = "Its partitions may have other indexes as theirs."
        yield Reason(
            "is partitioned and has an index as REPLICA IDENTITY", why, f"ALTER TABLE {name} ADD PRIMARY KEY (…);"
        )
    if table.replica_identity == "i" and traits.key_name is not None:
        why = "Its deletes would carry the index's columns, and an invented key."
        yield Reason(
            "has an index as REPLICA IDENTITY beside its primary key",
            why,
            f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT;",
        )
    if traits.key_immediate is False and traits.key_name is not None:
        constraint = quoted(traits.key_name.name)
        remedy = f"ALTER TABLE {name} DROP CONSTRAINT {constraint}, ADD CONSTRAINT {constraint} PRIMARY KEY ({key});"
        yield Reason("has a deferrable primary key", "PostgreSQL does not take it as REPLICA IDENTITY.", remedy)
    if traits.key_valid is False and traits.key_name is not None:
        yield Reason(
            "has an invalid primary key", "Its index is not complete.", f"REINDEX INDEX {traits.key_name.sql};"
        )


def _partitions(table: Table, traits: Traits) -> Iterator[Reason]:
    for leaf in traits.foreign:
        why = "Its changes are not in this server's WAL."
        remedy = f"Detach it: ALTER TABLE … DETACH PARTITION {leaf.sql};"
        yield Reason(f"has the foreign partition {leaf}", why, remedy)
    for leaf in traits.leaves:
        why = "Updates there would not say which row they are about, and may fail once it is published."
        identity = "FULL" if table.is_keyless else "DEFAULT"
        yield Reason(
            f"has the partition {leaf} without a usable key",
            why,
            f"ALTER TABLE {leaf.sql} REPLICA IDENTITY {identity};",
        )


def topic_part(name: str) -> str:
    """A table's name in its topic: Debezium writes `_` for what a topic's name cannot hold."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _same_but_for_case(facts: Facts) -> Iterator[Finding]:
    """Of every table of the schemas: Debezium reads the columns of them all, published or not (measured)."""
    for table in facts.tables:
        names = defaultdict(list)
        for column in table.columns:
            names[column.name.lower()].append(column.name)
        for same in names.values():
            if len(same) > 1:
                yield _refused(
                    table.id,
                    f"{table.id}: the column names {', '.join(sorted(same))} differ only by case.",
                    "Debezium stops at such a table, even if it is not captured.",
                    f"ALTER TABLE {table.id.sql} RENAME COLUMN {quoted(max(same))} TO …;"
                    " or put the table into the connector's table.exclude.list.",
                )


def _names(facts: Facts) -> Iterator[Finding]:
    """Names that Debezium's lists, which do not mind case, cannot tell apart."""
    captured = {(table.schema, table.name.lower()): table.id for table in facts.captured}
    ours = set(captured.values())
    for table in facts.tables:
        same = captured.get((table.schema, table.name.lower()))
        if same is not None and table.id not in ours:
            yield Finding(
                Gravity.WARNING,
                Area.TABLES,
                f"{table.id} is left out, and its name differs from that of {same} only by case.",
                "Debezium's lists do not mind case: the initial snapshot would read it too.",
                f"ALTER TABLE {table.id.sql} RENAME TO …;",
                table.id,
            )
