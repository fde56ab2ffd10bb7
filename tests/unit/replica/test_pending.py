"""What is carried out of what is pending, and when."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.make import TABLE, column, described

from deltasync.debezium.schema_log import SchemaEvent
from deltasync.policy import Ddl
from deltasync.progress import Claim, Progress
from deltasync.replica import pending
from deltasync.replica.evolve import fold
from deltasync.replica.pending import EARLY, LOCKED, advance
from deltasync.table import Former, SourceTable, Table, Version

CONNECTION: Any = None  # nothing is asked of it here
RETYPED = Table("shop", "t", (*TABLE.columns[:2], column("b", "text")), ("id",))
WIDER = Table("shop", "t", (*RETYPED.columns, column("c", "text")), ("id",))
STEP = Version(2, RETYPED, "apply", lsn=100)
ADDED = Version(3, WIDER, "apply", lsn=200, anytime=True)


def _at(lsn: int) -> list[Claim]:
    return [Claim("id", Progress(5, (90, lsn)))]


def _advanced(table: SourceTable, at_cut: list[Claim]) -> SourceTable:
    return advance(CONNECTION, table, Ddl(), at_cut=at_cut)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What the replica says to each attempt, one after the other; then that all is well."""
    found: list[str | None] = []
    monkeypatch.setattr(pending, "attempt", lambda *_: found.pop(0) if found else None)
    return found


@pytest.mark.usefixtures("answers")
def test_a_step_waits_for_its_place() -> None:
    """What may be done at any time follows at once; another step waits for a place of its own."""
    waiting = described(TABLE, pending=(STEP, ADDED))
    assert _advanced(waiting, []) == waiting
    assert _advanced(waiting, _at(99)) == described(WIDER)
    two = described(TABLE, pending=(STEP, Version(3, TABLE, "apply", lsn=200)))
    assert _advanced(two, _at(99)).pending == two.pending[1:]


@pytest.mark.usefixtures("answers")
def test_a_held_step_tells_why() -> None:
    held = _advanced(described(TABLE, pending=(Version(2, RETYPED, "hold", lsn=100),)), _at(99))
    assert held.held == "the type of b changed from numeric to text on the source"


@pytest.mark.usefixtures("answers")
def test_rows_that_were_applied_too_early_hold_the_table() -> None:
    """They may have been rounded: nothing tells any more."""
    found = _advanced(described(TABLE, pending=(STEP,)), _at(100))
    assert (found.held, found.description, found.pending[0].action) == (EARLY, TABLE, "hold")


def test_what_is_refused_is_held_and_what_is_locked_tried_again(answers: list[str | None]) -> None:
    waiting = described(TABLE, pending=(STEP,))
    answers += [LOCKED, "no"]
    locked = _advanced(waiting, _at(99))
    assert (locked.held, locked.pending) == (LOCKED, waiting.pending)
    refused = _advanced(locked, _at(99))
    assert (refused.held, refused.pending[0].action) == ("no", "hold")


ID, FIRST, SECOND = (column(name, "text", number=n) for n, name in enumerate(("id", "b", "b"), 1))
BEFORE, WITHOUT, AGAIN = (Table("shop", "t", columns, ("id",)) for columns in ((ID, FIRST), (ID,), (ID, SECOND)))


@pytest.mark.usefixtures("answers")
def test_early_rows_of_a_later_change_hold_the_table() -> None:
    """The value of a column went into one that had its name before."""
    pending_ = (Version(2, WITHOUT, "apply", lsn=100), Version(3, AGAIN, "apply", lsn=200, anytime=True))
    waiting = described(BEFORE, pending=pending_)
    assert _advanced(waiting, _at(200)).held == EARLY
    assert _advanced(waiting, _at(199)).description == replace(AGAIN, former=(Former("b", 2, 199),))


@pytest.mark.usefixtures("answers")
def test_a_name_that_was_given_up_is_remembered() -> None:
    """The change that gives it to another column may be told later; what is announced anew knows nothing of that."""
    gone = _advanced(described(BEFORE, pending=(Version(2, WITHOUT, "apply", lsn=100),)), _at(250))
    assert gone.description == replace(WITHOUT, former=(Former("b", 2, 250),))
    known = {WITHOUT.id: gone._replace(log_id=2)}
    announced = SchemaEvent(3, "announce", WITHOUT.id, captured=True, complete=True, reason=None, description=WITHOUT)
    assert fold([announced], known, Ddl().policy)[WITHOUT.id].pending == ()
    for lsn, held in ((250, EARLY), (251, None)):
        again = Version(3, AGAIN, "apply", lsn=lsn, anytime=True)
        assert _advanced(gone._replace(pending=(again,)), []).held == held
