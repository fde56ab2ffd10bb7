"""What differs between two descriptions of a table, as values: what happened, the DDL for the replica, what that costs.

Pure. The one answer to what a change of the source is: for policies, for what holds a table, for what is shown and
approved, and for what is carried out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from psycopg import sql

from deltasync.policy import Action
from deltasync.replica import ddl
from deltasync.table import Column, Table


class Kind(StrEnum):
    """Each has a setting of its name (`policy.Ddl`)."""

    CREATE_TABLE = "create_table"
    DROP_TABLE = "drop_table"
    RENAME_TABLE = "rename_table"
    ADD_COLUMN = "add_column"
    ADD_ENUM_LABEL = "add_enum_label"
    DROP_NOT_NULL = "drop_not_null"
    SET_DEFAULT = "set_default"
    SET_NOT_NULL = "set_not_null"
    WIDEN_TYPE = "widen_type"
    RENAME_COLUMN = "rename_column"
    DROP_COLUMN = "drop_column"
    CHANGE_TYPE = "change_type"
    CHANGE_KEY = "change_key"


# Rows from before the change fit the table behind it, so that it needs no place in their order.
_ADDITIVE = frozenset({Kind.ADD_COLUMN, Kind.ADD_ENUM_LABEL, Kind.DROP_NOT_NULL, Kind.SET_DEFAULT})
CREATED = "it was created on the source"
DROPPED = "it was dropped on the source"
_INTEGERS = ("int2", "int4", "int8")
_SIZED = re.compile(r".*\((\d+)(?:,(-?\d+))?\)")
# A literal, perhaps with a cast, as pg_get_expr prints it.
_CONSTANT = re.compile(
    r"('(?:[^']|'')*'|-?\d+(\.\d+)?|true|false|NULL)(::[a-z][a-z0-9_ .\"]*(\(\d+(,-?\d+)?\))?(\[\])*)?"
)


class SchemaChange(NamedTuple):
    """One thing that was done to a table on the source.

    `statements` do it on the replica, in order; `default` does the rest of it, and may call a function that only
    the source has. `rewrites`: they write the whole table anew. `obstacle` says why no statement would do.
    `column` is the one that it is about, by its new name.
    """

    kind: Kind
    what: str
    statements: tuple[sql.Composed, ...] = ()
    default: sql.Composed | None = None
    rewrites: bool = False
    obstacle: str | None = None
    column: str = ""

    @property
    def sql(self) -> list[str]:
        """The statements as text."""
        every = (*self.statements, *([self.default] if self.default else ()))
        return [statement.as_string(None) for statement in every]

    @property
    def lock(self) -> str | None:
        """The lock that the statements take on the table, until their transaction ends; None where they take none."""
        has_none = self.kind in (Kind.ADD_ENUM_LABEL, Kind.CREATE_TABLE) or not self.sql
        return None if has_none else "ACCESS EXCLUSIVE"


def changes(old: Table | None, new: Table | None, policy: Mapping[str, Action] | None = None) -> list[SchemaChange]:
    """What has to be done to a table that is as `old` says for it to be as `new` does, in order; None: there is none.

    What the policy says to ignore is left out, or leaves the replica's column such that rows without it fit.
    """
    if old is None or new is None:
        return _whole(old, new)
    ignored = {kind for kind, action in (policy or {}).items() if action == "ignore"}
    pairs = [(column, now) for column in old.columns if (now := same(column, new)) is not None]
    found = _named(old, new)
    found += _renamed(new, [(column.name, now.name) for column, now in pairs if column.name != now.name])
    found += [
        _dropped(new, column, keep=Kind.DROP_COLUMN in ignored) for column in old.columns if not same(column, new)
    ]
    for column, now in pairs:
        found += _altered(new, column, now)
    found += [_added(new, column) for column in new.columns if _is_new(column, old)]
    found += _labels(old, new)
    was = {renamed.name if (renamed := same(column, new)) else column.name for column in _key(old)}
    if was != set(new.primary_key):
        keys = [f"({', '.join(table.primary_key)})" for table in (old, new)]
        what = f"the primary key changed from {keys[0]} to {keys[1]} on the source"
        found.append(SchemaChange(Kind.CHANGE_KEY, what, obstacle="another key is for an operator to make"))
    return [change for change in found if change.kind not in ignored or change.kind is Kind.DROP_COLUMN]


def _named(old: Table, new: Table) -> list[SchemaChange]:
    if old.id == new.id:
        return []
    return [
        SchemaChange(Kind.RENAME_TABLE, f"it was renamed to {new.id} on the source", tuple(ddl.rename_table(old, new)))
    ]


def _whole(old: Table | None, new: Table | None) -> list[SchemaChange]:
    dropped = [] if old is None else [SchemaChange(Kind.DROP_TABLE, DROPPED, (ddl.drop_table(old),))]
    created = [] if new is None else [SchemaChange(Kind.CREATE_TABLE, CREATED)]
    return dropped + created


def action(found: Iterable[SchemaChange], policy: Mapping[str, Action]) -> Action:
    """What is done about changes together: the strictest of their policies. Those without an exact DDL are held."""
    said = {policy[change.kind] for change in found}
    obstacle = any(change.obstacle for change in found)
    return "stop" if "stop" in said else "hold" if "hold" in said or obstacle else "apply"


def is_additive(found: Iterable[SchemaChange]) -> bool:
    """True where rows from before these changes fit behind them, too."""
    return all(change.kind in _ADDITIVE for change in found)


def renames(old: Table, new: Table) -> bool:
    """True where a name means another column than before: values of rows that are ahead go into the wrong one."""
    return any((was := old.column(column.name)) is not None and same(was, new) != column for column in new.columns)


def obstacle(found: Iterable[SchemaChange]) -> str | None:
    """Why no DDL would do for these changes; None where theirs does."""
    return next((change.obstacle for change in found if change.obstacle), None)


def told(found: Iterable[SchemaChange]) -> str:
    """These changes in words; those that are more than additions first."""
    every = list(found)
    return "; ".join(change.what for change in [c for c in every if c.kind not in _ADDITIVE] or every)


def guessed(missing: Iterable[Column]) -> str | None:
    """A default that is evaluated per row gave the source's rows values that no record carries."""
    for column in missing:
        if column.generated or column.skipped or column.missing is not None:
            continue
        if column.identity:
            return f"the column {column.name} was added with an identity of its own for each row"
        if column.default is not None and not _CONSTANT.fullmatch(column.default):
            return (
                f"the column {column.name} was added with the default {column.default}, which differs from row to row"
            )
    return None


