"""The guards of tables that change, and of those that are read again, each of them taken out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from tests.property import resync

from deltasync import readable
from deltasync.change import Change, Partition
from deltasync.debezium.keys import RowKeys
from deltasync.debezium.rows import UnknownColumnError
from deltasync.errors import RecordError
from deltasync.ports import Logs
from deltasync.progress import Claim
from deltasync.readable import Due
from deltasync.replica import memory, pending
from deltasync.resync import attempt
from deltasync.resync.attempt import Attempt
from deltasync.resync.snapshot import Snapshot
from deltasync.resync.stream import Seen, Stream
from deltasync.table import TableId, Version

_CARRY_OUT = memory.Replica.carry_out
_KEYED = RowKeys.keyed


def _rows_of_later_versions_go_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(readable, "_is_before", lambda _change, _version: True)


def _rows_from_before_wait_too(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(readable, "_is_before", lambda _change, _version: False)


def _reads_wait_for_all_changes(patch: pytest.MonkeyPatch) -> None:
    before = readable._is_before  # noqa: SLF001 - what it is without a guard is the question

    def is_before(change: Change, version: Version) -> bool:
        return not change.incremental and before(change, version)

    patch.setattr(readable, "_is_before", is_before)


def _any_version_is_carried_out(patch: pytest.MonkeyPatch) -> None:
    def carry_out(session: memory.Replica, due: Due, claims: Mapping[Partition, Claim], logs: Logs) -> bool:
        known = session._database.source_tables.get(due.table)  # noqa: SLF001
        log_id = known.pending[0].log_id if known is not None and known.pending else due.log_id
        return _CARRY_OUT(session, due._replace(log_id=log_id), claims, logs)

    patch.setattr(memory.Replica, "carry_out", carry_out)


def _early_rows_are_forgiven(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pending, "had_early_rows", lambda _before, _pending, _cut: False)


def _only_the_next_version_tells(patch: pytest.MonkeyPatch) -> None:
    before = pending.had_early_rows
    patch.setattr(pending, "had_early_rows", lambda table, found, cut: before(table, found[:1], cut))


def _names_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pending, "_remembering", lambda _before, version, _until: version.description)


def _other_keys_stop(patch: pytest.MonkeyPatch) -> None:
    def keyed(keys: RowKeys, change: Change) -> Change:
        try:
            return _KEYED(keys, change)
        except UnknownColumnError:
            raise RecordError("its key", remedy="") from None

    patch.setattr(RowKeys, "keyed", keyed)


def _nothing_is_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Seen, "holds", lambda _seen, _record: False)


def _all_in_the_log_is_not_seen(patch: pytest.MonkeyPatch) -> None:
    before = Seen.holds
    patch.setattr(Seen, "holds", lambda seen, record: before(seen._replace(ends={}), record))


def _snapshots_are_not_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Snapshot, "shows", lambda _snapshot, _transaction: False)


def _running_ones_are_not_awaited(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resync._Source, "wait_for_running", lambda _source: None)  # noqa: SLF001


def _kafka_is_not_awaited(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resync._Source, "wait_for_kafka", lambda _source: None)  # noqa: SLF001


def _the_ledger_is_not_locked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resync._Target, "_lock", lambda _target, _session, _partitions: None)  # noqa: SLF001


def _written_rows_are_not_suspected(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stream, "keys", lambda _stream: [])


def _the_ledger_stays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempt, "_moved", lambda _attempt, _at: {})


def _nobody_hears(patch: pytest.MonkeyPatch) -> None:
    before = memory.Database.read_anew

    def read_anew(database: memory.Database, id_: TableId, to: Mapping[Partition, Claim]) -> None:
        told = list(database.audit)
        before(database, id_, to)
        database.audit = told

    patch.setattr(memory.Database, "read_anew", read_anew)


def _names_are_columns(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attempt, "renames", lambda _old, _new: False)


GUARDS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a row of a later version waits for its change": _rows_of_later_versions_go_on,
    "rows from before the change come first": _rows_from_before_wait_too,
    "reads from before a change do not wait for it": _reads_wait_for_all_changes,
    "a change is carried out once": _any_version_is_carried_out,
    "early rows hold the table": _early_rows_are_forgiven,
    "early rows of all versions that are known do": _only_the_next_version_tells,
    "names that columns gave up are remembered": _names_are_forgotten,
    "a key that has another name waits": _other_keys_stop,
    "a table is not given what its snapshot holds": _nothing_is_seen,
    "nor what the log held before": _all_in_the_log_is_not_seen,
    "nor what the snapshot shows of what came then": _snapshots_are_not_seen,
    "a snapshot is taken when what ran is over": _running_ones_are_not_awaited,
    "and the log read when it holds what the snapshot does": _kafka_is_not_awaited,
    "rows that are written while it is compared are looked at again": _written_rows_are_not_suspected,
    "the ledger is locked while a table is made equal": _the_ledger_is_not_locked,
    "and moved behind what was read": _the_ledger_stays,
    "whoever has its partition goes on": _nobody_hears,
    "a table is not read whose names are other columns' now": _names_are_columns,
}
