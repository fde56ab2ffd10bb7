"""Processes that outlive their launcher: started, found again and ended, exactly these and no others.

A part writes its own pid into its pid file before it becomes the part. A launcher that is killed at any
moment therefore leaves no process behind that a later `deltasync local down` does not know.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types

from deltasync.errors import PartError

START_TIMEOUT_S = 60.0
_POLL_S = 0.05
# So long a shell takes at most to write its pid; one that was ended before never does.
_PID_S_MAX = 2.0
_LOG_LINES = 15
# The pid file is the shell's standard input, opened for writing: it needs no rights on the folder then,
# and a PostgreSQL that was started by root runs as another user.
_SHELL = 'echo $$ >&0; exec </dev/null; exec "$@"'
# psutil knows the time of the system's start, and so that of a process, to the second.
_CLOCK_S = 2.0
# Kept for as long as this launcher lives, so that it can tell a part that has ended from one that runs.
_children_here: dict[Path, subprocess.Popen[bytes]] = {}


class Process:
    """One part's process, in a session of its own: Ctrl-C of the launcher's terminal does not reach it."""

    def __init__(self, name: str, state: Path) -> None:
        self.name = name
        self.log = state / "logs" / f"{name}.log"
        self._pid_file = state / "run" / f"{name}.pid"

    def spawn(
        self,
        command: Sequence[str],
        *,
        user: int | None = None,
        group: int | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        """Start the process; it goes on when the launcher ends. Its output is added to the log."""
        for file in (self.log, self._pid_file):
            file.parent.mkdir(mode=0o700, exist_ok=True)
        with self._pid_file.open("wb") as pid_file, self.log.open("ab") as log:
            _children_here[self._pid_file] = subprocess.Popen(  # noqa: S603 - the parts of the stack, by absolute paths
                ["/bin/sh", "-c", _SHELL, self.name, *command],
                stdin=pid_file,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=env,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
                start_new_session=True,
            )

    def find(self) -> psutil.Process | None:
        """The running process, or None. A process that merely got the same pid later is not taken for it."""
        self._runs_here()  # reaps
        try:
            written_at = self._pid_file.stat().st_mtime
            process = psutil.Process(int(self._pid_file.read_text()))
            if process.create_time() > written_at + _CLOCK_S or not runs(process):
                return None
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None
        return process

    def environment(self) -> dict[str, str] | None:
        """The variables that the process was started with, or None where there is none."""
        process = self.find()
        try:
            return None if process is None else dict(process.environ())
        except psutil.NoSuchProcess:
            return None

    def peak_mb(self) -> float | None:
        """The most memory that the process has used so far, in 10^6 bytes; None where the system does not tell."""
        process = self.find()
        if process is not None:
            with suppress(OSError):
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) * 1024 / 1e6
        return None

    def wait(self, ready: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when `ready` says so. Raises PartError at once where the process has ended, or after the time-out."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.find() is None and not self._runs_here():
                raise self.failed("it ended while it was starting")
            if time.monotonic() > deadline:
                raise self.failed(f"it was not ready after {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def failed(self, why: str) -> PartError:
        """The error that says which part, why, and the end of its log."""
        return PartError(
            f"The part {self.name} did not start: {why}. The end of {self.log}:\n{self.tail()}",
            remedy="If the log does not say what to do: `deltasync local down`, then `deltasync local up` again.",
        )

    def tail(self, lines: int = _LOG_LINES) -> str:
        """The last lines of the log, without the frames of Java's stack traces: the cause stands above them."""
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return "(there is no log)"
        said = [line for line in text.splitlines() if not line.startswith("\tat ")]
        return "\n".join(said[-lines:]) or "(the log is empty)"

    def stop(self, first: signal.Signals, grace_s: float = 10.0) -> None:
        """End the process and its children: with `first`, and what is left after `grace_s` with SIGKILL. Idempotent."""
        leader = self._about_to_run()
        if leader is not None:
            family = [leader, *_children(leader)]
            with suppress(ProcessLookupError):
                os.killpg(leader.pid, first)
            for process in _left_after(family, grace_s):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            left = _left_after(family, grace_s)
            if left:
                raise PartError(
                    f"The part {self.name} (pid {left[0].pid}) does not end, not even by SIGKILL.",
                    remedy="Wait until its disk answers, then run `deltasync local down` again.",
                )
        if not self._runs_here():
            _children_here.pop(self._pid_file, None)
        self._pid_file.unlink(missing_ok=True)

    def _about_to_run(self) -> psutil.Process | None:
        """The process, also where the launcher was interrupted in starting it, and it has not written its pid yet."""
        deadline = time.monotonic() + _PID_S_MAX
        while self._is_unwritten() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return self.find()

    def _is_unwritten(self) -> bool:
        try:
            return self._pid_file.stat().st_size == 0
        except FileNotFoundError:
            return False

    def _runs_here(self) -> bool:
        # A process that this launcher has just started may not have written its pid yet.
        child = _children_here.get(self._pid_file)
        return child is not None and child.poll() is None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _left_after(family: list[psutil.Process], grace_s: float) -> list[psutil.Process]:
    deadline = time.monotonic() + grace_s
    while (left := [p for p in family if runs(p)]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def runs(process: psutil.Process) -> bool:
    """Whether a process has not ended; one that only waits to be reaped has."""
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return bool(process.is_running())
        # Its first thread may have ended before the others, who still hold its ports and files (proc(5), "Threads").
        return bool(process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def is_alive(pid: int) -> bool:
    """Whether a process with this pid runs."""
    try:
        return runs(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def answers(port: int) -> bool:
    """Whether something takes connections on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
