"""The SQL that applies rows, built from the replica's own catalog: identifiers quoted, values bound.

Every statement reads its rows from a source `s`: either `unnest` of one text array per column (few
rows: one round trip, one prepared statement per table) or a temporary table (many rows: COPY). The
replica's column types parse PostgreSQL's text in both.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from deltasync.postgres.type_sql import type_sql
from deltasync.postgres.types import type_key
from deltasync.replica.constraints import Acting
from deltasync.table import Table

# Equal keys of all other types may differ in text (1.0 and 1.00, -0 and 0), so an upsert writes the key, too.
_ONE_TEXT = frozenset(
    {"bool", "bytea", "date", "enum", "int2", "int4", "int8", "text", "time", "timestamp", "timestamptz", "uuid"}
    | {"name", "oid", "varchar"}
)

# The casts of text to these are functions that read less than the type itself: no \377, no - for nothing.
_PARSERS = {"char": "charin", "regclass": "regclassin"}


def unnested(target: Table, columns: Sequence[str]) -> sql.Composed:
    """`(SELECT u.a::type … FROM unnest($1::text[], …) AS u(a, …)) AS s`: one parameter per column.

    The parameters are numbered, for a RawCursor: any other takes a % in a name for one.
    """
    casts = [sql.SQL("{} AS {}").format(_parsed(target, name, name), sql.Identifier(name)) for name in columns]
    return sql.SQL("(SELECT {} FROM unnest({}) AS u({})) AS s").format(
        sql.SQL(", ").join(casts), _arrays(columns), listed(columns)
    )


def fetch(target: Table, key: Sequence[str], columns: Sequence[str]) -> sql.Composed:
    """The texts of `columns` of the rows with these keys, in the keys' order: one array of texts per key column.

    A row that is not there is left out.
    """
    names = [f"k{number}" for number in range(len(key))]
    keys = [
        sql.SQL("{} AS {}").format(_parsed(target, c, k), sql.Identifier(k)) for k, c in zip(names, key, strict=True)
    ]
    same = [_same(target, c, k) for k, c in zip(names, key, strict=True)]
    return sql.SQL(
        "SELECT {} FROM (SELECT {}, u.place FROM unnest({}) WITH ORDINALITY AS u({}, place)) AS s"
        " JOIN {} AS t ON {} ORDER BY s.place"
    ).format(
        sql.SQL(", ").join(_as_text(target, name) for name in columns),
        sql.SQL(", ").join(keys),
        _arrays(key),
        listed(names),
        quoted(target),
        sql.SQL(" AND ").join(same),
    )


def create_stage(stage: str, target: Table, columns: Sequence[str]) -> sql.Composed:
    """A temporary table with the replica's types, emptied by every COMMIT."""
    typed = [sql.SQL("{} {}").format(sql.Identifier(name), _type(target, name)) for name in columns]
    return sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DELETE ROWS").format(
        sql.Identifier(stage), sql.SQL(", ").join(typed)
    )


def copy_into(stage: str) -> sql.Composed:
    """Fill a temporary table in the text format."""
    return sql.SQL("COPY {} FROM STDIN").format(sql.Identifier("pg_temp", stage))


def copy_rows(target: Table, columns: Sequence[str]) -> sql.Composed:
    """Add rows to a table itself, in the text format."""
    return sql.SQL("COPY {} ({}) FROM STDIN").format(quoted(target), listed(columns))


def staged(stage: str) -> sql.Composed:
    """A temporary table as the source of rows."""
    return sql.SQL("{} AS s").format(sql.Identifier("pg_temp", stage))


def by_index(query: sql.Composable) -> sql.Composed:
    """The statement, to be planned without hash and merge joins: these read a whole table to find some of its rows.

    PostgreSQL prefers them up to millions of rows, since it takes each page of an index for one to be read from disk.
    """
    return sql.SQL(
        "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; {}; "
        "SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT"
    ).format(query)


def truncate(target: Table, *, referenced: bool) -> sql.Composed:
    """Empty the table; other tables are left alone, as each has a record of its own.

    PostgreSQL truncates no table that foreign keys reference, even where they are not checked.
    """
    return sql.SQL("DELETE FROM {}" if referenced else "TRUNCATE {}").format(quoted(target))


