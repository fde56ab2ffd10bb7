"""Wanted against actual."""

from __future__ import annotations

from pathlib import Path

from deltasync.connect.masking import MASK
from deltasync.connect.reconcile import Change, Step, continued, plan
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


def test_connector_that_exists_goes_on_and_never_begins_a_second_snapshot() -> None:
    wanted = Connector("c", {"snapshot.mode": "initial", "snapshot.include.collection.list": "new"}, Path("c.json"))
    old = {"snapshot.mode": "initial", "snapshot.include.collection.list": "old"}

    assert continued(wanted, old, streaming=False).config == old
    assert continued(wanted, old, streaming=True).config == {**old, "snapshot.mode": "no_data"}
    more = {"snapshot.select.statement.overrides": "s.t", "snapshot.select.statement.overrides.s.t": "SELECT 1"}
    assert continued(wanted._replace(config={**wanted.config, **more}), old, streaming=False).config == old
    assert continued(wanted, {**old, **more}, streaming=False).config == {**old, **more}
    settled = {"snapshot.mode": "no_data"}
    assert continued(wanted, settled, streaming=False).config == settled
