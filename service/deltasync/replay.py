"""Dead letters as an operator sees them: listed, shown, replayed, read anew from the source, or discarded.

What belongs together is one queue: the record that failed, and what waits behind it for its key's sake, under each of
the keys that its row has had. A queue is replayed whole and in order, in one transaction that locks its partition's row
of the ledger; the worker hears of it within seconds, and lets the key flow again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple

import psycopg
import sqlalchemy as sa
from psycopg import sql

from deltasync import intake
from deltasync.change import Partition, Record
from deltasync.compact import compact
from deltasync.debezium.rows import Rows
from deltasync.errors import DeltasyncError, RefusedError
from deltasync.failure import describe, is_to_blame, lacks_room
from deltasync.parking import Letter
from deltasync.plan import StaleDescriptionError, TablePlan, plan
from deltasync.postgres.connect import connect
from deltasync.progress import Progress
from deltasync.readable import Tables, stale
from deltasync.replica import by_hand, catalog, dead_letters, ledger
from deltasync.replica.dead_letters import Outcome, Stored
from deltasync.replica.engine import driver, open_replica
from deltasync.replica.session import take_replica_role
from deltasync.replica.statements import fetch
from deltasync.replica.tables import CANARY, dead_letter
from deltasync.replica.writer import Teller, Writer, untold
from deltasync.settings import Settings
from deltasync.table import Table, TableId

_MEND = "Mend what refuses it, and replay it again."


class Queue(NamedTuple):
    """Letters of one row, in their order: those with an `error` failed, the others wait behind them."""

    letters: tuple[Stored, ...]

    @property
    def id(self) -> int:
        """What commands know it by: the id of its first letter."""
        return self.letters[0].id

    @property
    def table(self) -> TableId:
        return self.letters[0].letter.table

    @property
    def partition(self) -> Partition:
        return self.letters[0].letter.record.partition

    @property
    def keys(self) -> list[bytes]:
        """The raw keys that its row has had, in their order."""
        found = ((stored.letter.old_key, stored.letter.key) for stored in self.letters)
        return list(dict.fromkeys(key for both in found for key in both if key is not None))


class Statement(NamedTuple):
    """A statement of the writer's: its parameters are the texts of a column each, one text a row."""

    sql: str
    parameters: list[list[str | None]]


class Preview(NamedTuple):
    """What a replay would do with a row: what the replica has now, and what it would have, column by column.

    None where there is no such row. `statements` are those that were tried, in order; `refused` says why it would fail,
    at the last one of them if there is any. Nothing was changed.
    """

    queue: Queue
    before: dict[str, str | None] | None
    after: dict[str, str | None] | None
    statements: Sequence[Statement]
    refused: str | None
    remedy: str | None = None


class Replayed(NamedTuple):
    """What became of a queue: how many records were applied, or why not; then they are set aside as before."""

    queue: Queue
    records: int
    refused: str | None = None
    remedy: str | None = None
    lacks_room: bool = False


def queues(stored: Iterable[Stored], tables: Tables) -> list[Queue]:
    """Letters by what belongs together, in the order of their first ones. Pure.

    Raises RecordError where a table is not known, or a key does not fit it.
    """
    found: dict[Hashable, list[Stored]] = {}
    for one in stored:
        places = _places(one.letter, tables)
        apart = list({id(found[place]): found[place] for place in places if place in found}.values())
        together = apart[0] if apart else []
        for other in apart[1:]:
            together += other
            places |= {place for each in other for place in _places(each.letter, tables)}
        together.append(one)
        found |= dict.fromkeys(places, together)
    unique = {id(queue): queue for queue in found.values()}.values()
    ordered = [Queue(tuple(sorted(queue, key=lambda one: one.letter.record.offset))) for queue in unique]
    return sorted(ordered, key=lambda queue: queue.id)


def _places(letter: Letter, tables: Tables) -> set[Hashable]:
    """What tells the row of a letter, under each of its keys."""
    identity, where = tables.decoder(letter.table).identity, (letter.record.partition, letter.table)
    return {(where, identity(key)) for key in (letter.old_key, letter.key) if key is not None}


