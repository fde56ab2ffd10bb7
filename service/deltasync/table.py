"""What a table is: its name, its columns, its key. The nouns that all stages share.

A `Table` is the description that the source announces in `deltasync.schema_log`
(`source/sql/describe.sql` writes the JSON, `Table.from_json` reads it). The replica's tables
are created from it, and records are decoded by it.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import msgspec


class TableId(NamedTuple):
    """A table's schema and name, exactly as PostgreSQL holds them (unquoted)."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        """The name as a statement needs it, quoted, for remedies that are pasted."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    def topic(self, prefix: str) -> str:
        """The topic of its records: Debezium writes `_` for what a topic's name cannot hold."""
        return re.sub(r"[^A-Za-z0-9._-]", "_", f"{prefix}.{self}")


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


class TypeName(msgspec.Struct, frozen=True):
    """A type by its catalog name: `pg_catalog.int4`, `shop.order_status`."""

    schema: str
    name: str

    def __str__(self) -> str:
        return self.name if self.schema == "pg_catalog" else f"{self.schema}.{self.name}"


class Attribute(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something of a type: a column, an attribute of a composite type, what a domain or a range is made of.

    `sql_type` is `format_type(atttypid, atttypmod)`: what CREATE TABLE wants. `element` is set for arrays.
    """

    name: str
    sql_type: str
    type: TypeName
    element: TypeName | None = None


class Column(Attribute, frozen=True, omit_defaults=True, kw_only=True):
    """One column as the source's catalog describes it.

    `base` is set for a domain: the type that it stands for in the end. `kind` is that type's pg_type.typtype
    (b, e, c, r, m), `extension` the one that it, or the element of an array, belongs to.
    `generated` is 's' or 'v', `identity` 'a' or 'd'.
    `skipped`: it cannot be carried exactly, and its table's settings say to leave it alone on the replica.
    `collation_exact` is false where equal values may differ in text (a nondeterministic collation).
    `number` is pg_attribute.attnum, which a column keeps whatever its name becomes, and none has again.
    `missing` is what rows hold that were there before it, as text (attmissingval), where they were not rewritten.
    `added`: it came while the table was held, and may not be on the replica as it is on the source.
    """

    base: Attribute | None = None
    kind: str = "b"
    extension: str | None = None
    not_null: bool = False
    default: str | None = None
    identity: str | None = None
    generated: str | None = None
    collation_exact: bool = True
    skipped: bool = False
    number: int | None = None
    missing: str | None = None
    added: bool = False

    @property
    def carrier(self) -> Attribute:
        """The column itself, or what its domain stands for: the type whose values travel."""
        return self.base or self


class TypeDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A type that is no built-in: what CREATE TYPE or CREATE DOMAIN wants, without constraints.

    `kind` is pg_type.typtype (e, d, c, r, b), 'x' for a type of an extension, which is not described any
    further, or 't' for the row type of a table. `attributes` are those of a composite type; a domain and a
    range have one. `multirange` names the type that comes along with a range.
    """

    schema: str
    name: str
    kind: str
    extension: str | None = None
    labels: tuple[str, ...] | None = None
    attributes: tuple[Attribute, ...] | None = None
    multirange: str | None = None


class Former(msgspec.Struct, frozen=True):
    """A name that a column gave up, and the place in the source's log up to which rows may have meant another by it."""

    name: str
    number: int | None
    until: int


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of a table: columns in order, the key's column names in key order.

    `primary_key` holds the columns of the index that REPLICA IDENTITY names where there is no primary key.
    `replica_identity` is pg_class.relreplident (d, n, f, i); `kind` is pg_class.relkind (r, p).
    `parent` names the partitioned or inherited parent, if there is one. `types` are all that the columns
    need and PostgreSQL does not have by itself, each behind those that it is made of. `former` names are what the
    replica remembers: no announcement has them.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    replica_identity: str = "d"
    kind: str = "r"
    persistence: str = "p"
    parent: str | None = None
    types: tuple[TypeDefinition, ...] = ()
    former: tuple[Former, ...] = ()

    @property
    def id(self) -> TableId:
        return TableId(self.schema, self.name)

    @property
    def stored_columns(self) -> tuple[Column, ...]:
        """The columns whose values travel: the replica computes generated ones itself, skipped ones are left alone."""
        return tuple(c for c in self.columns if not (c.generated or c.skipped))

    @property
    def skipped_columns(self) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c.skipped)

    @property
    def is_keyed_by_rows(self) -> bool:
        """True where the key is read from the rows, since that of the records need not be the table's.

        Debezium takes the first unique index by its name for a key where there is no primary key.
        """
        return self.replica_identity == "i"

    @property
    def is_keyless(self) -> bool:
        """True where nothing tells a row from another one that is equal: REPLICA IDENTITY FULL, and no primary key."""
        return not self.primary_key

    @property
    def is_told_by_rows(self) -> bool:
        """True where the key of a record is none of the table's: there is no primary key."""
        return self.is_keyless or self.is_keyed_by_rows

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)

    @classmethod
    def from_json(cls, description: str | bytes) -> Table:
        """Read a description. Raises msgspec.ValidationError where it is not one."""
        return msgspec.json.decode(description, type=cls)

    @classmethod
    def from_value(cls, description: object) -> Table:
        """Read a description that a driver has parsed already."""
        return msgspec.convert(description, type=cls)

    def to_value(self) -> object:
        """The description as plain lists and dicts."""
        return msgspec.to_builtins(self)


