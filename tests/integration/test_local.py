"""`deltasync local`: the stack starts, mends itself, stands beside another, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it ships no types
import psycopg
import pytest

from deltasync.local import state as states

DELTASYNC = Path(sys.executable).with_name("deltasync")
DEADLINE_S = 60.0
# One process has the stack that most of these tests share.
pytestmark = pytest.mark.xdist_group("local")


def local(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DELTASYNC, "local", *arguments, "--state", folder],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def status(folder: Path) -> dict[str, dict[str, Any]]:
    return {part["part"]: part for part in json.loads(local(folder, "status", "--json").stdout)}


def left(folder: Path) -> list[str]:
    """The command lines of what still runs for a stack."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder) in line]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A state folder that PostgreSQL may enter where the tests run as root."""
    with tempfile.TemporaryDirectory(prefix="deltasync-local-") as parent:
        Path(parent).chmod(0o711)
        yield Path(parent) / "stack"


@pytest.fixture(scope="module")
def stack() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="deltasync-local-") as parent:
        Path(parent).chmod(0o711)
        folder = Path(parent) / "stack"
        up = local(folder, "up")
        try:
            assert up.returncode == 0, up.stderr
            yield folder
        finally:
            down = local(folder, "down")
        assert down.returncode == 0, down.stderr
        assert not folder.exists()
        assert not left(folder)


def test_every_part_runs_and_says_where(stack: Path) -> None:
    parts = status(stack)
    assert list(parts) == ["source", "replica", "kafka", "connect", "applier"]
    assert {part["status"] for part in parts.values()} == {"running"}
    again = local(stack, "up")
    assert again.returncode == 0, again.stderr
    assert all(part["address"] in again.stdout for part in parts.values())
    assert status(stack) == parts


def test_java_takes_its_caches(stack: Path) -> None:
    """Java says in the log of the part where it does not, and goes on without."""
    for part in ("kafka", "connect"):
        assert "-XX:AOTCache=" in " ".join(psutil.Process(status(stack)[part]["pid"]).cmdline())
        assert "[aot]" not in (stack / "logs" / f"{part}.log").read_text()


def test_java_writes_nothing_elsewhere(stack: Path) -> None:
    """Compression has been used by then, whose library is unpacked."""
    assert list((stack / "connect" / "tmp").glob("liblz4*"))
    pids = {str(status(stack)[part]["pid"]) for part in ("kafka", "connect")}
    assert not [file for file in Path(tempfile.gettempdir()).glob("hsperfdata_*/*") if file.name in pids]


def test_the_applier_is_found_by_its_command_line(stack: Path) -> None:
    applier = psutil.Process(status(stack)["applier"]["pid"])
    assert "deltasync run" in " ".join(applier.cmdline())


def test_a_shell_takes_the_settings(stack: Path) -> None:
    names = ("SOURCE", "SOURCE_ADMIN", "REPLICA", "REPLICA_ADMIN")
    script = f'eval "$({DELTASYNC} local env --state {stack})"; ' + "; ".join(
        f'echo "$DELTASYNC_{name}_DSN"' for name in names
    )
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    for name, dsn in zip(names, shown.stdout.split(), strict=True):
        with psycopg.connect(dsn) as connection:
            privileged = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
            assert privileged == ("ADMIN" in name,)


def test_up_starts_what_has_died_where_it_was_and_with_its_data(stack: Path) -> None:
    before = status(stack)
    env = dict(line.split("=", 1) for line in local(stack, "env").stdout.splitlines())
    admin = env["DELTASYNC_SOURCE_ADMIN_DSN"].strip("'")
    with psycopg.connect(admin) as connection:
        connection.execute("CREATE TABLE public.kept AS SELECT 1 AS id")
    for name in ("source", "kafka", "connect", "applier"):
        os.kill(before[name]["pid"], signal.SIGKILL)
    assert local(stack, "status").returncode == 1
    up = local(stack, "up")
    assert up.returncode == 0, up.stderr
    after = status(stack)
    assert {name: part["address"] for name, part in after.items()} == {
        name: part["address"] for name, part in before.items()
    }
    assert after["replica"]["pid"] == before["replica"]["pid"]
    assert local(stack, "status").returncode == 0
    with psycopg.connect(admin) as connection:
        assert connection.execute("SELECT id FROM public.kept").fetchone() == (1,)


@pytest.mark.timeout(240)
def test_the_users_settings_count_and_changed_ones_are_put_into_force(stack: Path) -> None:
    """Without them a table that needs `skip-column` would keep the stack from starting for ever."""
    env = dict(line.split("=", 1) for line in local(stack, "env").stdout.splitlines())
    with psycopg.connect(env["DELTASYNC_SOURCE_ADMIN_DSN"].strip("'"), autocommit=True) as source:
        source.execute("CREATE TABLE shop.price (id int PRIMARY KEY, amount refcursor)")
        refused = local(stack, "up")
        assert refused.returncode == 1
        assert "shop.price: column amount" in refused.stderr
        before = status(stack)
        wishes = {"DELTASYNC_TABLES": '{"shop.price": {"on_unsupported": "skip-column"}}'}
        up = local(stack, "up", **wishes, DELTASYNC_SOURCE_DSN="host=nowhere")
        assert up.returncode == 0, up.stderr
        after = status(stack)
        assert after["applier"]["pid"] != before["applier"]["pid"]
        assert psutil.Process(after["applier"]["pid"]).environ()["DELTASYNC_TABLES"] == wishes["DELTASYNC_TABLES"]
        assert {**after, "applier": None} == {**before, "applier": None}
        assert local(stack, "up", **wishes).returncode == 0
        assert status(stack) == after
        assert "DELTASYNC_TABLES" not in local(stack, "env").stdout
        source.execute("DROP TABLE shop.price")


def started(folder: Path, pids: int) -> subprocess.Popen[bytes]:
    """A launcher that is in the middle of `up`: this many parts have a process."""
    launcher = subprocess.Popen(
        [DELTASYNC, "local", "up", "--state", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + DEADLINE_S
    while sum(file.stat().st_size > 0 for file in (folder / "run").glob("*.pid")) < pids:
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return launcher


def test_ctrl_c_ends_what_was_started(folder: Path) -> None:
    launcher = started(folder, pids=3)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(DEADLINE_S) == 130
    assert not left(folder)


@pytest.mark.parametrize("pids", [1, 4])
def test_down_ends_what_a_killed_launcher_left(folder: Path, pids: int) -> None:
    launcher = started(folder, pids)
    launcher.kill()
    launcher.wait(DEADLINE_S)
    assert left(folder)
    down = local(folder, "down")
    assert down.returncode == 0, down.stderr
    assert not folder.exists()
    assert not left(folder)


def test_a_part_that_does_not_start_is_named_with_its_log_and_a_remedy(folder: Path) -> None:
    folder.mkdir(mode=0o711)
    port = states.load_or_make(folder).ports.source
    with socket.create_server(("127.0.0.1", port)):
        up = local(folder, "up")
    assert up.returncode == 1
    assert "The part source did not start" in up.stderr
    assert "could not bind" in up.stderr
    assert "deltasync local down" in up.stderr
    assert not left(folder)


def test_without_a_stack_there_is_nothing_to_do(folder: Path) -> None:
    assert local(folder, "down").returncode == 0
    shown = local(folder, "status")
    assert shown.returncode == 1
    assert "There is no stack" in shown.stderr
    assert not folder.exists()
