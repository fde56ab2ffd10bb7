"""Brings the source's sequences to the replica: those that identity and serial columns of captured tables draw from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import NamedTuple

import msgspec
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from deltasync.postgres.connect import connect
from deltasync.settings import Settings
from deltasync.table import TableId


class Sequence(NamedTuple):
    """A column's sequence: its name, and where it is. `last_value` was drawn if `is_called`."""

    id: TableId
    last_value: int
    is_called: bool
    increment: int
    least: int = 1
    greatest: int = 2**63 - 1

    @property
    def next(self) -> int:
        return self.last_value + self.increment * self.is_called


class Synced(msgspec.Struct, frozen=True):
    """What became of one column's sequence. `action`: `set`, `level`, `ahead` (left alone), `missing`, or `unlike`.

    The numbers are what each side draws next; `replica` as it was before, None where it has no sequence.
    `unlike`: the replica's counts in other steps, or does not reach the source's value; it is left alone.
    """

    table: str
    column: str
    source: int
    replica: int | None
    action: str


def sync(settings: Settings, *, exact: bool = False, dry_run: bool = False) -> list[Synced]:
    """Have the replica's sequences draw on where the source's do. Idempotent; one transaction on the replica.

    A sequence never goes backwards unless `exact`. Reads the source once: what it draws afterwards is not brought
    along. Needs both DSNs. Raises SettingsError, UnreachableError or RefusedError.
    """
    settings.need("source.dsn", "replica.dsn")
    with closing(_open(settings.source.admin_conninfo(), read_only="on")) as source:
        ours = _read(source, _PUBLISHED, settings.publication)
    with closing(_open(settings.replica.admin_conninfo(), read_only="off")) as replica, replica.transaction():
        theirs = _read(replica, _NAMED, [str(table) for table, _ in ours])
        synced = []
        for (table, column), sequence in sorted(ours.items()):
            found = theirs.get((table, column))
            action = decide(sequence, found, exact=exact)
            if action == "set" and found is not None and not dry_run:
                query = "SELECT pg_catalog.setval(%s::regclass, %s, %s)"
                name = sql.Identifier(*found.id).as_string(replica)
                replica.execute(query, [name, sequence.last_value, sequence.is_called])
            synced.append(Synced(str(table), column, sequence.next, found.next if found else None, action))
    return synced


def decide(source: Sequence, replica: Sequence | None, *, exact: bool) -> str:
    """What is to be done about a replica's sequence; pure. One that counts down is ahead where it is lower."""
    if replica is None:
        return "missing"
    if replica.increment != source.increment or not replica.least <= source.last_value <= replica.greatest:
        return "unlike"
    if source.next == replica.next and source.is_called == replica.is_called:
        return "level"
    ahead = replica.next - source.next if source.increment > 0 else source.next - replica.next
    if ahead == 0 and not exact:
        return "level"
    return "set" if ahead < 0 or exact else "ahead"


def _open(conninfo: str | None, *, read_only: str) -> Connection[TupleRow]:
    session = {"default_transaction_read_only": read_only}
    return connect(conninfo or "", name="sequences", autocommit=True, session=session)


# A serial's sequence depends on its column automatically (a), an identity's internally (i).
_COLUMNS = sql.SQL("""
    SELECT n.nspname, c.relname, a.attname, sn.nspname, s.relname, q.seqincrement, q.seqmin, q.seqmax
      FROM pg_depend d
      JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
      JOIN pg_namespace sn ON sn.oid = s.relnamespace
      JOIN pg_sequence q ON q.seqrelid = s.oid
      JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p')
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
""")
_PUBLISHED = sql.SQL("""
       AND n.nspname <> 'deltasync'
       AND EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                    WHERE r.prrelid = c.oid AND p.pubname = %s)
""")
_NAMED = sql.SQL(" AND n.nspname || '.' || c.relname = ANY(%s)")


def _read(connection: Connection[TupleRow], which: sql.SQL, value: object) -> Mapping[tuple[TableId, str], Sequence]:
    found = {}
    for schema, table, column, *name, increment, least, greatest in connection.execute(
        _COLUMNS + which, [value]
    ).fetchall():
        id_ = TableId(*name)
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(*id_))
        row = connection.execute(query).fetchone() or (1, False)
        found[TableId(schema, table), column] = Sequence(id_, row[0], row[1], increment, least, greatest)
    return found
