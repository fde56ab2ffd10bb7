"""The bench as it is run by hand, only smaller."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

ROOT = Path(__file__).parents[2]
CONTESTANTS = ("deltasync", "sink, tuned", "logical replication")
RATES = {"per_s", "seconds", "cpu_postgresql", "cpu_broker", "cpu_connect", "cpu_service"}
LATENCIES = {"p50_ms", "p99_ms", "max_ms", "seen"}


def _bench(*arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.mark.timeout(300)
def test_small_bench(tmp_path: Path) -> None:
    """Every contestant ends with an equal replica; figures, ratios, a table and a picture tell of it."""
    chosen = [argument for name in CONTESTANTS for argument in ("--contestant", name)]
    works = ["backlog", "changes", "latency"]
    done = _bench(*works, *chosen, "--rounds", "1", "--scale", "0.005", "--results", str(tmp_path))

    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
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
    assert report["machine"]["synchronous_commit"] in done.stdout
    assert (tmp_path / "bench.md").read_text() == done.stdout
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert _left() == []


def test_a_name_that_is_none() -> None:
    """Nothing is started for it."""
    done = _bench("backlog", "--contestant", "nobody", timeout_s=60)

    assert done.returncode == 2
    assert "No contestant of these works is called 'nobody'" in done.stderr


def _left() -> list[str]:
    """Servers of a stage of a bench's own."""
    commands = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return [command for command in commands if "/.deltasync-bench-" in command]
