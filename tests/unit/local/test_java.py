"""Java's cache of a part: made once, by an end of the part that was started for it, and used from then on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deltasync.local.java import Cache
from deltasync.local.process import Process

JARS = "kafka"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    found = Process("part", tmp_path / "state")
    (tmp_path / "state").mkdir()
    yield found
    found.stop(signal.SIGKILL)


def _start(process: Process, at_end: str) -> None:
    ready = process.log.with_name("ready")
    process.spawn(["sh", "-c", f"trap '{at_end}; exit 0' TERM; : > {ready}; while :; do sleep 0.05; done"])
    process.wait(ready.exists)


def test_what_java_leaves_is_kept_and_used(tmp_path: Path, process: Process) -> None:
    cache = Cache("part", tmp_path / JARS)
    assert cache.is_missing
    assert cache.use() == []
    _start(process, f"echo classes > {cache.make()[0].removeprefix('-XX:AOTCacheOutput=')}")
    cache.keep(process)

    assert process.find() is None
    again = Cache("part", tmp_path / JARS)
    assert not again.is_missing
    check, use = again.use()
    assert check == "-XX:+VerifySharedSpaces"
    assert Path(use.removeprefix("-XX:AOTCache=")).read_text() == "classes\n"


def test_a_java_that_makes_none_is_asked_once(tmp_path: Path, process: Process) -> None:
    cache = Cache("part", tmp_path / JARS)
    _start(process, ":")
    cache.keep(process)

    assert not cache.is_missing
    assert cache.use() == []