# What the reason begins with why a table is held whose rows are under another name here.
ARRIVES = "it was renamed on the source, and is here as "


class Version(msgspec.Struct, frozen=True, omit_defaults=True):
    """A description that the replica's table does not fit yet; None where the table was dropped.

    Where it was `renamed`, the description has its new name, under which its records travel from then on.

    `action` is what is done about it: `apply` where the replica's table is to be made to fit. That may be at any time
    (`anytime`), or where all rows from before the change were applied: rows whose own place in the source's log is
    before `lsn` are. `lsn` is None where that is not known. `at_us` is the source's clock then, in microseconds, and
    `xid` the transaction that made the change, if it is known.
    """

    log_id: int
    description: Table | None
    action: Literal["apply", "hold", "ignore", "stop"]
    lsn: int | None = None
    anytime: bool = False
    at_us: int = 0
    xid: int | None = None
    renamed: bool = False

    @property
    def is_drop(self) -> bool:
        return self.description is None

    @property
    def leaves(self) -> bool:
        """True where the table has its name no more behind this."""
        return self.renamed or self.is_drop


class SourceTable(NamedTuple):
    """What is known of a source table.

    `captured`: it is in the publication; where not, `reason` says why. `complete`: no rows are owed
    that it held before it was captured. `dropped`: it is gone from the source. `held`: why its
    records wait although it is captured. `log_id` is the newest entry of the schema log about it.
    `description` is what the replica's table fits, or should; what became of it since on the source are the `pending`
    versions, oldest first. While there are some, records of rows from before them are applied.
    `gone_lsn` is the place in the source's log of the last drop that was carried out, and `gone_at_us` the source's
    clock at its commit: records from before it are void, whatever table has the name since.
    """

    log_id: int
    captured: bool
    complete: bool
    dropped: bool
    reason: str | None
    held: str | None
    description: Table | None
    pending: tuple[Version, ...] = ()
    gone_lsn: int | None = None
    gone_at_us: int = 0

    @property
    def newest(self) -> Table | None:
        """The table as it is on the source; None where it is not there."""
        if not self.pending:
            return self.description
        return None if self.pending[-1].leaves else self.pending[-1].description

    @property
    def is_gone(self) -> bool:
        """True where it was dropped or renamed, here too."""
        return self.description is None and not self.pending

    @property
    def is_to_go(self) -> bool:
        """True where it was dropped or renamed, and the replica's table still has the name."""
        return any(version.leaves for version in self.pending)

    @property
    def is_arriving(self) -> bool:
        """True where the replica's table has its former name yet."""
        return (self.held or "").startswith(ARRIVES)