def delete(target: Table, columns: Sequence[str], source: sql.Composable) -> sql.Composed:
    """Delete the rows whose keys (`columns`) the source holds; one that is not there is no error."""
    return sql.SQL("DELETE FROM {} AS t USING {} WHERE {}").format(quoted(target), source, same_key(target, columns))


def lock(target: Table) -> sql.Composed:
    """Let nobody write rows that reference those of a table, nor its own, until the transaction ends."""
    return sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(quoted(target))


def delete_others(target: Table, columns: Sequence[str], source: sql.Composable) -> sql.Composed:
    """Delete all rows but those whose keys (`columns`) the source holds."""
    return sql.SQL("DELETE FROM {} AS t WHERE {}").format(
        quoted(target), _is_among(target, columns, source, others=True)
    )


def chosen(target: Table, columns: Sequence[str], source: sql.Composable, *, others: bool) -> sql.Composed:
    """The rows whose keys (`columns`) the source holds, or all `others`, as a FROM item."""
    return sql.SQL("(SELECT * FROM {} AS t WHERE {})").format(
        quoted(target), _is_among(target, columns, source, others=others)
    )


def referencing(target: Table, acting: Acting, rows: sql.Composable) -> sql.Composed:
    """A row that references one of these (a FROM item) of a table by this foreign key; nothing where there is none."""
    same = sql.SQL(" AND ").join(
        _same(target, name, given) for name, given in zip(acting.referenced, acting.columns, strict=True)
    )
    return sql.SQL("SELECT FROM {} AS s, {} AS t WHERE {} LIMIT 1").format(sql.Identifier(*acting.child), rows, same)


def upsert(target: Table, columns: Sequence[str], source: sql.Composable) -> sql.Composed:
    """Insert, or make the row equal. A row that is equal already is not written: its xmin stays.

    `*<>` compares the stored images, so that 1.0 and 1.00, or two texts of one json, count as different.
    The casts keep PostgreSQL from comparing column by column, for which types have no such operator.
    """
    written = [name for name in columns if name not in target.primary_key or varies(target, name)]
    action: sql.Composable = sql.SQL("NOTHING")
    if written:
        action = sql.SQL("UPDATE SET {} WHERE ROW({})::record *<> ROW({})::record").format(
            sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in written),
            sql.SQL(", ").join(sql.Identifier("t", name) for name in written),
            sql.SQL(", ").join(sql.Identifier("excluded", name) for name in written),
        )
    return sql.SQL("INSERT INTO {} AS t ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} ON CONFLICT ({}) DO {}").format(
        quoted(target), listed(columns), qualified("s", columns), source, listed(target.primary_key), action
    )


def replace(target: Table, columns: Sequence[str], source: sql.Composable) -> sql.Composed:
    """Delete the rows with the source's keys and insert the source's rows, in one statement.

    A unique value may go from any of these rows to any other. Foreign keys are checked when the statement ends, and
    find the keys there again. Counting what was deleted makes PostgreSQL delete all before it inserts anything.
    """
    return sql.SQL(
        "WITH s AS MATERIALIZED (SELECT * FROM {}), gone AS (DELETE FROM {} AS t USING s WHERE {} RETURNING 1)"
        " INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM s, (SELECT count(*) FROM gone) AS all_gone"
    ).format(
        source,
        quoted(target),
        same_key(target, target.primary_key),
        quoted(target),
        listed(columns),
        qualified("s", columns),
    )


def update(target: Table, columns: Sequence[str], source: sql.Composable) -> sql.Composed:
    """Write the named columns of rows that must be there; the others keep their values.

    Matches each row even where it is equal already, so that the count says whether all were there.
    """
    written = [name for name in columns if name not in target.primary_key] or list(target.primary_key)
    return sql.SQL("UPDATE {} AS t SET {} FROM {} WHERE {}").format(
        quoted(target),
        sql.SQL(", ").join(sql.SQL("{0} = s.{0}").format(sql.Identifier(name)) for name in written),
        source,
        same_key(target, target.primary_key),
    )


def insert(target: Table, columns: Sequence[str], source: sql.Composable) -> sql.Composed:
    """Insert the source's rows, equal ones as often as they are there."""
    return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
        quoted(target), listed(columns), qualified("s", columns), source
    )


