"""What a stack remembers in its folder (`.deltasync`): ports and passwords, chosen once, and a lock."""

from __future__ import annotations

import fcntl
import random
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
import stamina

from deltasync.errors import RefusedError, UnreachableError
from deltasync.local import postgres

_FILE = "state.json"
_NEW = "state.json.new"
_LOCK = "lock"
# All that a stack puts into its folder, so that `down` removes this and nothing else.
PARTS = ("source", "replica", "kafka", "connect", "applier")
_CONTENTS = {*PARTS, _FILE, _NEW, _LOCK, "logs", "run", "programs"}
# Below the range that systems take client ports from, so that no connection occupies the port of a part
# that is down for a moment.
_PORTS = range(15_000, 32_000)


class Ports(msgspec.Struct, frozen=True):
    """One TCP port on 127.0.0.1 for each purpose."""

    source: int
    replica: int
    kafka: int
    controller: int
    connect: int
    monitor: int


class State(msgspec.Struct, frozen=True):
    """What does not change while a stack exists. `postgres_home` is where the two databases keep their data."""

    ports: Ports
    admin_password: str
    source_password: str
    replica_password: str
    unavailable_value: str
    postgres_home: str


def load(folder: Path) -> State | None:
    """The state in a folder, None where there is no stack. Raises UnreachableError where it cannot be read."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise UnreachableError(
            f"The state of the stack in {folder} cannot be read: {type(error).__name__}.",
            remedy=f"Run the command as the user who started it; or end it and remove its data: "
            f"`deltasync local down --state {folder}`.",
        ) from error


def load_or_make(folder: Path) -> State:
    """The state in a folder; chosen and stored where there is none (hold the lock)."""
    state = load(folder)
    if state is None:
        state = State(
            ports=free_ports(),
            admin_password=secrets.token_hex(16),
            source_password=secrets.token_hex(16),
            replica_password=secrets.token_hex(16),
            unavailable_value=f"unavailable_{secrets.token_hex(12)}",
            postgres_home=str(postgres.choose_home(folder)),
        )
        new = folder / _NEW
        new.touch(mode=0o600)
        new.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2))
        new.replace(folder / _FILE)
    return state


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a stack's folder, made where it is missing. Raises RefusedError where another command holds it."""
    with _lock_file(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                f"Another command is starting or stopping the stack in {folder}.",
                remedy="Wait until it has ended, or end it; then try again.",
            ) from None
        yield


def _lock_file(folder: Path) -> BinaryIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = {path.name for path in folder.iterdir()} - _CONTENTS
        if strangers and not (folder / _FILE).exists():
            raise RefusedError(
                f"The folder {folder} holds other things than a stack ({min(strangers)}).",
                remedy="Choose an empty or a new folder with --state.",
            )
        return (folder / _LOCK).open("wb")
    except OSError as error:
        raise RefusedError(
            f"The folder {folder} cannot be used: {error.strerror}.",
            remedy="Choose a folder of your own with --state, or run the command as the user who started the stack.",
        ) from error


def remove(folder: Path) -> None:
    """Remove what a stack put into its folder, and the folder where that leaves it empty (hold the lock)."""
    with suppress(UnreachableError):
        known = load(folder)
        if known is not None and Path(known.postgres_home) != folder:
            _remove_tree(Path(known.postgres_home))
    files = (_FILE, _NEW, _LOCK)
    for name in sorted(_CONTENTS - {*files}):
        _remove_tree(folder / name)
    for name in files:
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


@stamina.retry(on=OSError, attempts=None, timeout=5, wait_initial=0.05, wait_max=0.2)
def _remove_tree(path: Path) -> None:
    """Remove a folder; the children of an initdb that was killed write on into it for a moment."""
    if path.exists():
        shutil.rmtree(path)


def free_ports() -> Ports:
    """Ports that nothing listens on, all held until the last is found."""
    with ExitStack() as held:
        found: list[int] = []
        while len(found) < len(Ports.__struct_fields__):
            candidate = random.choice(_PORTS)  # noqa: S311 - a port number is no secret
            listener = held.enter_context(socket.socket())
            with suppress(OSError):
                listener.bind(("127.0.0.1", candidate))
                found.append(candidate)
        return Ports(*found)
