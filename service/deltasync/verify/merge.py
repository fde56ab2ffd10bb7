"""Two sorted streams of rows, compared in step: pure, and in constant memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_ESCAPE = re.compile(rb"\\(.)")
_CONTROL = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


@dataclass
class Tally:
    """How many rows are `equal`, `differing` (same key), `missing` on the replica or `extra` there; which columns."""

    equal: int = 0
    differing: int = 0
    missing: int = 0
    extra: int = 0
    columns: set[str] = field(default_factory=set)


def merge(source: Iterable[bytes], replica: Iterable[bytes], keys: int, columns: Sequence[str]) -> Tally:
    """Compare rows in COPY's text format, sorted by their first `keys` fields as bytes; `columns` name the others.

    Equal keys may occur more than once if the rows are their own keys (tables without a primary key).
    """
    tally = Tally()
    left, right = iter(source), iter(replica)
    ours, theirs = next(left, None), next(right, None)
    while ours is not None and theirs is not None:
        if ours == theirs:
            tally.equal += 1
            ours, theirs = next(left, None), next(right, None)
            continue
        our_fields, their_fields = _fields(ours), _fields(theirs)
        our_key, their_key = _key(our_fields[:keys]), _key(their_fields[:keys])
        if our_key < their_key:
            tally.missing += 1
            ours = next(left, None)
        elif our_key > their_key:
            tally.extra += 1
            theirs = next(right, None)
        else:
            tally.differing += 1
            values = zip(columns, our_fields[keys:], their_fields[keys:], strict=True)
            tally.columns.update(name for name, one, other in values if one != other)
            ours, theirs = next(left, None), next(right, None)
    tally.missing += (ours is not None) + sum(1 for _ in left)
    tally.extra += (theirs is not None) + sum(1 for _ in right)
    return tally


def _fields(row: bytes) -> list[bytes]:
    return row.rstrip(b"\n").split(b"\t")


def _key(fields: Sequence[bytes]) -> tuple[bytes, ...]:
    """Unescaped, so that it sorts as PostgreSQL has sorted it."""
    return tuple(_ESCAPE.sub(_unescaped, field) if b"\\" in field else field for field in fields)


def _unescaped(escape: re.Match[bytes]) -> bytes:
    return _CONTROL.get(escape[1], escape[1])