def plans_of(found: Sequence[Queue], tables: Tables) -> list[TablePlan]:
    """What queues do together, as recorded. Pure.

    Raises DeltasyncError where a record cannot be read, or its table has to wait.
    """
    stored = sorted((one for queue in found for one in queue.letters), key=lambda one: one.letter.record.offset)
    at = {one.letter.record.partition: Progress() for one in stored}
    taken = intake.take([_as_taken(one.letter) for one in stored], at, tables)
    for cut in taken.cuts.values():
        raise cut.error
    changes = [one.change for one in taken.taken if one.change is not None]
    try:
        return plan(compact(changes, tables.decoders), tables.decoders)
    except StaleDescriptionError as error:
        raise stale(error.change).error from None


def _as_taken(letter: Letter) -> Record:
    """The record as it was read: where a topic has several partitions, half of a key change stands alone."""
    return letter.record if letter.old_key is not None else letter.record.stays()


def listed(settings: Settings) -> list[Queue]:
    """What is set aside of a pipeline. Raises UnreachableError."""
    with _session(settings) as replica, replica.begin():
        return _load(replica, settings)[0]


def show(settings: Settings, letter: int) -> Preview:
    """What a replay of the queue with this letter would do: it is tried, and rolled back."""
    with _session(settings) as replica, closing(replica.begin()):
        (queue,), tables = _locked(replica, settings, [letter])
        before, tried = _row(replica, queue, tables), list[Statement]()

        def tell(query: sql.Composable, parameters: Sequence[Sequence[str | None]]) -> None:
            tried.append(Statement(query.as_string(driver(replica)), [list(texts) for texts in parameters]))

        try:
            _writer(replica, settings, tell).write(plans_of([queue], tables))
            return Preview(queue, before, _row(replica, queue, tables), tried, None)
        except (DeltasyncError, psycopg.Error, sa.exc.SQLAlchemyError) as error:
            if not is_to_blame(error):
                raise
            return Preview(queue, before, None, tried, describe(error), _remedy(queue))


def replay(settings: Settings, letters: Sequence[int], *, from_source: bool = False) -> Iterator[Replayed]:
    """Apply the queues with these letters, all where none is named; each in a transaction of its own.

    As recorded, or as the rows are on the source now. A queue that is refused stays as it was. Of those that find no
    room for a unique value, one may hold what the other needs: they are tried once more, together.
    """
    found = listed(settings)
    wanted = [_with(found, letter) for letter in letters] if letters else found
    crowded: dict[TableId, list[Replayed]] = {}
    for queue in {queue.id: queue for queue in wanted}.values():
        (one,) = _replay(settings, [queue], from_source=from_source)
        if one.lacks_room:
            crowded.setdefault(one.queue.table, []).append(one)
        else:
            yield one
    for refused in crowded.values():
        together = [one.queue for one in refused]
        yield from _replay(settings, together, from_source=from_source) if len(together) > 1 else refused


def discard(settings: Settings, letter: int, reason: str) -> int:
    """Give a record up: it is kept in the audit. Returns how many of its queue are left.

    Raises RefusedError without a reason, and where there is no such letter.
    """
    if not reason.strip():
        raise RefusedError("Nothing is discarded without a reason.", remedy="Say why: --reason TEXT.")
    with _session(settings) as replica, replica.begin():
        (queue,), _ = _locked(replica, settings, [letter])
        (wanted,) = [stored.letter for stored in queue.letters if stored.id == letter]
        given_up = {stored.id for stored in queue.letters if _is_of(stored.letter, wanted)}
        dead_letters.end(replica, dead_letter.c.id.in_(given_up), Outcome.DISCARDED, reason.strip())
        by_hand.tell(replica, settings.pipeline, queue.partition, f"dead letter {letter} was discarded")
        return len(queue.letters) - len(given_up)


def _is_of(letter: Letter, change: Letter) -> bool:
    """True for the record itself, and the other half of a change of a key."""
    return letter.record.offset == change.record.offset or (
        change.old_key is not None and (letter.key, letter.old_key) == (change.key, change.old_key)
    )


