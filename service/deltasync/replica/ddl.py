"""DDL on the replica, made from a source table's description: schema, types, table, new columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import psycopg
from msgspec.structs import replace
from psycopg import sql

from deltasync.errors import RefusedError
from deltasync.postgres.type_sql import type_sql
from deltasync.table import Column, Table, TypeDefinition


def create_schema(name: str) -> sql.Composed:
    """A schema, if it is missing."""
    return sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name))


def create_table(table: Table, *, with_defaults: bool = True, unlogged: bool = False) -> sql.Composed:
    """Columns, types, NOT NULL, identity, generated columns, defaults and the primary key.

    A skipped column may be NULL: no value of it comes.

    A column whose default draws from a sequence becomes an identity column: it behaves alike, and
    needs no sequence of a name that may be taken.
    """
    parts: list[sql.Composable] = [_column(column, with_defaults=with_defaults) for column in table.columns]
    if table.primary_key:
        key = sql.SQL(", ").join(map(sql.Identifier, table.primary_key))
        parts.append(sql.SQL("PRIMARY KEY ({})").format(key))
    return sql.SQL("CREATE {} TABLE {} ({})").format(
        sql.SQL("UNLOGGED" if unlogged else ""), sql.Identifier(table.schema, table.name), sql.SQL(", ").join(parts)
    )


def drop_table(table: Table) -> sql.Composed:
    """Drops a table, if it is there; what depends on it is in the way, and stays."""
    return sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table.schema, table.name))


def rename_table(old: Table, new: Table) -> list[sql.Composed]:
    """Gives a table another name, or schema; its indexes, rights and what depends on it stay."""
    moved = sql.SQL("ALTER TABLE {} SET SCHEMA {}")
    renamed = sql.SQL("ALTER TABLE {} RENAME TO {}")
    found = []
    if old.schema != new.schema:
        found += [create_schema(new.schema), moved.format(sql.Identifier(*old.id), sql.Identifier(new.schema))]
    if old.name != new.name:
        found.append(renamed.format(sql.Identifier(new.schema, old.name), sql.Identifier(new.name)))
    return found


def add_columns(table: Table, columns: Iterable[Column]) -> sql.Composed:
    """Adds columns; the rows that are there get what they have on the source: `missing`, or a constant default."""
    filling = [_column(replace(column, default=_fill(column)), with_defaults=True) for column in columns]
    added = [sql.SQL("ADD COLUMN IF NOT EXISTS {}").format(column) for column in filling]
    return sql.SQL("ALTER TABLE {} {}").format(sql.Identifier(table.schema, table.name), sql.SQL(", ").join(added))


def other_than_filled(table: Table, column: Column) -> sql.Composed:
    """A row, if there is one, that holds something else in a column than `add_columns` would have filled in."""
    return sql.SQL("SELECT FROM {} WHERE {}::text IS DISTINCT FROM ({}::{})::text LIMIT 1").format(
        sql.Identifier(*table.id), sql.Identifier(column.name), _expression(_fill(column)), type_sql(column)
    )


def set_default(table: Table, column: Column) -> sql.Composed:
    """Gives a column the default of rows to come, or none."""
    default = (
        sql.SQL("SET DEFAULT {}").format(_expression(column.default)) if column.default else sql.SQL("DROP DEFAULT")
    )
    return sql.SQL("ALTER TABLE {} ALTER {} {}").format(
        sql.Identifier(table.schema, table.name), sql.Identifier(column.name), default
    )


def drop_not_null(table: Table, column: Column) -> sql.Composed:
    """Lets a column be null."""
    return sql.SQL("ALTER TABLE {} ALTER {} DROP NOT NULL").format(
        sql.Identifier(table.schema, table.name), sql.Identifier(column.name)
    )


def set_not_null(table: Table, column: Column) -> sql.Composed:
    """Refuses null in a column. Reads the whole table."""
    return sql.SQL("ALTER TABLE {} ALTER {} SET NOT NULL").format(
        sql.Identifier(table.schema, table.name), sql.Identifier(column.name)
    )


def rename_column(table: Table, old: str, new: str) -> sql.Composed:
    """Gives a column another name."""
    return sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
        sql.Identifier(table.schema, table.name), sql.Identifier(old), sql.Identifier(new)
    )


def drop_column(table: Table, column: Column) -> sql.Composed:
    """Drops a column; what depends on it is in the way, and stays."""
    return sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(
        sql.Identifier(table.schema, table.name), sql.Identifier(column.name)
    )


def change_type(table: Table, column: Column) -> sql.Composed:
    """Gives a column its type, by the cast from the one it has. Its default goes, which may have no such cast."""
    drawn = column.identity or (column.default or "").startswith("nextval(")
    name, type_ = sql.Identifier(column.name), type_sql(column)
    default = sql.SQL("") if drawn else sql.SQL("ALTER {} DROP DEFAULT, ").format(name)
    return sql.SQL("ALTER TABLE {} {}ALTER {} TYPE {} USING {}::{}").format(
        sql.Identifier(table.schema, table.name), default, name, type_, name, type_
    )


def create_extension(type_: TypeDefinition) -> sql.Composed:
    """The extension that a type belongs to, in the schema where the source has it."""
    return sql.SQL("CREATE EXTENSION IF NOT EXISTS {} SCHEMA {}").format(
        sql.Identifier(type_.extension or ""), sql.Identifier(type_.schema)
    )


def create_type(type_: TypeDefinition) -> sql.Composed:
    """An enum, domain, composite or range type; what it is made of must be there.

    Constraints of a domain are left out: the source has enforced them. Raises RefusedError for any other type.
    """
    name = sql.Identifier(type_.schema, type_.name)
    parts = [(sql.Identifier(attribute.name), type_sql(attribute)) for attribute in type_.attributes or ()]
    match type_.kind:
        case "e":
            labels = sql.SQL(", ").join(map(sql.Literal, type_.labels or ()))
            return sql.SQL("CREATE TYPE {} AS ENUM ({})").format(name, labels)
        case "d":
            return sql.SQL("CREATE DOMAIN {} AS {}").format(name, parts[0][1])
        case "c":
            attributes = sql.SQL(", ").join(sql.SQL("{} {}").format(*part) for part in parts)
            return sql.SQL("CREATE TYPE {} AS ({})").format(name, attributes)
        case "r":
            # Of its own schema, wherever the session would make it.
            multirange = sql.Identifier(type_.schema, type_.multirange or "")
            statement = sql.SQL("CREATE TYPE {} AS RANGE (subtype = {}, multirange_type_name = {})")
            return statement.format(name, parts[0][1], multirange)
        case _:
            raise RefusedError(
                f"The type {type_.schema}.{type_.name} cannot be made from its description.",
                remedy="Make it on the replica as it is on the source.",
            )


def add_labels(type_: TypeDefinition, known: Sequence[str]) -> list[sql.Composed]:
    """The statements that add the labels an enum lacks, each behind the one that it follows on the source."""
    type_name = sql.Identifier(type_.schema, type_.name)
    labels = type_.labels or ()
    found = []
    for place, label in enumerate(labels):
        if label in known:
            continue
        where = sql.SQL(" AFTER {}").format(sql.Literal(labels[place - 1])) if place else sql.SQL("")
        if not place and known:
            where = sql.SQL(" BEFORE {}").format(sql.Literal(known[0]))
        statement = sql.SQL("ALTER TYPE {} ADD VALUE IF NOT EXISTS {}{}")
        found.append(statement.format(type_name, sql.Literal(label), where))
    return found


def _column(column: Column, *, with_defaults: bool) -> sql.Composed:
    parts: list[sql.Composable] = [sql.Identifier(column.name), type_sql(column)]
    if column.generated:
        kind = sql.SQL("STORED" if column.generated == "s" else "VIRTUAL")
        parts.append(sql.SQL("GENERATED ALWAYS AS ({}) {}").format(_expression(column.default), kind))
    elif column.identity or (column.default or "").startswith("nextval("):
        parts.append(sql.SQL("GENERATED BY DEFAULT AS IDENTITY"))
    elif column.default is not None and with_defaults:
        parts.append(sql.SQL("DEFAULT {}").format(_expression(column.default)))
    if column.not_null and not column.skipped:
        parts.append(sql.SQL("NOT NULL"))
    return sql.SQL(" ").join(parts)


def _fill(column: Column) -> str | None:
    """What rows hold that were there before a column, as an expression; None for null."""
    return column.default if column.missing is None else sql.Literal(column.missing).as_string(None)


def _expression(text: str | None) -> sql.SQL:
    """An expression of the source's catalog; `execute` keeps it from being more than one statement."""
    return sql.SQL(text or "NULL")  # executed by `execute` alone


def execute(connection: psycopg.Connection, statement: sql.Composed) -> psycopg.Cursor:
    """Run one statement by the extended protocol, which refuses a second one behind a semicolon."""
    return connection.execute(statement, binary=True)
