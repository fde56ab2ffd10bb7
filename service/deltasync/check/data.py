"""Values that a type holds and the way cannot carry, looked for in the tables themselves: one scan of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import LiteralString, NamedTuple

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from deltasync.failure import describe
from deltasync.finding import Area, Finding, Gravity
from deltasync.postgres.types import type_key
from deltasync.source.generated import is_overridden
from deltasync.table import Column, Table

TIMEOUT_S = 60


class Limit(NamedTuple):
    """`condition` is true of a value (`{}` is the column) that does not arrive as it is; `raw_text`: nor with it."""

    what: str
    why: str
    condition: LiteralString
    raw_text: bool = True


_DATES = Limit(
    "dates before the year 1 or from 5 to 14 October 1582",
    "Debezium's snapshot alters them, and the table's name keeps it from being told otherwise; later changes arrive as "
    "they are.",
    "{0} < '0001-01-01' AND isfinite({0}) OR {0} BETWEEN '1582-10-05' AND '1582-10-14'",
)
_TIMESTAMPS = Limit(
    "timestamps after 294247-01-10",
    "Debezium counts microseconds in 64 bits: they arrive as another moment, or as infinity.",
    "isfinite({0}) AND {0} >= '294247-01-10 04:00:54.775807'",
)
_INTERVALS = Limit("infinite intervals", "Debezium sends them as zero.", "NOT isfinite({0})")
_BOUNDS = Limit(
    "arrays with more than one dimension, or that do not begin at 1",
    "Debezium drops their bounds, or sends rows of nulls.",
    "array_ndims({0}) > 1 OR array_lower({0}, 1) <> 1",
    raw_text=False,
)
_NULLS = Limit(
    "arrays of nothing but nulls",
    "Debezium sends arrays of several dimensions alike, so they stop their partition.",
    "cardinality({0}) > 0 AND cardinality(array_remove({0}, NULL)) = 0",
    raw_text=False,
)
_LIMITS: Mapping[str, Sequence[Limit]] = {
    "date": (_DATES,),
    "timestamp": (_TIMESTAMPS,),
    "interval": (_INTERVALS,),
}
# Of all others it cannot be told whether nulls were rows.
_TEXTS = frozenset({"_text", "_varchar"})


def judge(connection: Connection[TupleRow], tables: Sequence[Table], *, raw_text: bool) -> Iterator[Finding]:
    """Scan each table that has a column of such a type, for 60 s at most. Blocks; reads, and locks nothing else out."""
    connection.execute(f"SET statement_timeout = '{TIMEOUT_S}s'")
    for table in tables:
        suspects = [
            (column, limit)
            for column in table.stored_columns
            for limit in limits(column)
            if (limit.raw_text or not raw_text) and not (limit is _DATES and is_overridden(table))
        ]
        if suspects:
            yield from _scan(connection, table, suspects)


def limits(column: Column) -> Sequence[Limit]:
    """What to look for in a column of this type; pure."""
    if column.carrier.element is not None:
        return (_BOUNDS,) if type_key(column) in _TEXTS else (_BOUNDS, _NULLS)
    return _LIMITS.get(type_key(column), ())


def _scan(
    connection: Connection[TupleRow], table: Table, suspects: Sequence[tuple[Column, Limit]]
) -> Iterator[Finding]:
    conditions = [
        sql.SQL("coalesce(bool_or({}), false)").format(sql.SQL(limit.condition).format(sql.Identifier(column.name)))
        for column, limit in suspects
    ]
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(conditions), sql.Identifier(*table.id))
    try:
        row = connection.execute(query).fetchone() or ()
    except psycopg.Error as error:
        yield Finding(
            Gravity.NOTE,
            Area.TABLES,
            f"The rows of {table.id} could not be looked at: {describe(error)}.",
            f"Each table is given {TIMEOUT_S} s.",
            "Look at a quiet hour, with a role that may read it.",
            table.id,
        )
        return
    for (column, limit), found in zip(suspects, row, strict=True):
        if found:
            yield Finding(
                Gravity.REFUSED,
                Area.TABLES,
                f"{table.id}: column {column.name} holds {limit.what}.",
                limit.why,
                _remedy(table, column, limit),
                table.id,
            )


def _remedy(table: Table, column: Column, limit: Limit) -> str:
    query = sql.SQL("SELECT * FROM {} WHERE {};").format(
        sql.Identifier(*table.id), sql.SQL(limit.condition).format(sql.Identifier(column.name))
    )
    return f'See which, and change them: {query.as_string(None)} Or exclude = ["{table.id}"] in [source].'
