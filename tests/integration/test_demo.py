"""The demo as a newcomer runs it, only smaller; and what is left of it when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import psycopg
import pytest
from tests.flow import until

from deltasync.local.stack import Stack

# A stack starts in 15 s, and much slower beside others.
pytestmark = pytest.mark.timeout(300)
SMALL = ["--customers", "200", "--orders", "200", "--transactions", "200"]


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deltasync.cli.main", "demo", *SMALL, *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _processes_in(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(folder) in command and process.pid != os.getpid():
            found.append(command)
    return found


def test_small_demo(tmp_path: Path) -> None:
    """It ends with equal tables, figures and a picture, and leaves nothing but the picture."""
    done = _start(tmp_path, "--json", "--picture", "lag.png")
    out, err = done.communicate(timeout=200)

    assert done.returncode == 0, err
    report = json.loads(out)
    assert (report["rows"], report["transactions"]) == (800, 200)
    assert report["changes"] > 200
    assert {table["table"] for table in report["tables"]} == {"shop.customer", "shop.orders", "shop.order_line"}
    for table in report["tables"]:
        assert table["equal"] == table["source_rows"] == table["replica_rows"] > 0
    assert 0 < report["latency"]["p50_ms"] <= report["latency"]["p99_ms"] < 60_000
    assert (tmp_path / "lag.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["lag.png"]
    assert _processes_in(tmp_path) == []


def test_a_difference_is_found(tmp_path: Path) -> None:
    """A row that only the replica has ends the demo with exit code 1, and says in which table."""
    state = tmp_path / "state"
    done = _start(tmp_path, "--state", str(state))
    until((state / "logs" / "applier.log").exists, "the replica is set up", 200)
    with psycopg.connect(Stack(state).env()["DELTASYNC_REPLICA_ADMIN_DSN"]) as replica:
        replica.execute("INSERT INTO shop.customer (id, email, joined_at) VALUES (-1, 'stranger', now())")
    _, err = done.communicate(timeout=200)

    assert done.returncode == 1, err
    assert "shop.customer: 1 rows extra" in err, err
    assert [path.name for path in tmp_path.iterdir()] == ["deltasync-demo.png"]


def test_a_part_that_ends_is_named(tmp_path: Path) -> None:
    """Which part, the end of its log, what to do; and everything is stopped."""
    state = tmp_path / "state"
    done = _start(tmp_path, "--transactions", "20000", "--state", str(state))
    pid_file = state / "run" / "applier.pid"
    until(lambda: pid_file.exists() and pid_file.read_text().strip(), "the applier runs", 200)
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    _, err = done.communicate(timeout=120)

    assert done.returncode == 1
    assert "The part applier" in err
    assert "applier.log" in err
    assert "--keep" in err
    assert list(tmp_path.iterdir()) == []
    assert _processes_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C stops and removes everything, also in the middle of the start."""
    done = _start(tmp_path)
    until(lambda: list(tmp_path.glob("*/run/kafka.pid")), "the first part starts")
    done.send_signal(number)
    _, err = done.communicate(timeout=120)

    assert done.returncode == 128 + number, err
    assert list(tmp_path.iterdir()) == []
    assert _processes_in(tmp_path) == []


def test_interrupted_together_with_its_reader(tmp_path: Path) -> None:
    """As Ctrl-C does in `deltasync demo | tee log`: there is nobody to tell that everything is stopped."""
    with _start(tmp_path) as done:
        until(lambda: list(tmp_path.glob("*/run/kafka.pid")), "the first part starts")
        for pipe in (done.stdout, done.stderr):
            assert pipe is not None
            pipe.close()
        done.send_signal(signal.SIGINT)

    assert list(tmp_path.iterdir()) == []
    assert _processes_in(tmp_path) == []


def test_killed_demo_is_ended_by_the_next(tmp_path: Path) -> None:
    def started() -> list[Path]:
        return list(tmp_path.glob("*/run/kafka.pid"))

    killed = _start(tmp_path)
    until(started, "the first part starts")
    first = started()
    killed.kill()
    killed.communicate()
    following = _start(tmp_path)
    until(lambda: started() and started() != first, "the next demo has ended the first, and starts")
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=120)

    assert list(tmp_path.iterdir()) == []
    assert _processes_in(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--picture", "no-such-folder/x.png"], "cannot be written"),
        (["--picture", "x.txt"], "cannot be written"),
        (["--customers", "0"], "0"),
    ],
)
def test_bad_arguments_start_nothing(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = _start(tmp_path, *arguments)
    _, err = done.communicate(timeout=30)

    assert done.returncode == 2
    assert says in err
    assert list(tmp_path.iterdir()) == []
