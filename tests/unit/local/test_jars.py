"""Jars are fetched once, from a repository that is not trusted, into a cache that is not trusted either."""

from __future__ import annotations

import gc
import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from jgo.config import GlobalSettings

from deltasync.errors import PartError
from deltasync.local import jars, raw_text

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

KAFKA, DEBEZIUM, OURS = b"a jar of Kafka", b"a jar of Debezium", b"a jar of ours"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serve files, and say nothing about it."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository with two jars, and pins for exactly these."""
    root = tmp_path / "repository"
    for name, content in (("kafka", KAFKA), ("debezium", DEBEZIUM)):
        folder = root / "org" / name / "1.0"
        folder.mkdir(parents=True)
        (folder / f"{name}-1.0.jar").write_bytes(content)
    pins = "".join(
        f'[{name}]\n"org:{name}:1.0" = "{hashlib.sha256(content).hexdigest()}"\n'
        for name, content in (("kafka", KAFKA), ("debezium", DEBEZIUM))
    )
    monkeypatch.setattr(jars, "pins", lambda: pins)
    monkeypatch.setattr(jars, "_build", lambda target, _pins: target.write_bytes(OURS))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        settings = GlobalSettings(repositories={"test": f"http://127.0.0.1:{server.server_port}"})
        monkeypatch.setattr(GlobalSettings, "load", lambda: settings)
        yield root
        server.shutdown()
        thread.join()
    # The client leaves sockets to the garbage collector; it must not find them in another test.
    gc.collect()


def remove_all(repository: Path) -> None:
    for path in repository.rglob("*.jar"):
        path.unlink()


def test_the_pins_name_every_jar_once_with_a_checksum() -> None:
    lines = [line for line in jars.pins().splitlines() if line.startswith('"')]
    coordinates = [line.split('"')[1] for line in lines]
    assert len(set(coordinates)) == len(coordinates)
    assert all(len(line.split('"')[3]) == 64 for line in lines)
    assert {"org.apache.kafka:kafka-clients:4.3.1", "io.debezium:debezium-connector-postgres:3.7.0.Final"} <= {
        *coordinates
    }


def test_the_second_time_needs_no_repository(repository: Path) -> None:
    first = jars.ensure()
    assert (first.kafka / "kafka-1.0.jar").read_bytes() == KAFKA
    assert (first.plugins / "debezium" / "debezium-1.0.jar").read_bytes() == DEBEZIUM
    remove_all(repository)
    assert jars.ensure() == first


@pytest.mark.usefixtures("repository")
def test_a_jar_that_was_changed_in_the_cache_is_fetched_again() -> None:
    found = jars.ensure().kafka / "kafka-1.0.jar"
    found.write_bytes(KAFKA[:-1])
    jars.ensure()
    assert found.read_bytes() == KAFKA


def test_a_jar_that_is_not_the_pinned_one_is_refused_and_not_kept(repository: Path) -> None:
    (repository / "org" / "kafka" / "1.0" / "kafka-1.0.jar").write_bytes(b"something else")
    with pytest.raises(PartError, match=r"org:kafka:1.0 .*SHA-256 differs"):
        jars.ensure()
    assert not list((repository.parent / "cache").rglob("kafka-1.0.jar"))


def test_a_jar_that_cannot_be_fetched_is_named(repository: Path) -> None:
    remove_all(repository)
    with pytest.raises(PartError, match=r"org:\w+:1.0 could not be fetched"):
        jars.ensure()


@pytest.mark.usefixtures("repository")
def test_a_stranger_in_the_cache_is_not_loaded() -> None:
    stranger = jars.ensure().plugins / "debezium" / "evil-1.0.jar"
    stranger.write_bytes(b"")
    jars.ensure()
    assert not stranger.exists()


@pytest.mark.usefixtures("repository")
def test_the_jar_of_ours_lies_beside_debezium_and_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = jars.ensure().plugins / "debezium"
    monkeypatch.setattr(jars, "_build", lambda *_: pytest.fail("built again"))
    jars.ensure()
    assert (plugins / raw_text.file_name()).read_bytes() == OURS


@pytest.mark.usefixtures("repository")
def test_other_sources_have_a_plugin_folder_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    first = jars.ensure()
    monkeypatch.setattr(raw_text, "file_name", lambda: "deltasync-connect-other.jar")
    assert jars.ensure().plugins != first.plugins
    assert len(list((first.plugins / "debezium").glob("deltasync-*.jar"))) == 1
