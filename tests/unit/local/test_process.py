"""A part's process is found by whoever asks, and ended with its children; nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from deltasync.errors import PartError
from deltasync.local.process import Process, runs

DEADLINE_S = 10.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    found = Process("part", tmp_path)
    yield found
    found.stop(signal.SIGKILL)


def test_a_process_is_found_by_another_object_and_ended(process: Process, tmp_path: Path) -> None:
    process.spawn(["sleep", "100"])
    other = Process("part", tmp_path)
    until(other.find)
    found = other.find()
    assert found is not None
    other.stop(signal.SIGTERM)
    assert not runs(found)
    assert other.find() is None
    other.stop(signal.SIGTERM)


def test_one_that_has_not_written_its_pid_yet_is_ended(process: Process, tmp_path: Path) -> None:
    """Its launcher was interrupted in starting it, and ends what there is."""
    pid_file = tmp_path / "run" / "part.pid"
    pid_file.parent.mkdir()
    pid_file.touch()
    late = f"sleep 0.3; echo $$ > '{pid_file}'; exec sleep 100"
    with subprocess.Popen(["/bin/sh", "-c", late], start_new_session=True) as part:
        process.stop(signal.SIGTERM)
        assert part.wait(DEADLINE_S) == -signal.SIGTERM


def test_children_end_too_even_where_they_ignore_the_signal(process: Process) -> None:
    process.spawn(["sh", "-c", "trap '' TERM; sleep 100 & sleep 100 & wait; wait"])
    until(lambda: (found := process.find()) and len(found.children()) == 2)
    found = process.find()
    assert found is not None
    family = [found, *found.children()]
    process.stop(signal.SIGTERM, grace_s=0.2)
    assert not any(runs(member) for member in family)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process shows itself half ended")
def test_a_process_has_ended_with_its_last_thread(process: Process) -> None:
    first_thread_ends = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(100,)).start();"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    process.spawn([sys.executable, "-c", first_thread_ends])
    until(lambda: (found := process.find()) and found.status() == psutil.STATUS_ZOMBIE)
    found = process.find()
    assert found is not None
    process.stop(signal.SIGTERM)
    assert not found.is_running()
    assert process.find() is None


def test_a_process_that_got_the_same_pid_later_is_left_alone(process: Process, tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "100"])
    pid_file = tmp_path / "run" / "part.pid"
    pid_file.parent.mkdir()
    pid_file.write_text(f"{stranger.pid}\n")
    an_hour_ago = time.time() - 3600
    os.utime(pid_file, (an_hour_ago, an_hour_ago))
    assert process.find() is None
    process.stop(signal.SIGKILL)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_launcher_that_is_killed_at_once_leaves_nothing_unknown(tmp_path: Path, process: Process) -> None:
    launcher = (
        "import os, pathlib, sys; from deltasync.local.process import Process;"
        "Process('part', pathlib.Path(sys.argv[1])).spawn(['sleep', '100']); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", launcher, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    until(process.find)
    found = process.find()
    assert isinstance(found, psutil.Process)
    process.stop(signal.SIGTERM)
    assert not runs(found)


def test_waiting_ends_at_once_where_the_process_has_ended(process: Process) -> None:
    process.spawn(["sh", "-c", "for i in $(seq 20); do echo line $i; done; exit 3"])
    with pytest.raises(PartError, match="part part did not start: it ended") as caught:
        process.wait(lambda: False)
    assert "line 20" in caught.value.what
    assert "line 5\n" not in caught.value.what
    assert "local down" in caught.value.remedy


def test_waiting_is_bounded(process: Process) -> None:
    process.spawn(["sleep", "100"])
    with pytest.raises(PartError, match="was not ready after 0 s"):
        process.wait(lambda: False, timeout_s=0.1)