def same(old: Column, table: Table) -> Column | None:
    """The column that this one has become; by its name where a description is from before columns had numbers."""
    if old.number is None or any(column.number is None for column in table.columns):
        return table.column(old.name)
    return next((column for column in table.columns if column.number == old.number), None)


def _is_new(column: Column, old: Table) -> bool:
    return all(same(was, _one(column)) is None for was in old.columns)


def _one(column: Column) -> Table:
    return Table("", "", (column,))


def _key(table: Table) -> list[Column]:
    return [column for column in table.columns if column.name in table.primary_key]


def _renamed(table: Table, names: Sequence[tuple[str, str]]) -> list[SchemaChange]:
    """Renames; one whose name another column gives up first goes there by way of a name of its own."""
    taken = {old for old, _ in names}
    later, found = [], []
    for old, new in names:
        what = f"the column {old} was renamed to {new} on the source"
        if new in taken:
            parked = f"deltasync {old}"[:63]
            later.append(ddl.rename_column(table, parked, new))
            found.append(SchemaChange(Kind.RENAME_COLUMN, what, (ddl.rename_column(table, old, parked),)))
        else:
            found.append(SchemaChange(Kind.RENAME_COLUMN, what, (ddl.rename_column(table, old, new),)))
    if later:
        found[-1] = found[-1]._replace(statements=(*found[-1].statements, *later))
    return found


