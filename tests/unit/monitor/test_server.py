"""The HTTP server: what each path answers, and what an address must be."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from deltasync.errors import SettingsError
from deltasync.monitor.reason import Reason
from deltasync.monitor.server import Server

FREE = "http://127.0.0.1:0"


class Worker:
    """What the server asks about."""

    alive = True
    reasons: tuple[Reason, ...] = ()


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def server(worker: Worker) -> Iterator[Server]:
    registry = CollectorRegistry()
    Counter("deltasync_tried", "Tries.", registry=registry).inc(3)
    with Server(FREE, registry, alive=lambda: worker.alive, reasons=lambda: worker.reasons) as found:
        yield found


def test_metrics(server: Server) -> None:
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.status_code == 200
    assert "deltasync_tried_total 3.0" in answer.text


def test_healthz_says_whether_the_loop_turns(server: Server, worker: Worker) -> None:
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    worker.alive = False
    assert httpx.get(f"{server.url}/healthz").status_code == 503


def test_readyz_says_why_not(server: Server, worker: Worker) -> None:
    answer = httpx.get(f"{server.url}/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": []})
    worker.reasons = (Reason("a", "b", "c"),)
    answer = httpx.get(f"{server.url}/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reasons": [{"what": "a", "why": "b", "remedy": "c"}]}


def test_anything_else_is_not_found(server: Server) -> None:
    assert httpx.get(f"{server.url}/").status_code == 404


def test_silent_clients_do_not_keep_others_out(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    for one in silent:
        one.close()


def test_a_port_that_is_taken_is_replaced(server: Server) -> None:
    """A second worker on a machine works with the same settings as the first."""
    with Server(server.url, CollectorRegistry(), alive=lambda: True, reasons=tuple) as other:
        assert other.url != server.url
        assert httpx.get(f"{other.url}/healthz").status_code == 200


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be used"):
        Server("http://192.0.2.1:9464", CollectorRegistry(), alive=lambda: True, reasons=tuple)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:9464", "https://127.0.0.1:1", "http://127.0.0.1", "http://x:port", "http://:1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="not an address"):
        Server(url, CollectorRegistry(), alive=lambda: True, reasons=tuple)
