"""Wanted against actual."""

from __future__ import annotations

from pathlib import Path

from deltasync.connect.masking import MASK
from deltasync.connect.reconcile import Change, Step, plan
from deltasync.connect.template import Connector

WANTED = Connector("c", {"a": "1", "b": "2", "database.password": "${file:/f:p}"}, Path("c.json"))


def test_absent_connector_is_created_with_all_settings() -> None:
    todo = plan(WANTED, None)
    assert todo.step is Step.CREATE
    assert [change.key for change in todo.changes] == ["a", "b", "database.password"]
    assert {change.old for change in todo.changes} == {None}


def test_equal_connector_is_unchanged_whatever_name_connect_adds() -> None:
    assert plan(WANTED, {**WANTED.config, "name": "c"}) == ("c", Step.NOTHING, ())


def test_difference_is_listed_key_by_key_with_secrets_masked() -> None:
    todo = plan(WANTED, {"a": "1", "b": "3", "z": "9", "database.password": "hunter2", "name": "c"})
    assert todo.step is Step.UPDATE
    assert todo.changes == (
        Change("b", "3", "2"),
        Change("database.password", MASK, "${file:/f:p}"),
        Change("z", "9", None),
    )
