"""Whether all of a transaction has come: numbers mean something within one run of the connector."""

from __future__ import annotations

import pytest
from tests.unit.transaction_log import A, B, Log, orders

from deltasync.change import RUN, Told
from deltasync.coming import Numbers, began_ms, highest_missing


def _numbers(numbers: set[int]) -> Numbers:
    found = Numbers()
    for number in numbers:
        found.add(number)
    return found


@pytest.mark.parametrize(
    ("number", "sets", "missing"),
    [
        (0, [], 0),
        (3, [], 3),
        (3, [{1, 2, 3}], 0),
        (3, [{1, 3}, {2}], 0),
        (3, [{3}, {1}], 2),
        (5000, [set(range(1, 5001))], 0),
        (5000, [set(range(1, 5001)) - {1023}, set()], 1023),
        (5000, [set(range(1025, 5001)), set(range(1, 1024))], 1024),
    ],
)
def test_the_highest_number_that_is_missing(number: int, sets: list[set[int]], missing: int) -> None:
    assert highest_missing(number, [_numbers(one) for one in sets]) == missing


def test_the_id_of_a_run_tells_when_it_began() -> None:
    """The example of RFC 9562, appendix A.6."""
    assert began_ms("017f22e2-79b0-7cc3-98c4-dc0c0c07398f") == 0x17F22E279B0
    assert [began_ms("c232ab00-9414-41ec-b3c8-9f6bdeced846"), began_ms("5"), began_ms("")] == [None] * 3


def test_changes_that_are_numbered_higher_when_they_come_again_do_not_stand_for_others() -> None:
    """A connector that died in the first place of a transaction sends what it had last under the next number."""
    log = Log()
    assert log.taken(log.change(A, 1, 1), log.end(1, 3)) == []
    assert log.taken(log.change(A, 1, 1, higher=1, run=5), log.change(B, 1, 2, higher=1, run=5)) == []
    missing = log.transactions.missing()
    assert missing is not None
    assert missing[0] == 3
    assert log.taken(log.end(1, 4, run=5)) == []
    assert orders(log.taken(log.change(A, 1, 3, higher=1, run=5))) == [[1, 3, 4]]


def test_an_older_run_tells_what_is_before_another_one() -> None:
    """Also where the later one did not deliver all that it sent."""
    log = Log()
    log.taken(log.change(A, 1, 1), log.change(B, 1, 2), log.end(1, 4))

    assert orders(log.taken(log.change(A, 1, 3, run=5), log.change(A, 1, 4, run=5), log.end(1, 4, run=5))) == [
        [1, 2, 3, 4]
    ]


def test_a_run_that_tells_the_begin_again_counts_anew() -> None:
    """Behind lost offsets nothing is numbered higher any more: what was does not stand for what is missing."""
    for restarted in (False, True):
        log = Log()
        log.taken(log.begin(1), first := log.change(A, 1, 1), again := log.change(A, 1, 1, higher=1, run=5))
        log.taken(log.begin(1, run=9))
        if restarted:
            log.transactions.clear()
            log.taken(first, again)
        assert log.taken(log.end(1, 2, run=9)) == []
        assert orders(log.taken(log.change(B, 1, 1, run=9), log.change(B, 1, 2, run=9))) == [[1, 1, 2]]


def test_records_without_a_run_are_refused() -> None:
    log = Log()
    log.taken(log.change(A, 1, 1)._replace(message=Told(((RUN, b"1"),))))

    (cut,) = log.transactions.cuts()
    assert "which run of the connector" in cut.error.what
