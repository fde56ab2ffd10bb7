"""ALTER TABLE on the simulated source: names, columns, types, what may be NULL."""

from __future__ import annotations

from collections.abc import Callable

from tests.property.event import Reshaped
from tests.property.kinds import MARK, TEXT, Row, Shape
from tests.property.source import Source

# Names that columns take and give up, beside those that they had at first.
_NAMES = ("alias", "other")
# Every so many changes leave their transaction open.
_OPEN = 3


def widen(source: Source, session: int, table: int, _n: int) -> None:
    """ADD COLUMN."""
    name, found = _table(source, table)
    wider = found.wider()
    source.alter(session, name, _to(found, wider, {list(wider.kinds)[-1]: None}), alone=True)


def alter(source: Source, session: int, table: int, _n: int) -> None:
    """Other types, which hold the same texts and more. No row is sent."""
    name, found = _table(source, table)
    source.alter(session, name, _to(found, found.altered()), alone=True)


def rename(source: Source, session: int, table: int, n: int) -> None:
    """RENAME COLUMN, to a name that another one may have had."""
    name, found = _table(source, table)
    columns = list(found.kinds)
    old, new = columns[n % len(columns)], _free_name(source, name, n)
    source.alter(session, name, Reshaped(found.renamed(old, new), {c: new if c == old else c for c in columns}))
    _end(source, session, n)


def drop(source: Source, session: int, table: int, n: int) -> None:
    """DROP COLUMN."""
    name, found = _table(source, table)
    if len(found.free) > 1:
        source.alter(session, name, _to(found, found.dropped(found.free[n % len(found.free)])))
        _end(source, session, n)


def remake(source: Source, session: int, table: int, n: int) -> None:
    """DROP and ADD of one name, in one statement or in two: rows hold the new default, or NULL."""
    name, found = _table(source, table)
    if not found.free:
        return
    column = found.free[n % len(found.free)]
    missing = f"{MARK} default {n}" if n % 5 > 2 else None
    dropped = found.dropped(column)
    added = dropped.added(column, TEXT, missing)
    if n % 2:
        source.alter(session, name, _to(dropped, added, {column: missing}))
    elif source.alter(session, name, _to(found, dropped)):
        if n % 4:
            source.commit(session)
        source.alter(session, name, _to(dropped, added, {column: missing}))
    _end(source, session, n)


def require(source: Source, session: int, table: int, n: int) -> None:
    """SET NOT NULL where no row has NULL, DROP NOT NULL where it is set."""
    name, found = _table(source, table)
    if not found.free:
        return
    column = found.free[n % len(found.free)]
    is_required = any(c.name == column and c.not_null for c in found.table.columns)
    if is_required or all(source.row(name, identity)[column] is not None for identity in source.visible(name)):
        source.alter(session, name, _to(found, found.required(column, is_required=not is_required)))
        _end(source, session, n)


def default(source: Source, session: int, table: int, n: int) -> None:
    """SET DEFAULT, or DROP DEFAULT."""
    name, found = _table(source, table)
    texts = [column for column in found.free if found.kinds[column] is TEXT]
    if texts:
        source.alter(
            session, name, _to(found, found.defaulted(texts[n % len(texts)], f"'{n}'::text" if n % 3 else None))
        )
        _end(source, session, n)


DDL: dict[str, Callable[[Source, int, int, int], None]] = {
    "widen": widen,
    "alter": alter,
    "rename": rename,
    "drop": drop,
    "remake": remake,
    "require": require,
    "default": default,
}


def _table(source: Source, table: int) -> tuple[str, Shape]:
    name = list(source.shapes)[table % len(source.shapes)]
    return name, source.shapes[name]


def _to(before: Shape, after: Shape, values: Row | None = None) -> Reshaped:
    """A change that renames nothing."""
    return Reshaped(after, {name: name for name in before.kinds if name in after.kinds}, values or {})


def _free_name(source: Source, name: str, n: int) -> str:
    names = [*_NAMES, *source.first[name].kinds]
    free = [one for one in names if one not in source.shapes[name].kinds]
    return free[n // 7 % len(free)]


def _end(source: Source, session: int, n: int) -> None:
    if n % _OPEN:
        source.commit(session)
