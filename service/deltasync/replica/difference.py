"""Makes a table equal to another one of the same columns, writing only what differs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import psycopg
from psycopg import sql

from deltasync.debezium.rows import Rows
from deltasync.errors import ReferencedError, RefusedError
from deltasync.postgres.copy_text import copy_text
from deltasync.replica import catalog, constraints, statements
from deltasync.replica.constraints import NONE, Constraints
from deltasync.replica.statements import listed, qualified, quoted, same_key, varies
from deltasync.table import Table


class Difference(NamedTuple):
    """How many rows were missing, were surplus, and had other values under their key."""

    missing: int = 0
    surplus: int = 0
    different: int = 0


class Suspects:
    """The keys under which a table may differ from the one that it is to equal: a temporary table of the session.

    What is compared while both go on being written to is compared again by the keys that were written meanwhile, so
    that nobody is locked out for as long as a whole table takes. Tables without a key have none.
    """

    def __init__(self, connection: psycopg.Connection, target: Table) -> None:
        self._connection, self._target = connection, target
        self._name = sql.Identifier("pg_temp", "suspects")
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._name))
        connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE suspects AS SELECT {} FROM {} WITH NO DATA").format(
                listed(target.primary_key), quoted(target)
            )
        )

    def add(self, keys: Iterable[Rows]) -> None:
        """Suspect these."""
        for some in keys:
            into = sql.SQL("COPY {} ({}) FROM STDIN").format(self._name, listed(some.columns))
            with self._connection.cursor() as cursor, cursor.copy(into) as copy:
                copy.write(copy_text(some.values))

    def compare(self, wanted: Table) -> None:
        """Suspect all that differs now. Reads both tables, whole."""
        target, key = self._target, self._target.primary_key
        of_target, of_wanted = (qualified(side, key) for side in "ts")
        _run(
            self._connection,
            sql.SQL(
                "INSERT INTO {suspects} ({key})"
                " SELECT {t} FROM {target} AS t WHERE NOT EXISTS (SELECT FROM {wanted} AS s WHERE {same}) UNION ALL"
                " SELECT {s} FROM {wanted} AS s WHERE NOT EXISTS (SELECT FROM {target} AS t WHERE {same}) UNION ALL"
                " SELECT {s} FROM {wanted} AS s JOIN {target} AS t ON {same} WHERE {other}"
            ).format(
                suspects=self._name,
                key=listed(key),
                t=of_target,
                s=of_wanted,
                target=quoted(target),
                wanted=quoted(wanted),
                same=same_key(target, key),
                other=_other_image(wanted),
            ),
        )
        self._connection.execute(sql.SQL("ANALYZE {}").format(self._name))

    def among(self, table: Table) -> sql.Composed:
        """A table's rows that are suspected, as a FROM item."""
        keys = sql.SQL("{} AS s").format(self._name)
        return statements.chosen(table, self._target.primary_key, keys, others=False)


def make_equal(
    connection: psycopg.Connection, target: Table, wanted: Table, suspects: Suspects | None, *, ordered: bool
) -> Difference:
    """Write into `target` what it differs in from `wanted`, in the caller's transaction; rows that are equal stay.

    Only the rows that are suspected are looked at; None where the table has no key. Columns that only the target has
    keep what they hold, unless unique values move between its rows. `ordered`: foreign keys are checked. Raises
    RefusedError where one of them refuses, or would change rows of other tables.
    """
    known = constraints.load(connection, [target.schema]).get(target.id, NONE)
    try:
        if ordered:
            connection.execute("SET CONSTRAINTS ALL DEFERRED")
        if suspects is None:
            found = _make_copies_equal(connection, target, wanted)
        else:
            if ordered:
                _refuse_to_act(connection, target, _surplus(target, wanted, suspects), known)
            found = _make_rows_equal(connection, target, wanted, suspects, replaces=not (ordered and known.acting))
        if ordered:
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except psycopg.errors.ForeignKeyViolation as error:
        raise RefusedError(
            f"The foreign key {error.diag.constraint_name} of the replica refuses what {target.id} is to hold.",
            remedy="Read the other table of that key again first: what is referenced, before what references it.",
        ) from None
    return found


def _make_rows_equal(
    connection: psycopg.Connection, target: Table, wanted: Table, suspects: Suspects, *, replaces: bool
) -> Difference:
    source = sql.SQL("{} AS s").format(suspects.among(wanted))
    surplus = sql.SQL("{} AS s").format(_surplus(target, wanted, suspects))
    delete_surplus = statements.delete(target, target.primary_key, surplus)
    insert = _insert(target, wanted, source)
    try:
        with connection.transaction():
            gone = _run(connection, delete_surplus)
            different = _run(connection, _update(target, wanted, source))
            return Difference(_run(connection, insert), gone, different)
    except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation):
        if not replaces:
            raise
    gone = _run(connection, delete_surplus)
    different = _run(connection, _delete_different(target, wanted, source))
    return Difference(_run(connection, insert) - different, gone, different)