def _replay(settings: Settings, found: Sequence[Queue], *, from_source: bool) -> list[Replayed]:
    """Apply queues of one table in one transaction."""
    outcome = Outcome.READ_ANEW if from_source else Outcome.REPLAYED
    try:
        with _session(settings) as replica, replica.begin():
            found, tables = _locked(replica, settings, [queue.id for queue in found])
            plans = _on_source(settings, found, tables) if from_source else plans_of(found, tables)
            _writer(replica, settings).write(plans)
            ids = [stored.id for queue in found for stored in queue.letters]
            dead_letters.end(replica, dead_letter.c.id.in_(ids), outcome, None)
            for partition in {queue.partition for queue in found}:
                by_hand.tell(replica, settings.pipeline, partition, f"dead letters were {outcome.value}")
    except (DeltasyncError, psycopg.Error, sa.exc.SQLAlchemyError) as error:
        if not is_to_blame(error):
            raise
        why, room = describe(error), lacks_room(error)
        return [Replayed(queue, 0, why, _MEND if from_source else _remedy(queue), room) for queue in found]
    return [Replayed(queue, len(queue.letters)) for queue in found]


@contextmanager
def _session(settings: Settings) -> Iterator[sa.Connection]:
    settings.need("replica.dsn", "unavailable_value")
    with closing(open_replica(settings, name="dead-letters")) as replica:
        if settings.replica.constraints == "replica-role":
            take_replica_role(driver(replica))
        yield replica


def _load(replica: sa.Connection, settings: Settings) -> tuple[list[Queue], Tables]:
    """What is set aside, and what is known of the tables."""
    known = catalog.load(replica, settings.pipeline)
    tables = Tables(known, CANARY, settings.unavailable_value or "", raw_text=settings.connect.raw_text)
    return queues(dead_letters.load(replica, settings.pipeline), tables), tables


def _with(found: Sequence[Queue], letter: int) -> Queue:
    for queue in found:
        if any(stored.id == letter for stored in queue.letters):
            return queue
    raise RefusedError(
        f"There is no dead letter {letter}.", remedy="`deltasync dead-letters list` lists those there are."
    )


def _locked(replica: sa.Connection, settings: Settings, letters: Sequence[int]) -> tuple[list[Queue], Tables]:
    """The queues with these letters once no worker can add to them any more, and what is known of the tables."""
    found, _ = _load(replica, settings)
    for topic in sorted({_with(found, letter).partition.topic for letter in letters}):
        ledger.lock(replica, settings.pipeline, topic)
    found, tables = _load(replica, settings)
    return [_with(found, letter) for letter in letters], tables


def _writer(replica: sa.Connection, settings: Settings, tell: Teller = untold) -> Writer:
    return Writer(driver(replica), ordered=settings.replica.constraints == "ordered", tell=tell)


def _remedy(queue: Queue) -> str:
    return (
        f"{_MEND} Where its table was changed since, or nothing mends it, write the row as the source has it now: "
        f"deltasync dead-letters replay {queue.id} --from-source"
    )


def _row(replica: sa.Connection, queue: Queue, tables: Tables) -> dict[str, str | None] | None:
    """The row as the replica has it, under any of its keys."""
    decoder = tables.decoder(queue.table)
    rows = _fetched(driver(replica), decoder.table, decoder.keys(queue.keys))
    return dict(zip(rows.columns, (column[-1] for column in rows.values), strict=True)) if rows.count else None


def _fetched(connection: psycopg.Connection, table: Table, keys: Rows) -> Rows:
    columns = tuple(column.name for column in table.stored_columns)
    with psycopg.RawCursor(connection) as cursor:
        found = dict.fromkeys(cursor.execute(fetch(table, keys.columns, columns), keys.values))
    return Rows(columns, [list(values) for values in zip(*found, strict=True)] or [[] for _ in columns])


def _on_source(settings: Settings, found: Sequence[Queue], tables: Tables) -> list[TablePlan]:
    """Write the rows of queues of one table as the source has them now, and delete those that it has not."""
    settings.need("source.dsn")
    decoder = tables.decoder(found[0].table)
    keys = decoder.keys([key for queue in found for key in queue.keys])
    with closing(connect(settings.source.conninfo() or "", name="dead-letters", autocommit=True)) as source:
        rows = _fetched(source, decoder.table, keys)
    there = set(zip(*rows.only(keys.columns).values, strict=True))
    gone = [key for key in zip(*keys.values, strict=True) if key not in there]
    deletes = Rows(keys.columns, [list(values) for values in zip(*gone, strict=True)]) if gone else None
    upserts = [rows] if rows.count else []
    return [TablePlan(decoder.table, truncate=False, deletes=deletes, upserts=upserts, updates=[], moves=[])]
