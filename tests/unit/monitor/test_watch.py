"""A watch keeps what a server last told, whatever the asking meets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from tests.flow import until

from deltasync.errors import RefusedError
from deltasync.monitor.watch import Watch


class Server:
    """Answers with what it is given, or raises it."""

    def __init__(self) -> None:
        self.answer: int | Exception = 1
        self.closed = 0
        self.asked = threading.Semaphore(0)

    def read(self) -> int:
        self.asked.release()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def watch(server: Server) -> Iterator[Callable[[], Watch[int]]]:
    started: list[Watch[int]] = []

    def start() -> Watch[int]:
        started.append(Watch("a server", 0.001, server))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()


def test_a_failure_is_kept_beside_what_was_told_before(server: Server, watch: Callable[[], Watch[int]]) -> None:
    found = watch()
    until(lambda: found.latest.value == 1, "the first answer", 5)
    server.answer = RefusedError("It says no.", remedy="Ask nicely.")
    until(lambda: found.latest.error, "the failure", 5)
    assert (found.latest.value, found.latest.error) == (1, server.answer)
    until(lambda: server.closed, "closed", 5)
    server.answer = 2
    until(lambda: found.latest.value == 2, "it answers again", 5)
    assert found.latest.error is None


def test_what_nobody_expected_is_named_without_its_text(server: Server, watch: Callable[[], Watch[int]]) -> None:
    server.answer = ValueError("a row's value")
    found = watch()
    until(lambda: found.latest.error, "the failure", 5)
    assert found.latest.error is not None
    assert found.latest.error.what == "Asking a server failed: ValueError."


def test_it_ends_and_closes(server: Server, watch: Callable[[], Watch[int]]) -> None:
    found = watch()
    assert server.asked.acquire(timeout=5)
    found.stop()
    until(lambda: server.closed == 1, "closed", 5)


def test_silence_is_trouble(server: Server) -> None:
    silent = Watch("a server", 1.0, server).latest
    assert silent.trouble(silent.at + 14) is None
    trouble = silent.trouble(silent.at + 16)
    assert trouble is not None
    assert "16 s" in trouble.what
