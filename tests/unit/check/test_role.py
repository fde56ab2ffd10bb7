"""Which setting counts for a role, and what a wrong one is called."""

from __future__ import annotations

import pytest

from deltasync.check.role import Facts, Place, effective, judge
from deltasync.finding import Gravity
from deltasync.source.statements import READER_SETTINGS
from deltasync.table import TableId

ROLE, BOTH, DATABASE = Place(True, False), Place(True, True), Place(False, True)  # noqa: FBT003
PINNED = {key.lower(): value for key, value in READER_SETTINGS.items()}
FACTS = Facts(
    name="reader",
    database="shop",
    login=True,
    replication=True,
    superuser=False,
    bypass_rls=False,
    expired=False,
    settings={ROLE: PINNED},
    connect=True,
    beat=True,
    signal=True,
    unusable=(),
    unreadable=(),
)


def test_a_role_as_setup_makes_it_has_no_finding() -> None:
    assert list(judge(FACTS, [])) == []


@pytest.mark.parametrize("place", [DATABASE, ROLE, BOTH])
def test_the_stronger_place_wins(place: Place) -> None:
    settings = {DATABASE: {"timezone": "a"}, ROLE: {"timezone": "b"}, BOTH: {"timezone": "c"}}
    known = {key: value for key, value in settings.items() if (key.role, key.database) <= (place.role, place.database)}

    assert effective(known, "TimeZone")[0] == place


def test_a_setting_in_one_database_overrides_the_pinned_one() -> None:
    (finding,) = judge(FACTS._replace(settings={ROLE: PINNED, BOTH: {"bytea_output": "escape"}}), [])

    assert finding.gravity is Gravity.REFUSED
    assert finding.remedy.startswith('ALTER ROLE "reader" IN DATABASE "shop" RESET "bytea_output";')


@pytest.mark.parametrize(("digits", "grave"), [("0", True), ("-3", True), ("1", False), ("3", False)])
def test_any_extra_digit_prints_floats_exactly(digits: str, *, grave: bool) -> None:
    found = list(judge(FACTS._replace(settings={ROLE: {**PINNED, "extra_float_digits": digits}}), []))

    assert bool(found) is grave


def test_row_security_matters_only_to_who_does_not_see_past_it() -> None:
    guarded = [TableId("shop", "item")]

    assert [finding.table for finding in judge(FACTS, guarded)] == guarded
    assert list(judge(FACTS._replace(bypass_rls=True), guarded)) == []
