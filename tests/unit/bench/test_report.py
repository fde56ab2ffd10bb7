"""What the bench makes of its runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import report
from bench.machine import Machine
from bench.rounds import Run
from bench.works import Outcome

from deltasync.errors import SettingsError

MACHINE = Machine("2026-01-02T03:04:05+00:00", "a | CPU", 2, 16.0, "Linux", "3", "1", "18", "4", "3", "3")


def _run(contestant: str, per_s: float, number: int = 1, *, equal: bool = True) -> Run:
    return Run("backlog", contestant, number, Outcome({"per_s": per_s, "cpu_service": 2.0}, equal))


def test_ratios_are_of_medians_to_each_peer_and_to_the_best_sink() -> None:
    """Whatever the order of the runs."""
    runs = [_run("deltasync", 100), _run("sink, tuned", 10), _run("sink, tuned, 3 tasks", 20)]
    runs += [_run("deltasync", 400, 2), _run("deltasync", 300, 3)]

    made = report.make(MACHINE, 1, runs)

    assert made.rows[0].figures["per_s"] == report.Spread(300, 100, 400)
    assert [(one.one, one.other, one.ratio) for one in made.ratios] == [
        ("deltasync", "best sink", 15.0),
        ("deltasync", "sink, tuned", 30.0),
    ]
    assert "300 (100 to 400)" in report.markdown(made)


def test_a_replica_that_differs_has_no_ratio() -> None:
    """Even if it was equal in other rounds."""
    runs = [_run("deltasync", 100), _run("deltasync", 100, 2, equal=False), _run("sink, tuned", 10)]

    made = report.make(MACHINE, 1, runs)

    assert made.ratios == []
    assert "| different |" in report.markdown(made)


def test_a_failure_is_told() -> None:
    """In the table, and why below it."""
    made = report.make(
        MACHINE, 1, [_run("deltasync", 100), Run("backlog", "sink, tuned", 1, failure="no | such\ntype")]
    )

    text = report.markdown(made)

    assert not made.rows[1].equal
    assert "| failed |" in text
    assert "no \\| such type" in text


def test_the_table_replaces_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before <!-- bench -->\nold\n<!-- /bench --> after")

    report.put_into(page, "new")

    assert page.read_text() == "before <!-- bench -->\nnew\n<!-- /bench --> after"


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- bench -->")

    with pytest.raises(SettingsError, match="has no"):
        report.put_into(page, "new")

    assert page.read_text() == "<!-- bench -->"


def test_the_best_sink_is_one_whose_replica_was_equal() -> None:
    """A faster one that loses changes is passed over."""
    runs = [_run("deltasync", 100), _run("sink, tuned", 10), _run("sink, tuned, 3 tasks", 20, equal=False)]

    made = report.make(MACHINE, 1, runs)

    assert [(one.other, one.ratio) for one in made.ratios] == [("best sink", 10.0), ("sink, tuned", 10.0)]