def _make_copies_equal(connection: psycopg.Connection, target: Table, wanted: Table) -> Difference:
    surplus, missing = (_run(connection, make(target, wanted)) for make in (_remove_surplus, _insert_copies))
    return Difference(missing, surplus)


def _refuse_to_act(connection: psycopg.Connection, target: Table, surplus: sql.Composed, known: Constraints) -> None:
    """Raises ReferencedError where deleting surplus rows would change rows that have records of their own."""
    replicated = catalog.replicated(connection)
    for foreign in sorted(one for one in known.acting if one.child in replicated):
        if _run(connection, statements.referencing(target, foreign, surplus)):
            raise ReferencedError(
                f"Surplus rows of {target.id} are referenced by rows of {foreign.child}, which would go with them.",
                remedy=f"Read {foreign.child} again first.",
            )


def _run(connection: psycopg.Connection, statement: sql.Composed) -> int:
    # By the extended protocol, without parameters: a % in a name is none.
    return connection.execute(statement, binary=True).rowcount


def _columns(wanted: Table) -> tuple[str, ...]:
    return tuple(column.name for column in wanted.columns)


def _surplus(target: Table, wanted: Table, suspects: Suspects) -> sql.Composed:
    """The suspected rows that are to go, as a FROM item."""
    return sql.SQL("(SELECT * FROM {} AS t WHERE NOT EXISTS (SELECT FROM {} AS s WHERE {}))").format(
        suspects.among(target), quoted(wanted), same_key(target, target.primary_key)
    )


def _other_image(wanted: Table) -> sql.Composed:
    """Rows of one key differ in what is stored (see `statements.upsert`)."""
    return sql.SQL("ROW({})::record *<> ROW({})::record").format(
        *(qualified(side, _columns(wanted)) for side in ("t", "s"))
    )


def _update(target: Table, wanted: Table, source: sql.Composed) -> sql.Composed:
    key = target.primary_key
    written = [name for name in _columns(wanted) if name not in key or varies(target, name)] or list(key)
    return sql.SQL("UPDATE {} AS t SET {} FROM {} WHERE {} AND {}").format(
        quoted(target),
        sql.SQL(", ").join(sql.SQL("{0} = s.{0}").format(sql.Identifier(name)) for name in written),
        source,
        same_key(target, key),
        _other_image(wanted),
    )


def _delete_different(target: Table, wanted: Table, source: sql.Composed) -> sql.Composed:
    return sql.SQL("DELETE FROM {} AS t USING {} WHERE {} AND {}").format(
        quoted(target), source, same_key(target, target.primary_key), _other_image(wanted)
    )


def _insert(target: Table, wanted: Table, source: sql.Composed) -> sql.Composed:
    return sql.SQL(
        "INSERT INTO {0} ({1}) OVERRIDING SYSTEM VALUE SELECT {2} FROM {3}"
        " WHERE NOT EXISTS (SELECT FROM {0} AS t WHERE {4})"
    ).format(
        quoted(target),
        listed(_columns(wanted)),
        qualified("s", _columns(wanted)),
        source,
        same_key(target, target.primary_key),
    )


def _counted(table: Table, columns: tuple[str, ...]) -> sql.Composed:
    """How often each row's text is in a table (see `statements.remove`)."""
    return sql.SQL("(SELECT ROW({})::text AS texts, count(*) AS copies FROM {} AS c GROUP BY 1)").format(
        qualified("c", columns), quoted(table)
    )


def _numbered(table: Table, columns: tuple[str, ...], more: sql.SQL) -> sql.Composed:
    """A table's rows, equal ones numbered."""
    return sql.SQL("(SELECT n.*, row_number() OVER (PARTITION BY n.texts) AS copy FROM {} AS n)").format(
        sql.SQL("(SELECT {} ROW({})::text AS texts FROM {} AS r)").format(more, qualified("r", columns), quoted(table))
    )


def _remove_surplus(target: Table, wanted: Table) -> sql.Composed:
    place = sql.SQL("r.tableoid AS part, r.ctid AS place,")
    return sql.SQL(
        "DELETE FROM {} AS t USING (SELECT f.part, f.place FROM {} AS f LEFT JOIN {} AS w ON w.texts = f.texts"
        " WHERE f.copy > coalesce(w.copies, 0)) AS g WHERE t.tableoid = g.part AND t.ctid = g.place"
    ).format(quoted(target), _numbered(target, _columns(wanted), place), _counted(wanted, _columns(wanted)))


def _insert_copies(target: Table, wanted: Table) -> sql.Composed:
    columns = _columns(wanted)
    return sql.SQL(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s JOIN"
        " (SELECT f.part, f.place FROM {} AS f LEFT JOIN {} AS w ON w.texts = f.texts"
        " WHERE f.copy > coalesce(w.copies, 0)) AS g ON s.tableoid = g.part AND s.ctid = g.place"
    ).format(
        quoted(target),
        listed(columns),
        qualified("s", columns),
        quoted(wanted),
        _numbered(wanted, columns, sql.SQL("r.tableoid AS part, r.ctid AS place,")),
        _counted(target, columns),
    )