def remove(target: Table, columns: Sequence[str], source: sql.Composable) -> sql.Composed:
    """Delete one row for each of the source's, of those whose texts are equal: the count says whether all were there.

    Texts, since json, point and others have no equality, and 1.0 is not 1.00. Equal rows are numbered on both
    sides, and go in pairs. Reads the whole table once.
    """
    return sql.SQL(
        "WITH wanted AS MATERIALIZED (SELECT w.texts, row_number() OVER (PARTITION BY w.texts) AS copy"
        " FROM (SELECT ROW({wanted})::text AS texts FROM {source}) AS w),"
        " found AS MATERIALIZED (SELECT f.part, f.place, f.texts, row_number() OVER (PARTITION BY f.texts) AS copy"
        " FROM (SELECT t.tableoid AS part, t.ctid AS place, ROW({found})::text AS texts FROM {table} AS t) AS f"
        " WHERE f.texts IN (SELECT wanted.texts FROM wanted))"
        " DELETE FROM {table} AS t USING wanted JOIN found ON found.texts = wanted.texts AND found.copy = wanted.copy"
        " WHERE t.tableoid = found.part AND t.ctid = found.place"
    ).format(wanted=qualified("s", columns), source=source, found=qualified("t", columns), table=quoted(target))


def _is_among(target: Table, columns: Sequence[str], source: sql.Composable, *, others: bool) -> sql.Composed:
    if target.is_keyless:
        texts = [sql.SQL("ROW({})::text").format(qualified(name, columns)) for name in "ts"]
        among = sql.SQL("{} IN (SELECT {} FROM {})").format(*texts, source)
    else:
        among = sql.SQL("EXISTS (SELECT FROM {} WHERE {})").format(source, same_key(target, columns))
    return sql.SQL("NOT ({})" if others else "{}").format(among)


def has_one_text(target: Table) -> bool:
    """True where equal keys of a table have the same text."""
    return not any(varies(target, name) for name in target.primary_key)


def _arrays(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("${}::text[]").format(sql.Literal(place + 1)) for place in range(len(columns)))


def _parsed(target: Table, name: str, given: str) -> sql.Composed:
    """The text `u.given` as a value of a column: by its type's own parser, as COPY reads it."""
    column = target.column(name)
    parser = _PARSERS.get(type_key(column)) if column is not None else None
    text: sql.Composable = sql.Identifier("u", given)
    if parser is not None:
        text = sql.SQL("{}(textout({}))").format(sql.Identifier("pg_catalog", parser), text)
    return sql.SQL("{}::{}").format(text, _type(target, name))


def _as_text(target: Table, name: str) -> sql.Composed:
    """A value's text; the cast of a bpchar would drop its trailing blanks."""
    column = target.column(name)
    is_blank_padded = column is not None and type_key(column) == "bpchar"
    text = "textin(bpcharout(t.{}))" if is_blank_padded else "t.{}::text"
    return sql.SQL(text).format(sql.Identifier(name))


def varies(target: Table, name: str) -> bool:
    """True where equal values of a column may differ in text."""
    column = target.column(name)
    return column is not None and type_key(column) not in _ONE_TEXT


def same_key(target: Table, key: Sequence[str]) -> sql.Composed:
    """`t` and `s` have the same key."""
    return sql.SQL(" AND ").join(_same(target, name, name) for name in key)


def _same(target: Table, name: str, given: str) -> sql.Composed:
    """A key column equals `s.given`; an extension's operator is beside its types, and not on the search path."""
    column = target.column(name)
    equals: sql.Composable = sql.SQL("=")
    if column is not None and column.extension is not None and column.carrier.element is None:
        equals = sql.SQL("OPERATOR({}.=)").format(sql.Identifier(column.carrier.type.schema))
    return sql.SQL("t.{} {} s.{}").format(sql.Identifier(name), equals, sql.Identifier(given))


def quoted(target: Table) -> sql.Identifier:
    """The table's name."""
    return sql.Identifier(target.schema, target.name)


def _type(target: Table, name: str) -> sql.Composable:
    column = target.column(name)
    if column is None:
        raise KeyError(name)
    return type_sql(column)


def listed(columns: Sequence[str]) -> sql.Composed:
    """The columns' names."""
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def qualified(alias: str, columns: Sequence[str]) -> sql.Composed:
    """The columns of one side."""
    return sql.SQL(", ").join(sql.Identifier(alias, name) for name in columns)
