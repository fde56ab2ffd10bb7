"""The net has no holes: with a guard taken out, its case in `guards.jsonl` fails; with it, it passes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.property import tables, whole
from tests.property.shrink import failure, from_json, watched

from deltasync import intake, keyless, narrowing, parking, pipeline, plan, progress
from deltasync.assignment import Assignment
from deltasync.change import Change, Log, Op, Partition
from deltasync.compact import Chain
from deltasync.debezium.keys import RowKeys
from deltasync.debezium.rows import RowDecoder
from deltasync.debezium.values import Codec
from deltasync.kafka import memory as kafka
from deltasync.parking import Parked
from deltasync.pipeline import Pipeline
from deltasync.ports import Batch
from deltasync.progress import Claim, Progress
from deltasync.replica import evolve, memory_evolve, memory_table
from deltasync.replica import memory as replica
from deltasync.steps import Steps

_WITH_LETTER = Parked.with_letter
_REWIND = Assignment.rewind
_PIPELINE = Pipeline.__init__
_ON_ASSIGN = Assignment.on_assign
_COMMIT = replica.Replica._commit  # noqa: SLF001 - what it is without a guard is the question
_MERGED = plan._merged  # noqa: SLF001
_TAKE = intake.take
_TAKE_ONE = intake._take_one  # noqa: SLF001
_APPLIED = progress.applied
_IS_OLDER = progress.is_older
_KEYED = RowKeys.keyed

Patch = Callable[[pytest.MonkeyPatch], None]


def _no_ledger_write(patch: pytest.MonkeyPatch) -> None:
    def commit(session: replica.Replica, batch: Batch) -> int:
        return _COMMIT(session, batch._replace(to={}))

    patch.setattr(replica.Replica, "_commit", commit)


def _no_fence(patch: pytest.MonkeyPatch) -> None:
    def lock_only(session: replica.Replica, claims: Mapping[Partition, Claim]) -> None:
        for partition in claims:
            if session._database.locks.setdefault(partition, session) is not session:  # noqa: SLF001
                raise memory_table.OperationalError("55P03")

    patch.setattr(replica.Replica, "_fence", lock_only)


def _no_lock(patch: pytest.MonkeyPatch) -> None:
    class Free(dict[Partition, replica.Replica]):
        def setdefault(self, _partition: Partition, session: replica.Replica) -> replica.Replica:
            return session

    before = replica.Database.__init__

    def made(database: replica.Database) -> None:
        before(database)
        database.locks = Free()

    patch.setattr(replica.Database, "__init__", made)


def _older(patch: pytest.MonkeyPatch, rule: Callable[[Progress, Change], bool]) -> None:
    patch.setattr(progress, "is_older", rule)


def _position(change: Change) -> tuple[int, int]:
    return change.position.seq0 or 0, change.position.seq1 or 0


def _mark(at: Progress) -> tuple[int, int]:
    return (at.watermark[0] or 0, at.watermark[1]) if at.watermark else (0, 0)


def _ties_are_skipped(patch: pytest.MonkeyPatch) -> None:
    def rule(at: Progress, change: Change) -> bool:
        known = change.op not in (Op.READ, Op.TRUNCATE) and change.position.seq0 is not None
        return known and _position(change) <= _mark(at)

    _older(patch, rule)


def _nulls_are_skipped(patch: pytest.MonkeyPatch) -> None:
    _older(patch, lambda at, change: change.op is not Op.READ and _position(change) < _mark(at))


def _lsn_is_the_order(patch: pytest.MonkeyPatch) -> None:
    def rule(at: Progress, change: Change) -> bool:
        return change.op not in (Op.READ, Op.TRUNCATE) and _position(change)[1] < _mark(at)[1]

    _older(patch, rule)


def _nothing_is_skipped(patch: pytest.MonkeyPatch) -> None:
    _older(patch, lambda _at, _change: False)


def _no_merge(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(plan, "_merged", lambda chain, decoder: _MERGED(Chain(chain.changes[-1:], chain.origin), decoder))


def _placeholders_are_values(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RowDecoder, "may_lack_values", lambda _decoder, _row: False)
    patch.setattr(Codec, "unavailable", None)


def _no_seek_on_assign(patch: pytest.MonkeyPatch) -> None:
    def on_assign(assignment: Assignment, partitions: Mapping[Partition, Log]) -> Mapping[Partition, int]:
        return {partition: partitions[partition].end_offset for partition in _ON_ASSIGN(assignment, partitions)}

    patch.setattr(Assignment, "on_assign", on_assign)


def _no_seek_on_reread(patch: pytest.MonkeyPatch) -> None:
    def reread(assignment: Assignment) -> None:
        assignment._open(assignment._ownership.logs())  # noqa: SLF001

    patch.setattr(Assignment, "reread", reread)


def _raw_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RowDecoder, "identity", lambda _decoder, key: key)


def _halves_are_parted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kafka, "ends_in_half", lambda _records: False)


def _old_keys_are_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intake._Taking, "_joined", lambda _taking, _half, _record, _before: None)  # noqa: SLF001


def _halves_are_awaited_anywhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intake, "take", lambda records, at, tables, _spread: _TAKE(records, at, tables))


def _keys_go_astray(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intake, "_take_one", lambda record, at, tables, _spread: _TAKE_ONE(record, at, tables, ()))


def _nothing_is_replaced(patch: pytest.MonkeyPatch) -> None:
    def replace(_table: memory_table.MemoryTable, _upserts: object, _updates: object) -> int:
        raise memory_table.NotUniqueError

    patch.setattr(memory_table.MemoryTable, "_replace", replace)


def _cut_exchanges_stop(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Assignment, "waited", lambda _assignment, _partition, _offset: True)


def _crowds_stop(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Assignment, "has_behind", lambda _assignment, _partition, _offset: False)


def _transactions_are_parted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(narrowing, "_transaction", lambda _taken: None)


def _nothing_is_polled_again(patch: pytest.MonkeyPatch) -> None:
    def rewind(assignment: Assignment, partitions: Collection[Partition] | None = None) -> None:
        if partitions is None:
            _REWIND(assignment)

    patch.setattr(Assignment, "rewind", rewind)


def _polls_are_parted(patch: pytest.MonkeyPatch) -> None:
    def init(self: Pipeline, *args: Any) -> None:  # noqa: ANN401 - the constructor's
        _PIPELINE(self, *args)
        self._fits_together = False

    patch.setattr(Pipeline, "__init__", init)


def _reads_move_the_watermark(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(progress, "applied", lambda at, change: _APPLIED(at, change._replace(snapshot=None)))


def _reads_are_skipped(patch: pytest.MonkeyPatch) -> None:
    _older(patch, lambda at, change: _older_read(at, change) or _IS_OLDER(at, change))


def _older_read(at: Progress, change: Change) -> bool:
    return change.op is Op.READ and _position(change) <= _mark(at)


def _numbers_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    def rule(at: Progress, _latest: object, change: Change) -> bool:
        return _position(change)[1] < _mark(at)[1]

    patch.setattr(keyless, "_is_again_within", rule)


def _all_at_the_watermark_is_known(patch: pytest.MonkeyPatch) -> None:
    def rule(at: Progress, _latest: object, change: Change) -> bool:
        return _position(change)[1] <= _mark(at)[1]

    patch.setattr(keyless, "_is_again_within", rule)


def _new_numbers_are_new_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keyless, "_goes_on", lambda _latest, _change: True)


def _no_run_is_doubted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keyless, "skipped", progress.skipped)


def _transactions_do_not_go_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keyless, "_latest", lambda _progress: None)


def _nobody_vouches(patch: pytest.MonkeyPatch) -> None:
    words = count()
    patch.setattr(progress, "vouched", lambda _offset: b"%d" % next(words))


def _no_read_begins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keyless, "begins", lambda _progress, _change: False)


def _no_read_is_the_last(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keyless, "_READ_TO_ITS_END", keyless._READING)  # noqa: SLF001


def _record_keys_are_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RowKeys, "keyed", lambda _keys, change: change)


def _old_keys_are_not_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RowKeys, "keyed", lambda keys, change: _KEYED(keys, change)._replace(old_key=None))


def _missing_parents_stop(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pipeline, "lacks_parent", lambda _error: False)


def _tables_are_emptied_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory_table.MemoryTable, "may_empty_last", lambda _table, _plan: False)


def _lost_halves_are_passed_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intake, "is_behind", lambda _change, _half: False)


def _steps_stay_apart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Steps, "longer", lambda _steps: None)


def _types_may_change(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        evolve, "_versioned", lambda table, _event, description, _policy: table._replace(description=description)
    )
    patch.setattr(memory_evolve, "is_additive", lambda _changes: True)


def _followers_go_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parking._Diverting, "_waits", lambda _diverting, _change: False)  # noqa: SLF001


def _one_key_is_parked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parking, "_keys", lambda change: [change.key])
    patch.setattr(Parked, "with_letter", lambda parked, letter: _WITH_LETTER(parked, letter._replace(old_key=None)))


def _letters_are_not_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replica.Replica, "parked", lambda _session, _ids: {})


def _nothing_is_void(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replica, "_is_void", lambda _letter, _void: False)


GUARDS: dict[str, Patch] = {
    "what follows of a parked key waits behind it": _followers_go_on,
    "a key change parks both keys": _one_key_is_parked,
    "letters are read where a partition is opened": _letters_are_not_read,
    "TRUNCATE makes letters void": _nothing_is_void,
    **whole.GUARDS,
    **tables.GUARDS,
    "a change of equal rows is known by its number": _numbers_are_not_compared,
    "numbers tell what is new at the watermark": _all_at_the_watermark_is_known,
    "a row under a new number may be one of those before it": _new_numbers_are_new_rows,
    "a run that began in the first place is remembered": _no_run_is_doubted,
    "the rest of a transaction is known by its place": _transactions_do_not_go_on,
    "an operator vouches for a record": _nobody_vouches,
    "the first read empties a table without a key": _no_read_begins,
    "behind the last read another snapshot begins": _no_read_is_the_last,
    "the ledger is written with the rows": _no_ledger_write,
    "the fence compares": _no_fence,
    "the fence locks": _no_lock,
    "ties are not skipped": _ties_are_skipped,
    "null first halves are not skipped": _nulls_are_skipped,
    "the pair is the order, not the place alone": _lsn_is_the_order,
    "what is older is skipped": _nothing_is_skipped,
    "values that did not travel are taken from older rows": _no_merge,
    "placeholders are no values": _placeholders_are_values,
    "a partition begins at the ledger": _no_seek_on_assign,
    "it goes on at the ledger": _no_seek_on_reread,
    "keys are compared by their values": _raw_keys,
    "batches do not part a key change": _halves_are_parted,
    "a key change is one change": _old_keys_are_not_told,
    "its halves go to several partitions": _halves_are_awaited_anywhere,
    "equal keys are in one partition": _keys_go_astray,
    "rows are replaced where a unique value moves among them": _nothing_is_replaced,
    "a batch begins again where it cut an exchange": _cut_exchanges_stop,
    "and again where others left no room": _crowds_stop,
    "narrowing parts a transaction last": _transactions_are_parted,
    "reads among streamed changes leave the watermark": _reads_move_the_watermark,
    "reads are never skipped": _reads_are_skipped,
    "the key of an index is the row's": _record_keys_are_taken,
    "the key of an index tells the one before": _old_keys_are_not_read,
    "another type holds its table": _types_may_change,
    "steps that do not fit in alone are carried out together": _steps_stay_apart,
    "a key change whose second half never comes stops": _lost_halves_are_passed_over,
    "rows wait for those that they reference": _missing_parents_stop,
    "what is referenced is deleted last": _tables_are_emptied_first,
    "what is polled behind a batch that fails is void": _nothing_is_polled_again,
    "rows that fit in only together are not read in bulk": _polls_are_parted,
}
CASES = {
    msgspec.json.decode(line)["why"]: from_json(line)
    for line in Path(__file__).with_name("guards.jsonl").read_text(encoding="utf-8").splitlines()
}


@pytest.fixture(autouse=True)
def _watched() -> Iterator[None]:
    with watched():
        yield


@pytest.mark.parametrize("guard", GUARDS)
def test_without(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(CASES[guard]) is None
    GUARDS[guard](monkeypatch)

    assert (failure(CASES[guard]) or "").startswith("BrokenError")
