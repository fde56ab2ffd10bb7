"""How findings are ordered, and what a report of them amounts to."""

from __future__ import annotations

import pytest

from deltasync.check.examine import Asked, Report
from deltasync.finding import Area, Finding, Gravity, by_gravity
from deltasync.table import TableId


def _finding(gravity: Gravity, area: Area = Area.TABLES) -> Finding:
    return Finding(gravity, area, "What.", "Why.", "Do.", TableId("shop", "a"))


def test_the_gravest_comes_first() -> None:
    found = [_finding(Gravity.NOTE), _finding(Gravity.REFUSED, Area.REPLICA), _finding(Gravity.REFUSED)]

    assert [(f.gravity, f.area) for f in sorted(found, key=by_gravity)] == [
        (Gravity.REFUSED, Area.TABLES),
        (Gravity.REFUSED, Area.REPLICA),
        (Gravity.NOTE, Area.TABLES),
    ]


@pytest.mark.parametrize(
    ("ok", "state", "code"),
    [
        (True, "asked", 0),
        (True, "not set", 0),
        (True, "not answering", 3),
        (False, "asked", 1),
        (False, "not answering", 1),
    ],
)
def test_a_grave_finding_is_an_answer_a_silent_server_is_none(*, ok: bool, state: str, code: int) -> None:
    assert Report(ok, (), (Asked("source", state),)).exit_code == code


def test_names_are_quoted_for_pasting() -> None:
    assert TableId("my shop", 'a"q').sql == '"my shop"."a""q"'