def _dropped(table: Table, column: Column, *, keep: bool) -> SchemaChange:
    what = f"the column {column.name} was dropped on the source"
    if not keep:
        return SchemaChange(Kind.DROP_COLUMN, what, (ddl.drop_column(table, column),))
    taken = "it cannot be kept: another column has its name now" if table.column(column.name) else None
    nullable = (ddl.drop_not_null(table, column),) if column.not_null else ()
    return SchemaChange(Kind.DROP_COLUMN, what, nullable, obstacle=taken)


def _added(table: Table, column: Column) -> SchemaChange:
    why = guessed([column])
    what = why or f"the column {column.name} was added on the source"
    default = ddl.set_default(table, column) if column.missing is not None and not column.generated else None
    statements = (ddl.add_columns(table, [column]),)
    stored = column.generated == "s"
    return SchemaChange(Kind.ADD_COLUMN, what, statements, default, rewrites=stored, obstacle=why)


def _altered(table: Table, old: Column, new: Column) -> list[SchemaChange]:
    """What became of one column, its name apart. A serial is an identity column here, which has no default."""
    if new.skipped:
        return []
    found = []
    drawn = old.identity or any((column.default or "").startswith("nextval(") for column in (old, new))
    default = None if drawn or new.identity or new.generated else ddl.set_default(table, new)
    if new.sql_type != old.sql_type:
        kind = Kind.WIDEN_TYPE if _is_wider(old, new) else Kind.CHANGE_TYPE
        what = f"the type of {new.name} changed from {old.sql_type} to {new.sql_type} on the source"
        rewrites = kind is Kind.CHANGE_TYPE or new.type.name in _INTEGERS
        computed = "it is generated from others" if new.generated else None
        again = default if new.default else None
        found.append(SchemaChange(kind, what, (ddl.change_type(table, new),), again, rewrites, computed, new.name))
    elif default and old.default != new.default:
        what = f"the default of {new.name} changed on the source"
        found.append(SchemaChange(Kind.SET_DEFAULT, what, default=default, column=new.name))
    if new.generated:
        return found
    if old.not_null and not new.not_null:
        what = f"null is allowed in {new.name} on the source"
        found.append(SchemaChange(Kind.DROP_NOT_NULL, what, (ddl.drop_not_null(table, new),)))
    if new.not_null and not old.not_null and new.name not in table.primary_key:
        what = f"null is not allowed in {new.name} any more on the source"
        found.append(SchemaChange(Kind.SET_NOT_NULL, what, (ddl.set_not_null(table, new),)))
    return found


def _is_wider(old: Column, new: Column) -> bool:
    """True where each text of the old type is the same value's text in the new one."""
    names = old.type.name, new.type.name
    if (old.type.schema, new.type.schema) != ("pg_catalog", "pg_catalog"):
        return False
    if set(names) <= set(_INTEGERS):
        return _INTEGERS.index(names[0]) < _INTEGERS.index(names[1])
    (size, scale), (new_size, new_scale) = _size(old), _size(new)
    if names in (("varchar", "text"), ("varchar", "varchar")):
        return new_size is None or (size is not None and size <= new_size)
    if names == ("numeric", "numeric"):
        return new_size is None or (size is not None and size <= new_size and scale == new_scale)
    return False


def _size(column: Column) -> tuple[int | None, int]:
    found = _SIZED.fullmatch(column.sql_type)
    return (int(found[1]), int(found[2] or 0)) if found else (None, 0)


def _labels(old: Table, new: Table) -> list[SchemaChange]:
    known = {(type_.schema, type_.name): type_ for type_ in old.types}
    found = []
    for type_ in new.types:
        was = known.get((type_.schema, type_.name))
        if type_.kind == "e" and was is not None and set(type_.labels or ()) - set(was.labels or ()):
            what = f"the type {type_.schema}.{type_.name} has more labels on the source"
            found.append(SchemaChange(Kind.ADD_ENUM_LABEL, what, tuple(ddl.add_labels(type_, was.labels or ()))))
    return found
