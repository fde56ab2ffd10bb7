"""The real servers that tests run on: started once, whatever runs them."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from deltasync.local import state as states
from deltasync.local.servers import Servers, stop

GIVEN = "DELTASYNC_TEST_"
_NAMES = (
    "SOURCE_ADMIN_DSN",
    "REPLICA_ADMIN_DSN",
    "KAFKA_BOOTSTRAP",
    "CONNECT_URL",
    "ROLE_PASSWORD",
    "CONNECT_SOURCE_PASSWORD",
)
_FOLDERS = "deltasync-test-"


@dataclass(frozen=True)
class Addresses:
    """Servers to test on: superusers' connection strings, Kafka and Connect.

    All roles that tests create have the same password, so that Connect can know it beforehand:
    `connect_source` holds the settings `[connect] source_...`, the reference to that password among them.
    `folder` is that of an embedded stack, whose single parts `embedded` starts and ends; None where it is not ours.
    """

    source_admin: str
    replica_admin: str
    kafka: str
    connect: str
    role_password: str
    connect_source: dict[str, str]
    folder: str | None = None

    @cached_property
    def embedded(self) -> Servers | None:
        if self.folder is None:
            return None
        folder = Path(self.folder)
        return Servers(folder, states.load_or_make(folder))


@contextmanager
def started() -> Iterator[Addresses]:
    """Embedded servers, containers, or what `DELTASYNC_TEST_*` name."""
    given = {name: os.environ[GIVEN + name] for name in _NAMES if GIVEN + name in os.environ}
    match os.environ.get(f"{GIVEN}ENGINE", "given" if given else "embedded"):
        case "embedded":
            with _embedded() as found:
                yield found
        case "containers":
            from tests import containers  # noqa: PLC0415 - it needs this module

            with containers.started() as found:
                yield found
        case "given":
            yield _given(given)
        case other:
            pytest.fail(f"{GIVEN}ENGINE is embedded, containers or given, not {other}.")


def _given(values: dict[str, str]) -> Addresses:
    missing = [GIVEN + name for name in _NAMES if name not in values]
    if missing:
        pytest.fail(f"The servers to test on are named in part only: set {', '.join(missing)} as well.")
    # Where Connect sees the source elsewhere than we do.
    place = {f"source_{name}": os.environ.get(f"{GIVEN}CONNECT_SOURCE_{name.upper()}") for name in ("host", "port")}
    return Addresses(
        source_admin=values["SOURCE_ADMIN_DSN"],
        replica_admin=values["REPLICA_ADMIN_DSN"],
        kafka=values["KAFKA_BOOTSTRAP"],
        connect=values["CONNECT_URL"],
        role_password=values["ROLE_PASSWORD"],
        connect_source={
            "source_password": values["CONNECT_SOURCE_PASSWORD"],
            **{name: value for name, value in place.items() if value},
        },
    )


@contextmanager
def _embedded() -> Iterator[Addresses]:
    _end_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_FOLDERS))
    folder.chmod(0o711)
    with states.locked(folder):
        found = Servers(folder, states.load_or_make(folder))
        try:
            found.start()
            found.connect.wait()
            password = secrets.token_hex(8)
            reference = found.connect.keep_secret("tests", password)
            yield Addresses(
                source_admin=found.source.dsn(),
                replica_admin=found.replica.dsn(),
                kafka=found.kafka.bootstrap,
                connect=found.connect.url,
                role_password=password,
                connect_source={"source_password": reference},
                folder=str(folder),
            )
        finally:
            stop(folder, states.PARTS, at_once=True)
            states.remove(folder)


def _end_abandoned() -> None:
    """End the servers of sessions that were killed: nobody holds their lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        with suppress(OSError), (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stop(folder, states.PARTS, at_once=True)
            states.remove(folder)
