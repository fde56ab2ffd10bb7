"""Which changes the replica can have now, and in which form: what is known of the tables decides. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from deltasync import keyless
from deltasync.change import Change, Op, Partition
from deltasync.debezium.keys import RowKeys
from deltasync.debezium.rows import RowDecoder, UnknownColumnError, row_decoder
from deltasync.debezium.schema_log import CANARY, CONTROL_TABLES, SIGNAL
from deltasync.debezium.stock import StockForm
from deltasync.errors import DeltasyncError, RecordError
from deltasync.table import SourceTable, Table, TableId, Version

# The reason that the source gives where its operator left a table out.
EXCLUDED = "excluded"


class Due(NamedTuple):
    """A version that the replica's table is to be made to fit now, by its entry of the schema log."""

    table: TableId
    log_id: int
    drops: bool = False
    renames: bool = False


class Cut(NamedTuple):
    """Where a partition is read no further: at `offset`. It waits until more is known of its table, or stops.

    With `again` it only waits for its next record, and is soon read again. `due` is the change for which the time has
    come: all rows from before it were read.
    """

    partition: Partition
    offset: int
    error: DeltasyncError
    waits: bool
    again: bool = False
    due: Due | None = None


class BlockedError(Exception):
    """A partition is read no further than to this cut."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.cut = cut


class Tables:
    """The tables whose records are applied: a decoder for each, made when its first record comes."""

    def __init__(
        self, known: Mapping[TableId, SourceTable], canary: Table, placeholder: str, *, raw_text: bool
    ) -> None:
        self.known = known
        self._decoder = partial(row_decoder, placeholder=placeholder, raw_text=raw_text)
        self.decoders: dict[TableId, RowDecoder] = {CANARY: self._decoder(canary)}
        self._stock_form = partial(StockForm, placeholder=placeholder) if raw_text else None
        self._stock_forms: dict[TableId, StockForm] = {}
        self._row_keys: dict[TableId, RowKeys | None] = {}
        self._plain: dict[TableId, RowDecoder | None] = {}
        self._next = {id_: table.pending[0] for id_, table in known.items() if table.pending and not table.is_arriving}
        self._gone = {id_: table for id_, table in known.items() if table.gone_lsn is not None}
        # The tables that are to be changed whatever was applied of their rows.
        self.anytime = [
            Due(id_, version.log_id, version.is_drop)
            for id_, version in self._next.items()
            if version.anytime and version.action == "apply"
        ]
        # Those that are to be changed once all rows from before were applied, each with the transaction that did it.
        self.at_cut: dict[Due, int] = {
            Due(id_, version.log_id, renames=version.renamed): version.xid
            for id_, version in self._next.items()
            if version.action == "apply" and not version.anytime and version.xid is not None
        }
        # Some are changed without a row from behind that, once an operator says so.
        held = (version for table in known.values() for version in table.pending if version.action == "hold")
        self.await_word = any(version.is_drop or version.xid is not None for version in held)

    def told(self, change: Change, *, is_spread: bool, run: Callable[[], str] | None = None) -> Change | None:
        """The change with what tells its row; None for one that the replica is not to have.

        `is_spread` says that its topic has several partitions; `run` tells which run of the connector sent its record,
        and is asked only where the table has no key. Raises RecordError where the row cannot be told, or would have no
        order in several partitions, and BlockedError where it is from behind a change that the replica's table
        has not seen.
        """
        if change.table == SIGNAL:
            return None
        if change.table in self._gone and _is_void(change, self._gone[change.table]):
            return None
        if change.table in self._next and not _is_before(change, self._next[change.table]):
            raise BlockedError(self._at_change(change, is_spread=is_spread))
        known = self.known.get(change.table)
        if known is not None and not known.captured and _is_passed_over(change, known):
            return None
        keys = self._keys_of(change.table)
        if keys is None or keys.are_told(change):
            return change
        if is_spread:
            raise _spread_without_key(change)
        if keys.is_keyless:
            return change if run is None else keyless.told(change, run())
        try:
            return keys.keyed(change)
        except UnknownColumnError:
            raise BlockedError(stale(change)) from None

    def ready(self, change: Change) -> Change:
        """A change that was `told` as its table's decoder reads it, which is there then.

        Raises BlockedError where its table has to wait, and RecordError where stock Debezium's form of it is not exact.
        """
        if change.table not in self.decoders:
            self._prepare(change)
        return self._converted(change)

    def plain(self, table: TableId) -> RowDecoder | None:
        """The decoder of a table where nothing is special about it, its keys, or what becomes of its records now."""
        if table not in self._plain:
            self._plain[table] = self._decoder_if_plain(table)
        return self._plain[table]

    def are_told(self, table: TableId, keys: Sequence[bytes]) -> bool:
        """True where the records' own keys tell the rows of a table."""
        found = self._keys_of(table)
        return found is not None and found.are_all_told(keys)

    def decoder(self, table: TableId) -> RowDecoder:
        """The decoder of a described table. Raises RecordError where there is none."""
        known = self.known.get(table)
        if known is None or known.description is None:
            raise RecordError(f"The table {table} was never announced.", remedy="Run deltasync source setup.")
        return self._decoder(known.description)

    def is_keyless(self, table: TableId) -> bool:
        """True for a captured table that is known to have no key."""
        keys = self._keys_of(table)
        return keys is not None and keys.is_keyless

    def lacks_values(self, change: Change) -> bool:
        """True where a value of the row did not travel; its table must have a decoder."""
        return self.decoders[change.table].lacks_values(change.row or b"")

    def _decoder_if_plain(self, table: TableId) -> RowDecoder | None:
        known = self.known.get(table)
        if known is None or known.description is None or not known.captured or known.held is not None:
            return None
        if table in CONTROL_TABLES or table == SIGNAL or table in self._next or table in self._gone:
            return None
        try:
            decoder = self._decoder(known.description)
        except RecordError:
            return None
        return decoder if decoder.is_plain else None

    def _prepare(self, change: Change) -> None:
        """Make the decoder of a change's table."""
        known = self.known.get(change.table)
        if known is None or known.description is None or not known.captured:
            raise BlockedError(_waiting(change, _undescribed(change)))
        if known.held is not None and (known.is_arriving or not known.pending):
            raise BlockedError(_waiting(change, _held(change.table, known.held)))
        try:
            self.decoders[change.table] = self._decoder(known.description)
        except RecordError as error:
            raise BlockedError(_waiting(change, error)) from None

    def _at_change(self, change: Change, *, is_spread: bool) -> Cut:
        """The cut at the first record from behind a change of its table."""
        version, held = self._next[change.table], self.known[change.table].held
        if version.action == "stop":
            return Cut(change.partition, change.offset, _held(change.table, held or ""), waits=False)
        if version.action in {"hold", "ignore"} or (is_spread and not version.anytime):
            return _waiting(change, _held(change.table, held or _waits_for(version)))
        error = RecordError(
            f"The table {change.table} was changed on the source ({_at(change)}), and the replica's is not yet.",
            remedy="It follows in a moment. If it does not: deltasync schema list.",
        )
        return _waiting(change, error)._replace(due=Due(change.table, version.log_id, version.is_drop, version.renamed))

    def _converted(self, change: Change) -> Change:
        form = self._stock_form_of(change.table)
        return form.converted(change) if form and not change.raw_text else change

    def _stock_form_of(self, table: TableId) -> StockForm | None:
        """What restates records from before the converter; None without that. The table must have a decoder."""
        if self._stock_form is not None and table not in self._stock_forms:
            self._stock_forms[table] = self._stock_form(self.decoders[table].table)
        return self._stock_forms.get(table)

    def _keys_of(self, table: TableId) -> RowKeys | None:
        """What reads the keys of a captured table from its rows; None where it was not described yet."""
        if table not in self._row_keys:
            known = self.known.get(table)
            found = known.description if known is not None and known.captured else None
            self._row_keys[table] = RowKeys(found) if found is not None else None
        return self._row_keys[table]


