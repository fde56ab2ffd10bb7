"""The guards of tables that change, each of them taken out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from deltasync import progress, readable
from deltasync.change import Change, Partition
from deltasync.debezium.keys import RowKeys
from deltasync.debezium.rows import UnknownColumnError
from deltasync.errors import RecordError
from deltasync.ports import Logs
from deltasync.progress import Claim
from deltasync.readable import Due
from deltasync.replica import memory, pending
from deltasync.table import Version

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


def _a_change_is_not_fenced(patch: pytest.MonkeyPatch) -> None:
    fence = memory.Replica._fence  # noqa: SLF001

    def carry_out(session: memory.Replica, due: Due, claims: Mapping[Partition, Claim], logs: Logs) -> bool:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(memory.Replica, "_fence", lambda *_: None)
            done = _CARRY_OUT(session, due, claims, logs)
        assert memory.Replica._fence is fence  # noqa: SLF001
        return done

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


def _older_keys_wait(patch: pytest.MonkeyPatch) -> None:
    before = readable.Tables.told

    def told(tables: readable.Tables, change: Change, **how: object) -> Change | None:
        try:
            return before(tables, change, **how)  # type: ignore[arg-type]
        except readable.BlockedError:
            patch.setattr(progress, "is_older", lambda _at, _change: False)
            raise

    patch.setattr(readable.Tables, "told", told)


GUARDS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a row of a later version waits for its change": _rows_of_later_versions_go_on,
    "rows from before the change come first": _rows_from_before_wait_too,
    "reads from before a change do not wait for it": _reads_wait_for_all_changes,
    "a change is carried out once": _any_version_is_carried_out,
    "a change is carried out where the ledger is at its cut": _a_change_is_not_fenced,
    "early rows hold the table": _early_rows_are_forgiven,
    "early rows of all versions that are known do": _only_the_next_version_tells,
    "names that columns gave up are remembered": _names_are_forgotten,
    "a key that has another name waits": _other_keys_stop,
}
