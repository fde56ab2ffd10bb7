"""What a table is: its name, its columns, its key. The nouns that all stages share.

A `Table` is the description that the source announces in `deltasync.schema_log`
(`source/sql/describe.sql` writes the JSON, `Table.from_json` reads it). The replica's tables
are created from it, and records are decoded by it.
"""

from __future__ import annotations

from typing import NamedTuple

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


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One column as the source's catalog describes it.

    `sql_type` is `format_type(atttypid, atttypmod)`: what CREATE TABLE wants.
    `element` is set for arrays; `labels` for enums (of the element, for an array of enums).
    `domain` is true where the type is a domain; `generated` is 's' or 'v', `identity` 'a' or 'd'.
    `collation_exact` is false where equal values may differ in text (a nondeterministic collation).
    """

    name: str
    sql_type: str
    type: TypeName
    not_null: bool = False
    default: str | None = None
    identity: str | None = None
    generated: str | None = None
    element: TypeName | None = None
    labels: tuple[str, ...] | None = None
    domain: bool = False
    collation_exact: bool = True


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of a table: columns in order, the key's column names in key order.

    `replica_identity` is pg_class.relreplident (d, n, f, i); `kind` is pg_class.relkind (r, p).
    `parent` names the partitioned or inherited parent, if there is one.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    replica_identity: str = "d"
    kind: str = "r"
    persistence: str = "p"
    parent: str | None = None

    @property
    def id(self) -> TableId:
        return TableId(self.schema, self.name)

    @property
    def stored_columns(self) -> tuple[Column, ...]:
        """The columns whose values travel: generated ones are computed again on the replica."""
        return tuple(c for c in self.columns if not c.generated)

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


class SourceTable(NamedTuple):
    """The newest state of a source table.

    `captured`: it is in the publication; where not, `reason` says why. `complete`: no rows are owed
    that it held before it was captured. `dropped`: it is gone from the source. `held`: why its
    records wait although it is captured. `log_id` is the schema log's entry that said so.
    """

    log_id: int
    captured: bool
    complete: bool
    dropped: bool
    reason: str | None
    held: str | None
    description: Table | None
