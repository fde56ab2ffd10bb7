"""A stack's folder holds ports and passwords, is locked, and is removed without touching what is not the stack's."""

from __future__ import annotations

import errno
import shutil
import stat
from pathlib import Path

import msgspec
import pytest

from deltasync.errors import RefusedError, UnreachableError
from deltasync.local import postgres
from deltasync.local import state as states


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the databases' data goes; started by root it would be a folder under /tmp."""
    chosen = tmp_path.with_name(f"{tmp_path.name}-home")
    chosen.mkdir()
    monkeypatch.setattr(postgres, "choose_home", lambda _: chosen)
    return chosen


def test_ports_and_passwords_are_chosen_once(tmp_path: Path) -> None:
    first = states.load_or_make(tmp_path)
    assert states.load_or_make(tmp_path) == first
    assert states.load(tmp_path) == first
    ports = msgspec.structs.astuple(first.ports)
    assert len(set(ports)) == len(ports)


def test_the_state_is_for_its_user_alone(tmp_path: Path) -> None:
    states.load_or_make(tmp_path)
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600


def test_a_second_command_is_refused_while_one_works(tmp_path: Path) -> None:
    with states.locked(tmp_path), pytest.raises(RefusedError, match="Another command"), states.locked(tmp_path):
        pass
    with states.locked(tmp_path):
        pass


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RefusedError, match="thesis"), states.locked(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_removing_leaves_what_is_not_the_stacks(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "stack"
    with states.locked(folder):
        states.load_or_make(folder)
        (folder / "kafka").mkdir()
        (folder / "notes.txt").touch()
        states.remove(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert not home.exists()


def test_a_state_that_cannot_be_read_says_so_and_can_be_removed(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    folder.mkdir()
    (folder / "state.json").write_text("{")
    with pytest.raises(UnreachableError, match="cannot be read"):
        states.load(folder)
    states.remove(folder)
    assert not folder.exists()


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RefusedError, match="cannot be used"), states.locked(tmp_path / "file"):
        pass


def test_a_folder_that_is_still_written_to_is_removed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The children of an initdb that was killed write on for a moment."""
    (tmp_path / "stack" / "source").mkdir(parents=True)
    rmtree, calls = shutil.rmtree, []

    def busy_at_first(path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", busy_at_first)
    states.remove(tmp_path / "stack")

    assert len(calls) == 2
    assert not (tmp_path / "stack").exists()
