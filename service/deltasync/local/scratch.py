"""A state folder for one demo or bench: of its own, and ended by the next one where this one was killed."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deltasync.errors import RefusedError
from deltasync.local import state as states
from deltasync.local.stack import Stack

_DEMO = ".deltasync-demo-"


@contextmanager
def scratch_folder(parent: Path, prefix: str = _DEMO) -> Iterator[Path]:
    """A new folder in `parent`; removing it is up to the caller. Raises RefusedError where it cannot be made.

    Folders of this prefix there that nobody holds any more belong to what was killed: their stacks are ended first.
    """
    _end_abandoned(parent, prefix)
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as error:
        raise RefusedError(
            f"The folder {parent} cannot be used: {error.strerror}.",
            remedy="Change to a folder of your own, or choose one with --state.",
        ) from error
    # PostgreSQL, run as another user when root starts it, passes through.
    folder.chmod(0o711)
    with _held(folder):
        yield folder


def given_folder(folder: Path) -> Path:
    """A folder that the user has named, and ends himself. Raises RefusedError where a stack is in it already."""
    if states.load(folder) is not None:
        raise RefusedError(
            f"There is a stack in {folder} already.",
            remedy=f"Choose another folder, or end it: `deltasync local down --state {folder}`.",
        )
    return folder


def _end_abandoned(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError), _held(folder):
            Stack(folder).down()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock the folder itself, until the end of this process at the latest. Raises BlockingIOError where it is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
