"""What Connect answers when it is not well, over a real socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deltasync.connect.client import ConnectClient, NoConnectorError
from deltasync.connect.status import Condition
from deltasync.errors import DeltasyncError, SettingsError, UnreachableError

Answer = tuple[int, str]
RUNNING = '{"name": "c", "connector": {"state": "RUNNING", "worker_id": "w"}, "tasks": [{"id": 0, "state": "RUNNING"}]}'


class Connect(ThreadingHTTPServer):
    """Gives the scripted answers in turn, the last one for ever, and records the requests."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = list(answers)
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers every method alike."""

    def answer(self) -> None:
        assert isinstance(self.server, Connect)
        self.server.requests.append(f"{self.command} {self.path}")
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        code, body = self.server.answers[0]
        if len(self.server.answers) > 1:
            self.server.answers.pop(0)
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def connect() -> Iterator[Connect]:
    with Connect((200, "{}")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def client(connect: Connect, retry_s_max: float = 10.0) -> ConnectClient:
    return ConnectClient(connect.url, retry_s_max=retry_s_max)


@pytest.mark.parametrize(
    "turned_away",
    [
        (409, '{"error_code": 409, "message": "Cannot complete request momentarily due to stale configuration"}'),
        (500, '{"error_code": 500, "message": "Request cannot be completed because a rebalance is expected"}'),
        (503, '{"error_code": 503, "message": "This worker is still starting up"}'),
        (404, "<html>Not Found</html>"),
        (404, '{"status": "404", "message": "Not Found"}'),
    ],
)
def test_rebalance_and_start_are_waited_for(connect: Connect, turned_away: Answer) -> None:
    connect.answers = [turned_away, turned_away, (200, RUNNING)]
    with client(connect) as found:
        assert found.status("c").condition is Condition.RUNNING
    assert connect.requests == ["GET /connectors/c/status"] * 3


def test_rebalance_is_not_waited_for_without_end(connect: Connect) -> None:
    connect.answers = [(409, '{"error_code": 409, "message": "rebalancing"}')]
    with client(connect, retry_s_max=0.3) as found, pytest.raises(UnreachableError, match="rebalancing"):
        found.status("c")


def test_unknown_connector_is_told_at_once(connect: Connect) -> None:
    connect.answers = [(404, '{"error_code": 404, "message": "No status found for connector c"}')]
    with client(connect) as found, pytest.raises(NoConnectorError, match="No status found for connector c"):
        found.status("c")
    assert len(connect.requests) == 1


def test_connects_own_words_are_passed_on_without_secrets(connect: Connect) -> None:
    connect.answers = [(400, '{"error_code": 400, "message": "Connector is invalid:\\n password=hunter2 is short"}')]
    with client(connect) as found, pytest.raises(DeltasyncError) as caught:
        found.put("c", {"database.password": "hunter2"})
    assert "refused PUT /connectors/c/config (400): Connector is invalid: password=" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_connects_own_time_out_is_no_answer(connect: Connect) -> None:
    connect.answers = [(500, '{"error_code": 500, "message": "Request timed out. The worker is currently busy"}')]
    with client(connect) as found, pytest.raises(UnreachableError, match="timed out"):
        found.pause("c")


@pytest.mark.parametrize("body", ["<html>hello</html>", "[1]", ""])
def test_what_is_not_connect_is_told(connect: Connect, body: str) -> None:
    connect.answers = [(200, body)]
    with client(connect) as found, pytest.raises(UnreachableError, match="not Kafka Connect"):
        found.statuses()


def test_nobody_there_is_told_with_remedy_and_without_password() -> None:
    with Connect((200, "")) as gone:
        address = f"127.0.0.1:{gone.server_port}"
    with ConnectClient(f"http://me:hunter2@{address}") as found, pytest.raises(UnreachableError) as caught:
        found.statuses()
    assert address in caught.value.what
    assert "DELTASYNC_CONNECT_URL" in caught.value.remedy
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["connect:8083", "ftp://connect", "http://", "http://[::1", "http://c:port"])
def test_what_is_no_address_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="DELTASYNC_CONNECT_URL"):
        ConnectClient(url)


def test_names_cannot_reach_other_paths(connect: Connect) -> None:
    connect.answers = [(204, "")]
    with client(connect) as found:
        found.delete("a/../b?c")
    assert connect.requests == ["DELETE /connectors/a%2F..%2Fb%3Fc"]
