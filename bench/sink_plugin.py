"""Debezium's JDBC sink connector as a plugin folder for Connect: fetched once, its checksum looked at each time."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from pathlib import Path

from jgo.config import GlobalSettings
from jgo.maven import MavenContext

from deltasync.environment import cache_folder
from deltasync.errors import PartError

VERSION = "3.6.0.Final"
_SHA256 = "c23af8d416f0f801ffb0271b1a8fd9b5360ff8d66b0dd650e066bb56ecfddc05"
_TIMEOUT_S = 120


def ensure() -> Path:
    """The folder for `plugin.path`. Blocks for a download of 27 MB where it is missing; raises PartError."""
    folder = cache_folder() / f"jdbc-sink-{_SHA256[:12]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            _unpack(_fetch(Path(work)), Path(work) / "plugin")
            (Path(work) / "plugin").rename(folder)
    return folder


def _fetch(into: Path) -> Path:
    maven = MavenContext(repo_cache=into, remote_repos=GlobalSettings.load().repositories or None, timeout=_TIMEOUT_S)
    component = maven.project("io.debezium", "debezium-connector-jdbc").at_version(VERSION)
    try:
        archive = Path(component.artifact(classifier="plugin", packaging="tar.gz").resolve())
    except (OSError, RuntimeError) as error:
        raise PartError(f"The JDBC sink could not be fetched: {error}.", remedy="Check the network.") from error
    if hashlib.sha256(archive.read_bytes()).hexdigest() != _SHA256:
        raise PartError("The JDBC sink that was fetched is not the one that was pinned.", remedy="Check the mirror.")
    return archive


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
