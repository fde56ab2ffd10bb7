"""The guards of whole transactions, each of them taken out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile

import pytest

from deltasync import coming, ends, transactions, whole
from deltasync.change import Partition
from deltasync.coming import Coming
from deltasync.debezium.transaction import End
from deltasync.ends import Ends
from deltasync.spool import Place, Spool
from deltasync.transactional import TransactionalPipeline
from deltasync.transactions import Transactions
from deltasync.whole import Read, Unit

_ASTRAY = Transactions._astray  # noqa: SLF001 - what it is without a guard is the question
_IS_READ = Transactions._is_read_far_enough  # noqa: SLF001


def _transactions_are_applied_in_part(patch: pytest.MonkeyPatch) -> None:
    before = Ends.missing

    def missing(found: Ends, coming: Coming | None) -> tuple[int, End] | None:
        told = before(found, coming)
        return told and (0, told[1])

    patch.setattr(Ends, "missing", missing)


def _partitions_one_by_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transactions, "place_of", lambda _read: Place(0, stays=True, number=0))


def _what_is_whole_overtakes(patch: pytest.MonkeyPatch) -> None:
    before = Transactions.ready

    def ready(found: Transactions) -> Iterator[Unit]:
        ends, coming = found._ends, found._open  # noqa: SLF001
        whole = [e for e in ends._first if (n := coming.get(e.transaction)) and n.missing(e) == 0]  # noqa: SLF001
        ends._first = deque([*whole, *(end for end in ends._first if end not in whole)])  # noqa: SLF001
        return before(found)

    patch.setattr(Transactions, "ready", ready)


def _repeated_changes_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Coming, "is_new", lambda _coming, _partition, _lsn, _what: True)


def _applied_transactions_are_taken_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transactions, "is_applied", lambda _record, _position, _mark: False)


def _key_changes_are_parted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(whole, "_is_one", lambda _half, _change: False)


def _ends_are_not_missed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Transactions, "_is_lost", lambda _transactions, _at: False)


def _reads_are_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Transactions, "unread", lambda _transactions: [])


def _what_went_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Transactions, "_drop", lambda _transactions, _partition: None)


def _what_was_not_applied_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TransactionalPipeline, "_begin_again", lambda _pipeline, *, known: None)  # noqa: ARG005 - its signature


def _strays_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Transactions, "_astray", lambda _transactions, _transaction, _found: [])


def _strays_are_dropped(patch: pytest.MonkeyPatch) -> None:
    def astray(found: Transactions, transaction: str, coming: Coming) -> list[Read]:
        return [read._replace(change=None) for read in _ASTRAY(found, transaction, coming)]

    patch.setattr(Transactions, "_astray", astray)


def _the_last_run_tells(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(coming, "began_ms", lambda _run: 0)


def _all_runs_count_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ends, "begun_ms", lambda _progress, _transaction: 0)


def _what_is_repeated_is_not_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Coming, "is_repeated", False)


def _only_the_first_end_tells(patch: pytest.MonkeyPatch) -> None:
    before = Ends.missing

    def missing(found: Ends, coming: Coming | None) -> tuple[int, End] | None:
        del found._told.get(found.transaction, [])[1:]  # noqa: SLF001
        return before(found, coming)

    patch.setattr(Ends, "missing", missing)


def _repeated_truncates_go_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transactions, "level", list)


def _reads_go_along(patch: pytest.MonkeyPatch) -> None:
    def run(reads: Iterable[Read], transaction: str) -> int:
        return len(list(takewhile(lambda read: read.transaction in {None, transaction}, reads)))

    patch.setattr(transactions, "run", run)


def _truncates_are_spooled_as_they_come(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Spool, "append", Spool._add)  # noqa: SLF001


def _truncate_overtakes(patch: pytest.MonkeyPatch) -> None:
    def is_read(found: Transactions, partition: Partition, **_: bool) -> bool:
        return _IS_READ(found, partition, truncates=False)

    patch.setattr(Transactions, "_is_read_far_enough", is_read)


GUARDS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a transaction is complete": _transactions_are_applied_in_part,
    "the changes of a transaction are merged by their order": _partitions_one_by_one,
    "transactions are applied in the order of their ends": _what_is_whole_overtakes,
    "a change that comes again is no other change": _repeated_changes_count,
    "a transaction that was applied is not applied again": _applied_transactions_are_taken_again,
    "a key change is one change across partitions": _key_changes_are_parted,
    "nothing is taken while the ends are not read": _ends_are_not_missed,
    "reads of all partitions come before changes": _reads_are_not_waited_for,
    "what was read of a partition that went is forgotten": _what_went_is_kept,
    "what was taken out and not applied is read again": _what_was_not_applied_is_kept,
    "a TRUNCATE that came again waits for the first one": _strays_stay,
    "a TRUNCATE that came again is carried out": _strays_are_dropped,
    "an end counts as its own run of the connector": _the_last_run_tells,
    "a run that tells a begin counts anew": _all_runs_count_on,
    "what comes again is read, whatever is kept": _what_is_repeated_is_not_read,
    "an end is told again": _only_the_first_end_tells,
    "a TRUNCATE that came again does not take the ledger back": _repeated_truncates_go_back,
    "reads behind a transaction go alone": _reads_go_along,
    "a TRUNCATE on disk is carried out where it was first": _truncates_are_spooled_as_they_come,
    "TRUNCATE comes behind reads of all partitions": _truncate_overtakes,
}
