"""What sessions do on the simulated source. Each statement finds its rows by numbers, whatever is there by then."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from tests.property.kinds import Row, Shape
from tests.property.reshape import DDL
from tests.property.source import Source

# So many rows of a table are referenced by those of another one.
_REFERENCED = 3
_CLOCK_STEPS_US = (1000, 0, 2500, -5000)


def insert(source: Source, session: int, table: int, n: int) -> None:
    name = _name(source, table)
    source.insert(session, name, [_row(source, name, n)])


def copy(source: Source, session: int, table: int, n: int) -> None:
    """COPY: rows with one place in the log, without a key also some that are equal."""
    name = _name(source, table)
    alike = 2 if source.is_keyless(name) else 1
    source.insert(session, name, [_row(source, name, n + i // alike) for i in range(2 + n % 4)])


def update(source: Source, session: int, table: int, n: int) -> None:
    name, found = _rows(source, table)
    if found:
        shape = source.shapes[name]
        rest = [column for column in shape.kinds if column not in shape.key]
        changed = [column for i, column in enumerate(rest) if (n >> i) & 1]
        values = {column: _text(shape, column, n + i) for i, column in enumerate(changed)} | _reference(source, name, n)
        source.update(session, name, found[n % len(found)], values)


def delete(source: Source, session: int, table: int, n: int) -> None:
    name, found = _rows(source, table)
    if found:
        source.delete(session, name, found[n % len(found)])


def rekey(source: Source, session: int, table: int, n: int) -> None:
    """Another key, or the same number in another text."""
    name, found = _rows(source, table)
    if found:
        source.update(session, name, found[n % len(found)], _key(source.shapes[name], n // 3))


def swap(source: Source, session: int, table: int, n: int) -> None:
    """Two rows exchange their keys, through a free one."""
    _rotate(source, session, table, n, 2)


def chain(source: Source, session: int, table: int, n: int) -> None:
    """Three rows move on to the key of the next."""
    _rotate(source, session, table, n, 3)


def exchange(source: Source, session: int, table: int, n: int) -> None:
    """Rows pass a unique value on to the next, the first of them through NULL."""
    name, chosen, columns = _exchanged(source, table, n)
    if chosen:
        values = [{column: source.row(name, identity)[column] for column in columns} for identity in chosen]
        source.update(session, name, chosen[0], dict.fromkeys(columns))
        for identity, value in zip(chosen[1:], values, strict=False):
            source.update(session, name, identity, value)
        source.update(session, name, chosen[0], values[-1])


def exchange_at_once(source: Source, session: int, table: int, n: int) -> None:
    """Rows pass a unique value on to the next, which fits in only when all have."""
    name, chosen, columns = _exchanged(source, table, n)
    if chosen:
        source.exchange(session, name, chosen, columns)


def reinsert(source: Source, session: int, table: int, n: int) -> None:
    """Delete a row, and insert another with its key."""
    name, found = _rows(source, table)
    if found:
        identity = found[n % len(found)]
        key = {column: source.row(name, identity)[column] for column in source.shapes[name].key}
        source.delete(session, name, identity)
        source.insert(session, name, [{**_row(source, name, n), **key}])


def churn(source: Source, session: int, table: int, n: int) -> None:
    """Insert, update and delete a row."""
    name = _name(source, table)
    shape = source.shapes[name]
    row = _row(source, name, n)
    if shape.identity(row) not in source.visible(name):
        source.insert(session, name, [row])
        source.update(session, name, shape.identity(row), {list(shape.kinds)[-1]: row[list(shape.kinds)[-1]]})
        source.delete(session, name, shape.identity(row))


def truncate(source: Source, session: int, _table: int, n: int) -> None:
    source.truncate(session, [name for i, name in enumerate(source.shapes) if (n >> i) & 1])


def announce(source: Source, session: int, table: int, _n: int) -> None:
    source.announce(session, _name(source, table))


def beat(source: Source, _session: int, _table: int, _n: int) -> None:
    source.heartbeat()


def commit(source: Source, session: int, _table: int, n: int) -> None:
    source.commit(session, _CLOCK_STEPS_US[n % len(_CLOCK_STEPS_US)])


def hide(source: Source, session: int, _table: int, n: int) -> None:
    """COMMIT, which waits for a standby."""
    source.commit(session, _CLOCK_STEPS_US[n % len(_CLOCK_STEPS_US)], hides=True)


def show(source: Source, _session: int, _table: int, _n: int) -> None:
    source.show()


def rollback(source: Source, session: int, _table: int, _n: int) -> None:
    source.rollback(session)


STATEMENTS: dict[str, Callable[[Source, int, int, int], None]] = {
    **DDL,
    "insert": insert,
    "copy": copy,
    "update": update,
    "delete": delete,
    "rekey": rekey,
    "swap": swap,
    "chain": chain,
    "exchange": exchange,
    "exchange at once": exchange_at_once,
    "reinsert": reinsert,
    "churn": churn,
    "truncate": truncate,
    "announce": announce,
    "beat": beat,
    "commit": commit,
    "rollback": rollback,
    "hide": hide,
    "show": show,
}


def _name(source: Source, table: int) -> str:
    return list(source.shapes)[table % len(source.shapes)]


def _rows(source: Source, table: int) -> tuple[str, list[Hashable]]:
    name = _name(source, table)
    return name, source.visible(name)


def _text(shape: Shape, column: str, n: int) -> str | None:
    return None if n % 7 == 3 and column not in shape.key else shape.kinds[column].text(n)


def _row(source: Source, name: str, n: int) -> Row:
    shape = source.shapes[name]
    return {column: _text(shape, column, n + 5 * i) for i, column in enumerate(shape.kinds)} | _reference(
        source, name, n
    )


def _reference(source: Source, name: str, n: int) -> Row:
    """A row that a row of a table may reference, now and then none."""
    reference = source.shapes[name].reference
    if reference is None:
        return {}
    column, parent = reference
    found = source.visible(parent)
    key = source.shapes[parent].key[0]
    return {column: source.row(parent, found[n % min(len(found), _REFERENCED)])[key] if found and n % 7 else None}


def _key(shape: Shape, n: int) -> Row:
    return {column: shape.kinds[column].text(n + 5 * i) for i, column in enumerate(shape.key)}


def _rotate(source: Source, session: int, table: int, n: int, count: int) -> None:
    name, found = _rows(source, table)
    shape = source.shapes[name]
    free = next((key for i in range(12) if shape.identity(key := _key(shape, n + i)) not in found), None)
    chosen = [found[(n + i) % len(found)] for i in range(count)] if len(found) >= count else []
    if free is None or not chosen:
        return
    keys = [{column: source.row(name, identity)[column] for column in shape.key} for identity in chosen]
    source.update(session, name, chosen[0], free)
    for i in range(1, count):
        source.update(session, name, chosen[i], keys[i - 1])
    source.update(session, name, shape.identity(free), keys[-1])


def _exchanged(source: Source, table: int, n: int) -> tuple[str, list[Hashable], tuple[str, ...]]:
    """Which rows exchange the values of which unique index; no rows where there is none, or too few."""
    name, found = _rows(source, table)
    shape, count = source.shapes[name], 2 + n % 2
    if not shape.unique or len(found) < count:
        return name, [], ()
    return name, [found[(n + i) % len(found)] for i in range(count)], shape.unique[n // 2 % len(shape.unique)]
