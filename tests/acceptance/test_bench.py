"""The bench as it is run by hand, only smaller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
from tests.flow import until

ROOT = Path(__file__).parents[2]
CONTESTANTS = ("deltasync", "sink, tuned", "logical replication")
RATES = {"per_s", "seconds", "cpu_postgresql", "cpu_broker", "cpu_connect", "cpu_service"}
LATENCIES = {"p50_ms", "p99_ms", "max_ms", "seen"}


def _start(scratch: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(300)
def test_small_bench(tmp_path: Path) -> None:
    """Every contestant ends with an equal replica; figures, ratios, a table and a picture tell of it."""
    chosen = [argument for name in CONTESTANTS for argument in ("--contestant", name)]
    works, results = ["backlog", "changes", "latency"], tmp_path / "results"
    done = _start(tmp_path, *works, *chosen, "--rounds", "1", "--scale", "0.005", "--results", str(results))
    out, err = done.communicate(timeout=280)

    assert done.returncode == 0, err
    report = json.loads((results / "bench.json").read_text())
    rows = {(row["work"], row["contestant"]): row for row in report["rows"]}
    assert {*rows} == {(work, name) for work in works for name in CONTESTANTS} - {("backlog", "logical replication")}
    for (work, _), row in rows.items():
        assert row["equal"], row
        assert row["failures"] == []
        assert {*row["figures"]} >= (LATENCIES if work == "latency" else RATES)
        assert all(0 <= one["min"] <= one["median"] <= one["max"] for one in row["figures"].values())
    assert {(one["work"], one["one"], one["other"]) for one in report["ratios"]} >= {
        ("backlog", "deltasync", "sink, tuned"),
        ("changes", "deltasync", "logical replication"),
        ("latency", "deltasync", "sink, tuned"),
    }
    assert report["machine"]["synchronous_commit"] == "off"
    assert (results / "bench.md").read_text() == out
    assert (results / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert _processes_in(tmp_path) == []


@pytest.mark.timeout(200)
def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    """While its servers start, all of which live on without it otherwise."""
    done = _start(tmp_path, "backlog", "--results", str(tmp_path / "results"))
    until(lambda: any(tmp_path.glob(".deltasync-bench-*/logs/connect.log")), "Connect starts", 120)
    done.send_signal(signal.SIGINT)
    _, err = done.communicate(timeout=60)

    assert done.returncode == 130, err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert _processes_in(tmp_path) == []


def test_a_name_that_is_none(tmp_path: Path) -> None:
    """Nothing is started for it."""
    done = _start(tmp_path, "backlog", "--contestant", "nobody")
    _, err = done.communicate(timeout=60)

    assert done.returncode == 2
    assert "No contestant of these works is called 'nobody'" in err


def _processes_in(folder: Path) -> list[str]:
    commands = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return [command for command in commands if str(folder) in command]
