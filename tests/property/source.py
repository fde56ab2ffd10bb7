"""A model of the source: tables, transactions that overlap, its write-ahead log, and what is decoded of it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import partial
from itertools import count

from tests.property.event import END, Event, Reshaped
from tests.property.images import image_of, key_of, log_row, told
from tests.property.kinds import CTID, Row, Shape, is_big, shape
from tests.property.locks import Family, Locks, Transaction

from deltasync.debezium.schema_log import CANARY, SCHEMA_LOG
from deltasync.table import Table, TableId

State = dict[str, dict[Hashable, Row]]
# Sessions below are transactions that are in the log, and are not seen yet.
HIDDEN = -100
_NOWHERE = TableId("", "transaction")


class Source:
    """The database. A statement that would wait for another session's lock does nothing.

    Nor does what stops a partition by design, where the topic of a table (`spread`) has several: TRUNCATE, and another
    key for a row whose large values do not travel. `tells_ends`: each transaction's end is an event.
    """

    def __init__(
        self,
        names: Iterable[str],
        full: Iterable[str],
        spread: Iterable[str] = (),
        *,
        tells_ends: bool = False,
        family: Family | None = None,
    ) -> None:
        self.shapes: dict[str, Shape] = {name: shape(name) for name in names}
        self.first = dict(self.shapes)
        self.altered: dict[int, str] = {}  # the tables that became other ones than by an addition, by place
        self.committed: dict[str, dict[Hashable, Row]] = {name: {} for name in self.shapes}
        self.stream: list[Event] = []
        self.commits: list[int] = []  # the end of each transaction's commit record
        self.beat = 0
        self.system_identifier = 1
        self.logged: list[tuple[int, Table]] = []  # the schema log's rows
        self.history: list[State] = []  # the committed rows behind each commit
        self.moved: dict[int, tuple[str, Row, Row]] = {}  # rows that got another key, by place: before and after it
        self._tells_ends = tells_ends
        self._full = frozenset(full)
        self._spread = frozenset(spread)
        self._rows: dict[str, dict[Hashable, Row]] = {name: {} for name in self.shapes}
        self._locks = Locks(self.shapes, self._rows, family or Family())
        self._places = count(1)
        self._lsn = 10_000
        self._clock_us = 1_700_000_000_000_000
        self._entries = count(1)
        self._numbers = count(700)
        self._told_shapes = dict(self.shapes)  # as other sessions see them
        self.logged += [(next(self._entries), found.table) for found in self.shapes.values()]

    # Statements

    def insert(self, session: int, name: str, rows: list[Row]) -> None:
        """One INSERT, or COPY where there are more rows: they share one place in the log."""
        if self.shapes[name].table.is_keyless:
            rows = [{**row, CTID: str(next(self._places))} for row in rows]
        found = {self.shapes[name].identity(row): row for row in rows}
        there = self._rows[name].keys() | {identity for table, identity in self._locks.gone if table == name}
        fresh = {identity: row for identity, row in found.items() if identity not in there}
        if not fresh or any(map(self.shapes[name].lacks, fresh.values())):
            return
        if not self._locks.lock(session, name, fresh) or not self._locks.take(session, name, {}, fresh):
            return
        if not all(self._locks.references(session, name, row) for row in fresh.values()):
            return
        lsn = self._write()
        for identity, row in fresh.items():
            self._rows[name][identity] = row
            takes = self.shapes[name].taken(row)
            self._log(session, lsn, name, "c", self._key(name, row), self._image(name, row), takes=takes, now=row)

    def exchange(self, session: int, name: str, identities: Sequence[Hashable], columns: Iterable[str]) -> None:
        """UPDATE of rows that pass values on to the next; a deferred index looks at them when all is done."""
        if not self._locks.lock(session, name, identities) or any(
            event.together for event in self._locks.open[session].events
        ):
            return
        values = [{column: self._rows[name][identity][column] for column in columns} for identity in identities]
        for identity, value in zip(identities, (values[-1], *values), strict=False):
            self.update(session, name, identity, value, deferred=True)

    def update(self, session: int, name: str, identity: Hashable, changes: Row, *, deferred: bool = False) -> None:
        """UPDATE of one row; one that changes the key becomes a delete and an insert."""
        before = self._rows[name].get(identity)
        if before is None:
            return
        after = {**before, **changes}
        moved = self.shapes[name].identity(after)
        told = self._told(name, before, after)
        old, new = self._key(name, before if told is None else told), self._key(name, after)
        lacking = frozenset() if self._is_full(name) else self._untouched(name, before, after)
        if (old != new and lacking and name in self._spread) or self.shapes[name].lacks(after):
            return
        if (moved != identity and moved in self._rows[name]) or not self._locks.lock(session, name, (identity, moved)):
            return
        if not self._locks.take(session, name, {identity: before}, {moved: after}, deferred=deferred):
            return
        if not self._locks.references(session, name, before, is_new=False):
            return
        if not self._locks.references(session, name, after):
            return
        below = self._locks.below(name, identity) if moved != identity else []
        if moved != identity and not self._locks.may_leave(session, name, identity, goes=False):
            return
        lsn = self._write()
        image, takes = self._image(name, after, lacking), self.shapes[name].taken(after)
        del self._rows[name][identity]
        self._rows[name][moved] = after
        before_image = None if told is None else self._image(name, told)
        log = partial(self._log, session, lsn, name)
        if old != new and (told is not None or self.shapes[name].key == self.shapes[name].record_key):
            self.moved[lsn] = name, before, after
            gone = self._told(name, before, None) or {}
            log("d", old, None, moves=True, before=self._image(name, gone), was=before)
            log("c", new, image, lacks=bool(lacking), takes=takes, together=deferred, now=after)
        else:
            log(
                "u",
                new,
                image,
                lacks=bool(lacking),
                takes=takes,
                together=deferred,
                before=before_image,
                was=before,
                now=after,
            )
        for child, key, column in below:
            self.update(session, child, key, {column: after[self.shapes[name].key[0]]})

    def delete(self, session: int, name: str, identity: Hashable) -> None:
        row = self._rows[name].get(identity)
        if row is None or not self._locks.lock(session, name, (identity,)):
            return
        if not self._locks.take(session, name, {identity: row}, {}) or not self._locks.references(
            session, name, row, is_new=False
        ):
            return
        below = self._locks.below(name, identity)
        if not self._locks.may_leave(session, name, identity, goes=True):
            return
        del self._rows[name][identity]
        told = self._told(name, row, None)
        before = None if told is None else self._image(name, told)
        self._log(session, self._write(), name, "d", self._key(name, told or row), None, before=before, was=row)
        for child, key, column in below:
            if self._locks.family.on_delete == "cascade":
                self.delete(session, child, key)
            else:
                self.update(session, child, key, {column: None})

    def truncate(self, session: int, names: list[str]) -> None:
        """TRUNCATE of several tables, which share one place in the log."""
        for name, found in self.shapes.items():  # each behind the one that it references
            if found.reference and found.reference[1] in names and name not in names:
                names = [*names, name]
        if any(name in self._spread or self._locks.is_used(session, name) for name in names):
            return
        if not self._locks.family.deletes and self._locks.parents.intersection(names):
            return
        if not self._locks.family.remakes:
            self._locks.gone.update(
                (name, identity) for name in self._locks.parents.intersection(names) for identity in self._rows[name]
            )
        lsn = self._write()
        for name in names:
            mine = self._locks.open.setdefault(session, Transaction())
            mine.truncated.add(name)
            mine.touched.update((name, identity) for identity in self._rows[name])
            self._rows[name] = {}
            self._log(session, lsn, name, "t", None, None)

    def alter(self, session: int, name: str, to: Reshaped, *, alone: bool = False) -> bool:
        """ALTER TABLE, and the entry that the event trigger makes of it. It has the table until its transaction ends.

        `alone`: only where no other transaction is under way, and in one of its own. What is for an operator alone is
        left out: what is no addition, where the topic has several partitions, or the table no key. False where it was.
        """
        is_idle = not any(t.touched or t.truncated or t.reshaped for t in self._locks.open.values())
        if self._locks.is_used(session, name) or (not is_idle if alone else self._is_special(name)):
            return False
        self._locks.open.setdefault(session, Transaction()).reshaped.add(name)
        self.shapes[name] = to.shape
        self._rows[name] = {identity: to.row(row) for identity, row in self._rows[name].items()}
        if not alone:
            self.altered[self._lsn] = name
        self.announce(session, name)
        if alone:
            self.commit(session)
        return True

    def _is_special(self, name: str) -> bool:
        return name in self._spread or self.shapes[name].table.is_keyless

    def announce(self, session: int, name: str) -> None:
        """An entry of the schema log; not while somebody else alters the table."""
        if self._locks.is_altered(session, name):
            return
        entry = next(self._entries), self.shapes[name].table
        transaction = self._written(session)
        transaction.logged.append(entry)
        transaction.events.append(Event(0, self._write(), 0, SCHEMA_LOG, "c", *log_row(*entry)))

    def heartbeat(self) -> None:
        """The heartbeat's query, in a transaction of its own."""
        session, op = -1, "u" if self.beat else "c"
        self.beat += 1
        transaction = self._written(session)
        transaction.events.append(Event(0, self._write(), 0, CANARY, op, b'{"pipeline":"p"}', self.canary_row()))
        self.commit(session)

    def commit(self, session: int, step_us: int = 1000, *, hides: bool = False) -> None:
        """End a transaction; its changes join the stream. The clock may stand still, or go back.

        One that `hides` is in the log, and others do not see it yet: it waits for a standby, and keeps its locks.
        """
        transaction = self._locks.open.pop(session, None)
        if transaction is None:
            return
        self._write()
        self._clock_us += step_us
        number = len(self.commits)
        events = transaction.events
        if self._tells_ends and events:
            events = [*events, Event(0, self._lsn, 0, _NOWHERE, END, None, None)]
        self.stream += [
            event._replace(transaction=number, committed_us=self._clock_us, order=order, number=transaction.number)
            for order, event in enumerate(events, 1)
        ]
        self.commits.append(self._lsn)
        if hides and events:
            self._locks.open[HIDDEN - transaction.number] = transaction
            return
        self._show(transaction)
        self.history.append({name: dict(rows) for name, rows in self.committed.items()})

    def show(self) -> None:
        """All that is in the log is seen."""
        for session in [session for session in self._locks.open if session < HIDDEN]:
            self._show(self._locks.open.pop(session))

    def _show(self, transaction: Transaction) -> None:
        for name in transaction.truncated:
            self.committed[name] = {}
        for name, identity in transaction.touched:
            row = self._rows[name].get(identity)
            if row is None:
                self.committed[name].pop(identity, None)
            else:
                self.committed[name][identity] = row
        for name in transaction.reshaped:
            self._told_shapes[name], self.committed[name] = self.shapes[name], dict(self._rows[name])
        self.logged += transaction.logged

    def rollback(self, session: int) -> None:
        transaction = self._locks.open.pop(session, None)
        if transaction is None:
            return
        for name, identity in transaction.touched:
            self._rows[name].pop(identity, None)
            if identity in self.committed[name]:
                self._rows[name][identity] = self.committed[name][identity]
        for name in transaction.reshaped:
            self.shapes[name], self._rows[name] = self._told_shapes[name], dict(self.committed[name])

    def commit_all(self) -> None:
        self.show()
        for session in list(self._locks.open):
            self.commit(session)

    # What others see

    def visible(self, name: str) -> list[Hashable]:
        """The rows of a table, those of open transactions included."""
        return list(self._rows[name])

    def row(self, name: str, identity: Hashable) -> Row:
        return self._rows[name][identity]

    def is_keyless(self, name: str) -> bool:
        shape = self.shapes.get(name)
        return shape is not None and shape.table.is_keyless

    def running(self) -> list[int]:
        """The numbers of the transactions that others do not see yet."""
        return [transaction.number for transaction in self._locks.open.values() if transaction.number]

    def is_altered(self, name: str) -> bool:
        """True while somebody alters the table."""
        return self._locks.is_altered(HIDDEN, name)

    def draw(self) -> int:
        """The number of a transaction that begins and ends now."""
        return next(self._numbers)

    def described(self, name: str) -> Shape:
        """A table as others see it."""
        return self._told_shapes[name]

    def position(self) -> int:
        """A place in the log: where a slot that is made now begins."""
        return self._write()

    def clock_us(self) -> int:
        return self._clock_us

    def snapshot(self) -> Iterable[tuple[TableId, bytes | None, str]]:
        """The rows that a snapshot reads: committed ones."""
        for name in self.shapes:
            yield from ((read.table, read.key, read.after or "") for read in self.read(name))
        if self.beat:
            yield CANARY, b'{"pipeline":"p"}', self.canary_row()
        for entry in self.logged:
            yield SCHEMA_LOG, *log_row(*entry)

    def read(self, name: str) -> Iterable[Event]:
        """The rows of a table that a chunk of an incremental snapshot reads: committed ones."""
        found = self._told_shapes[name]
        for row in self.committed[name].values():
            key, image = key_of(found, row, snapshot=True), image_of(found, row, snapshot=True)
            yield Event(0, 0, self._clock_us, found.table.id, "r", key, image)

    def canary_row(self) -> str:
        return (
            f'{{"pipeline":"p","beat":{self.beat},"beat_at":"2026-01-01T00:00:00Z","publication_digest":"d",'
            '"publication_tables":1,"slot_wal_status":null,'
            f'"system_identifier":"{self.system_identifier}","timeline":1}}'
        )

    # The log

    def _write(self) -> int:
        """The place of one more record of the log; the next one begins where it ends."""
        found, self._lsn = self._lsn, self._lsn + 56
        return found

    def _log(  # noqa: PLR0913, PLR0917 - one change
        self,
        session: int,
        lsn: int,
        name: str,
        op: str,
        key: bytes | None,
        after: str | None,
        *,
        lacks: bool = False,
        moves: bool = False,
        takes: Iterable[Hashable] = (),
        together: bool = False,
        before: str | None = None,
        was: Row | None = None,
        now: Row | None = None,
    ) -> None:
        table = self.shapes[name].table.id
        event = Event(0, lsn, 0, table, op, key, after, lacks, moves, tuple(takes), together, before, 0, was, now)
        self._written(session).events.append(event)

    def _written(self, session: int) -> Transaction:
        """A session's transaction, which has a number from its first change on."""
        found = self._locks.open.setdefault(session, Transaction())
        found.number = found.number or next(self._numbers)
        return found

    def _is_full(self, name: str) -> bool:
        return name in self._full or self.shapes[name].table.replica_identity == "f"

    def _told(self, name: str, before: Row, after: Row | None) -> Row | None:
        return told(self.shapes[name], before, after)

    def _untouched(self, name: str, before: Row, after: Row) -> frozenset[str]:
        kinds = self.shapes[name].kinds
        return frozenset(c for c, kind in kinds.items() if is_big(kind, before[c]) and before[c] == after[c])

    def _key(self, name: str, row: Row) -> bytes | None:
        return key_of(self.shapes[name], row)

    def _image(self, name: str, row: Row, lacking: frozenset[str] = frozenset()) -> str:
        return image_of(self.shapes[name], row, lacking)
