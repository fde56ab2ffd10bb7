"""What one seed stands for: tables, workers, and what happens in which order, all as plain numbers.

Whatever is taken out of a scenario, the rest still means something: that is what makes it shrink.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from tests.property.kinds import BY_INDEX, FAMILY, KEYLESS, NAMES, SPREAD, UNIQUE, Shape
from tests.property.locks import Family
from tests.property.statements import STATEMENTS

from deltasync import bulk
from deltasync.replica.memory_table import Foreign
from deltasync.table import TableId

Op = tuple[str, int, int, int]

_STATEMENTS = {
    "insert": 9,
    "update": 9,
    "delete": 3,
    "rekey": 3,
    "copy": 2,
    "swap": 2,
    "chain": 1,
    "reinsert": 3,
    "churn": 1,
    "truncate": 1,
    "widen": 1,
    "announce": 1,
    "beat": 2,
    "commit": 9,
    "rollback": 1,
}
# How often a table's topic has several partitions.
_SPREAD = 0.3
_SPREAD_WHOLE = 0.5
# Every so many seeds apply transactions whole.
_WHOLE = 4
# How often a table has unique values beside its key.
_UNIQUE = 0.3
# How often there are incremental snapshots, and a table that the initial one left out.
_READ, _LATE = 0.3, 0.3
# How often there is a table whose key is an index.
_BY_INDEX = 0.3
# How often there are tables that reference each other.
_FAMILY = 0.15
_OF_FAMILIES = {"insert": 6, "copy": 2, "rekey": 4, "delete": 3, "update": 2, "reinsert": 2, "commit": 6, "hold": 1}
_TRAITS = {"ordered": 0.8, "deferrable": 0.5, "acts": 0.3}
# How often a connector is restarted between the halves of a key change.
_TORN = 0.2
# How often columns get other types.
_ALTERED = 0.15
# How often there are tables without any key.
_KEYLESS = 0.4
# How often the replica refuses rows for a while.
_REFUSED = 0.4
# How often tables change otherwise than by an addition; how often each of these is applied by itself.
_RESHAPED, _APPLIED = 0.25, 0.5
_OF_TABLES = {"rename": 2, "drop": 1, "remake": 2, "require": 1, "default": 1, "alter": 1, "widen": 1, "approve": 3}
_KINDS = ("rename_column", "drop_column", "widen_type", "set_not_null")
# How often rows of the replica are wrong, or records lost, and an operator reads tables again.
_WRONG = 0.15
_OF_WRONG = {"damage": 3, "expire": 1, "resync": 4, "hide": 2, "show": 2}
# A batch of so many records holds all that a scenario has.
ALL = 1000
# A batch of so many records holds what only makes sense together.
_TOGETHER = 5
# Of so many records of a partition every other seed reads all at once, and the next ones while they are applied.
_BULK_FROM = 2
_FLOW = {"emit": 12, "step": 24, "noise": 1}
_FAULTS = {
    "arm": 12,
    "kill": 2,
    "expel": 2,
    "shuffle": 2,
    "crash": 3,
    "reset": 1,
    "hold": 2,
    "release": 2,
    "forget": 1,
    "outage": 1,
    "place": 1,
    "poison": 1,
}


class Scenario(NamedTuple):
    """`before` happens before the snapshot. An op is a name and three numbers.

    With `whole`, transactions are applied whole. The topics of the tables in `spread` have so many `partitions`. The
    initial snapshot leaves out the tables that come `late`, which an incremental one reads. `family` tells of foreign
    keys: what the source does where a row that is referenced goes, and where its key changes; then "ordered" where the
    replica checks them, "deferrable", and "acts" where its own delete rows with those that they reference. `ddl` tells
    of tables that change: "approve", since an operator has a word in it, and the kinds that are applied without one.
    """

    tables: tuple[str, ...]
    full: tuple[str, ...]
    workers: int
    rows_max: int
    tombstones: bool
    aborted_reads: int
    before: tuple[Op, ...]
    ops: tuple[Op, ...]
    spread: tuple[str, ...] = ()
    partitions: int = 2
    late: tuple[str, ...] = ()
    whole: bool = False
    family: tuple[str, ...] = ()
    ddl: tuple[str, ...] = ()
    bulk_from: int = bulk.RECORDS_MIN


def scenario(seed: int) -> Scenario:
    """The scenario of a seed; the same for ever, as long as this module is."""
    found = _plain(random.Random(seed))._replace(whole=seed % _WHOLE == _WHOLE - 1)  # noqa: S311 - repeatable ones are wanted
    found = _wider(found, random.Random(f"wider {seed}"))  # noqa: S311 - as above
    found = _related(found, random.Random(f"related {seed}"))  # noqa: S311 - as above
    found = _torn(found, random.Random(f"torn {seed}"))  # noqa: S311 - as above
    found = _altered(found, random.Random(f"altered {seed}"))  # noqa: S311 - as above
    found = _keyless(found, random.Random(f"keyless {seed}"))  # noqa: S311 - as above
    found = _refused(found, random.Random(f"refused {seed}"))  # noqa: S311 - as above
    found = _reshaped(found, random.Random(f"reshaped {seed}"))  # noqa: S311 - as above
    found = _wrong(found, random.Random(f"wrong {seed}"))  # noqa: S311 - as above
    return found._replace(bulk_from=_BULK_FROM if seed % 2 else bulk.RECORDS_MIN)


def _wider(found: Scenario, rng: random.Random) -> Scenario:
    """What not every source has."""
    if rng.random() < _UNIQUE:
        exchanges = {"exchange": 2, "exchange at once": int(found.whole or found.rows_max >= _TOGETHER)}
        found = found._replace(tables=(*found.tables[:-1], UNIQUE), ops=_among(rng, found.ops, exchanges))
    chance, may_spread = (_SPREAD_WHOLE, found.tables) if found.whole else (_SPREAD, SPREAD)
    spread = tuple(name for name in found.tables if name in may_spread and rng.random() < chance)
    found = found._replace(spread=spread, partitions=rng.choice((2, 2, 3)))
    if rng.random() < _READ:
        late = tuple(name for name in found.tables if name in SPREAD and rng.random() < _LATE)
        # Of a row that was not read yet, all values have to travel.
        found = found._replace(late=late, full=(*found.full, *late), ops=_among(rng, found.ops, {"read": 1}))
        if found.whole and spread:
            # A read that waits for its column in a partition without a change yet keeps up what comes before the
            # transaction that announces it: known, DESIGN.md ("Next").
            found = found._replace(ops=tuple(op for op in found.ops if op[0] != "widen"))
    return found._replace(tables=(*found.tables, BY_INDEX)) if rng.random() < _BY_INDEX else found


def _related(found: Scenario, rng: random.Random) -> Scenario:
    """With tables that reference each other, instead of others."""
    if rng.random() >= _FAMILY:
        return found
    actions = rng.choice(("no action", "cascade", "cascade", "set null")), rng.choice(("no action", "cascade"))
    # The settings refuse foreign keys that are checked together with whole transactions.
    possible = ("deferrable", "acts") if found.whole else ("ordered", "deferrable", "acts")
    traits = tuple(trait for trait in possible if rng.random() < _TRAITS[trait])
    # A record that cannot be read parts what fits in only together.
    ops = tuple(op for op in found.ops if op[0] != "poison" or "ordered" not in traits)
    room = rng.choice((found.rows_max, ALL, ALL)) if "ordered" in traits else found.rows_max
    spread = FAMILY if found.spread and found.whole else ()
    return found._replace(
        tables=FAMILY,
        full=found.full and FAMILY[:2],
        workers=rng.choice((1, found.workers)),
        late=(),
        spread=spread,
        rows_max=room,
        ops=_among(rng, ops, _OF_FAMILIES, part=2),
        family=(*actions, *traits),
    )


def _torn(found: Scenario, rng: random.Random) -> Scenario:
    """With key changes of which the connector loses a half; not where an operator would have to mind foreign keys."""
    if rng.random() >= _TORN or found.whole or found.family:
        return found
    return found._replace(ops=_among(rng, found.ops, {"rekey": 2, "lose half": 2}))


def _altered(found: Scenario, rng: random.Random) -> Scenario:
    """With columns that get other types."""
    return found._replace(ops=_among(rng, found.ops, {"alter": 1})) if rng.random() < _ALTERED else found


def _keyless(found: Scenario, rng: random.Random) -> Scenario:
    """With tables without any key, beside others."""
    if rng.random() >= _KEYLESS or found.family:
        return found
    return found._replace(tables=(*found.tables, *rng.sample(KEYLESS, rng.choice((1, 1, 2)))))


def _refused(found: Scenario, rng: random.Random) -> Scenario:
    """With rows that the replica refuses for a while; not where an operator would have to mind what waits of a row."""
    if rng.random() >= _REFUSED or found.whole or found.family or any(op[0] == "lose half" for op in found.ops):
        return found
    return found._replace(ops=_among(rng, found.ops, {"refuse": 6, "admit": 1, "replay": 2}, part=3))


def _reshaped(found: Scenario, rng: random.Random) -> Scenario:
    """With tables that change; not where an operator would have to mind whole transactions, foreign keys, letters."""
    minded = {"lose half", "refuse"}
    if rng.random() >= _RESHAPED or found.whole or found.family or any(op[0] in minded for op in found.ops):
        return found
    applied = tuple(kind for kind in _KINDS if rng.random() < _APPLIED)
    return found._replace(ops=_among(rng, found.ops, _OF_TABLES, part=4), ddl=("approve", *applied))


def _wrong(found: Scenario, rng: random.Random) -> Scenario:
    """With tables that are read again; not where nobody may, or would have to mind foreign keys, or lost halves.

    A commit that waits for a standby is not seen by the reads of an incremental snapshot, either.
    """
    if rng.random() >= _WRONG or found.whole or found.family or any(op[0] == "lose half" for op in found.ops):
        return found
    reads = found.late or any(op[0] == "read" for op in found.ops)
    weights = {name: weight for name, weight in _OF_WRONG.items() if not (reads and name == "hide")}
    return found._replace(ops=_among(rng, found.ops, weights, part=4))


def _plain(rng: random.Random) -> Scenario:
    tables = tuple(rng.sample(NAMES, rng.randint(1, 3)))
    statements = {**_some(rng, _STATEMENTS), "insert": 6, "commit": 6}
    rest = {**_some(rng, _FAULTS), **_FLOW, "step": rng.choice((1, 5, 20, 40))}
    # Without these, the snapshot finds the transactions of all sessions open.
    commits = tuple(("commit", session, 0, 0) for session in range(3) if rng.random() < 0.7)
    return Scenario(
        tables,
        full=tuple(name for name in tables if rng.random() < 0.2),
        workers=rng.choice((1, 2, 2, 3)),
        rows_max=rng.choice((1, 2, 5, 20, 100)),
        tombstones=rng.random() < 0.3,
        aborted_reads=rng.choice((0, 0, 0, rng.randint(1, 20))),
        before=_ops(rng, rng.randint(0, 25), statements) + commits,
        ops=_ops(rng, rng.randint(20, 150), {**statements, **rest}),
    )


def _some(rng: random.Random, weights: dict[str, int]) -> dict[str, int]:
    """Each seed leaves some things out and has more of others: what is rare in all of them meets in some."""
    return {name: weight * rng.choice((0, 1, 1, 3)) for name, weight in weights.items()}


def _ops(rng: random.Random, count: int, weights: dict[str, int]) -> tuple[Op, ...]:
    names = rng.choices(list(weights), list(weights.values()), k=count)
    return tuple((name, rng.randrange(3), rng.randrange(30), rng.randrange(1000)) for name in names)


def _among(rng: random.Random, ops: tuple[Op, ...], weights: dict[str, int], part: int = 6) -> tuple[Op, ...]:
    """The ops, with some of others among them: up to one in so many."""
    found = list(ops)
    for op in _ops(rng, rng.randint(1, 1 + len(ops) // part), weights):
        found.insert(rng.randint(0, len(found)), op)
    return tuple(found)


def is_statement(op: Op) -> bool:
    return op[0] in STATEMENTS


def family_of(scenario: Scenario) -> Family:
    """What the source's foreign keys do, without what the replica's wait for for ever.

    Tables have no order among each other: a row that others reference goes on the replica when none references it any
    more, and one that references another waits for that. So a row that was made again under its key has to come with
    its delete, and a batch has to hold all of it; one that gets another key has to come together with those that
    reference it, to one worker.
    """
    on_delete, on_update, *traits = scenario.family or ("no action", "no action")
    if scenario.whole or "ordered" not in traits:
        return Family(on_delete, on_update)
    deletes = scenario.rows_max >= ALL
    return Family(on_delete, on_update, deletes, deletes and scenario.workers == 1)


def foreign_key(shape: Shape, scenario: Scenario) -> Foreign:
    """What the replica has of a table's reference."""
    column, parent = shape.reference or ("", "")
    is_deferrable, acts = ("deferrable" in scenario.family, "acts" in scenario.family)
    return Foreign(shape.table.id, column, TableId(shape.table.schema, parent), is_deferrable, acts)