def _is_before(change: Change, version: Version) -> bool:
    """True for a row from before a change of its table, which locked it: whatever the order of transactions.

    A read of an incremental snapshot has the shape of when it was read, and the place of what it came between: what
    tells is the end of the last commit that was seen by then, if one was. The change's own is behind its place.
    """
    if version.lsn is None:
        return False
    seq0, seq1 = change.position.seq0, change.position.seq1
    if change.incremental and seq0 is not None:
        return seq0 <= version.lsn
    return seq1 is not None and seq1 < version.lsn


def _is_void(change: Change, known: SourceTable) -> bool:
    """True for a record of a table that was dropped, here too, whatever has its name by now.

    A read of an incremental snapshot is sent behind all that was committed before it was read. Raises RecordError for
    a change from before the drop that was committed after it.
    """
    place = change.position.seq1
    if place is None or known.gone_lsn is None or place >= known.gone_lsn:
        return False
    if change.op is not Op.READ and change.position.committed_us > known.gone_at_us:
        raise RecordError(
            f"A record of {change.table} stands before the drop of its table in the source's log ({_at(change)}), "
            "although its transaction committed later: the source's log was replaced, or its clock went back.",
            remedy=(
                "See which table the record is of. Where it is the one that was dropped, go on behind it: deltasync "
                f"ledger set {change.partition.topic} {change.partition.number} {change.offset + 1} --reason …"
            ),
        )
    return True


def _waits_for(version: Version) -> str:
    return "it was dropped on the source" if version.is_drop else "it changed, and its topic has several partitions"


def stale(change: Change) -> Cut:
    """The cut at a record that has a column which its table's description lacks."""
    error = RecordError(
        f"The records of {change.table} have a column that its description lacks ({_at(change)}).",
        remedy="Run deltasync source setup again: it announces the table as it is now.",
    )
    return _waiting(change, error)


def _waiting(change: Change, error: RecordError) -> Cut:
    return Cut(change.partition, change.offset, error, waits=True)


def _spread_without_key(change: Change) -> RecordError:
    """Records whose key is not their table's have no order across partitions."""
    return RecordError(
        f"The key of a record of {change.table} is not the table's primary key, and its topic has several partitions: "
        f"such records are spread without an order ({_at(change)}).",
        remedy=(
            "Give the table a primary key on the source, or leave it out with `exclude` in [source]; one partition "
            "for its topic avoids it."
        ),
    )


def _is_passed_over(change: Change, known: SourceTable) -> bool:
    """True for records of a table that is not captured, if the source left it out, or they are reads.

    A streamed record of a table that was not captured when last heard of means that it is by now: its description is on
    its way.
    """
    return change.table not in CONTROL_TABLES and (change.op is Op.READ or known.reason == EXCLUDED)


def _undescribed(change: Change) -> RecordError:
    return RecordError(
        f"The table {change.table} was never announced ({_at(change)}).",
        remedy="Run deltasync source setup: it announces every captured table in-stream.",
    )


def _held(table: TableId, why: str) -> RecordError:
    return RecordError(
        f"The table {table} is held: {why}.",
        remedy="deltasync schema list shows what would be done, deltasync schema approve has it done. Where that will "
        "not do: make the replica's table fit the source's, then run deltasync replica setup.",
    )


def _at(change: Change) -> str:
    return f"{change.partition} offset {change.offset}"
