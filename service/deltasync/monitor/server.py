"""The worker's HTTP server: `/metrics` for Prometheus, `/healthz` (it lives), `/readyz` (and all is well)."""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import msgspec
import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from deltasync.errors import SettingsError
from deltasync.monitor.reason import Reason

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger(__name__)

# A client that sends or reads slower than this is cut off; more than so many at once are turned away.
_CLIENT_S_MAX = 10
_CLIENTS_MAX = 16


class Server:
    """Answers on a thread of its own from `start` to `stop`; `url` says where, also for port 0."""

    def __init__(
        self,
        url: str,
        registry: CollectorRegistry,
        *,
        alive: Callable[[], bool],
        reasons: Callable[[], Sequence[Reason]],
    ) -> None:
        """Bind at once; a port that another worker has is replaced by a free one, with a warning.

        Raises SettingsError for an address that is no address, or not this machine's.
        """
        host, port = _address(url)
        try:
            self._http = _bound(host, port)
        except OSError as error:
            raise SettingsError(
                f"The address {url} in [monitor] cannot be used: {error.strerror or error}.",
                remedy="Give DELTASYNC_MONITOR_URL an address of this machine; port 0 takes a free one.",
            ) from None
        self._http.set_app(_application(registry, alive, reasons))
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), name="monitor", daemon=True)

    def start(self) -> None:
        self._thread.start()
        log.info("monitor answers", url=self.url)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._http.shutdown()
        self._http.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def _bound(host: str, port: int) -> _Http:
    try:
        return _Http((host, port), _Handler)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        log.warning("the monitor's port is taken; taking a free one", host=host, port=port)
        return _Http((host, 0), _Handler)


def _address(url: str) -> tuple[str, int]:
    try:
        parsed = urlsplit(url)
        host, port = parsed.hostname, parsed.port
    except ValueError:
        host = port = None
    if not host or port is None or parsed.scheme != "http":
        raise SettingsError(
            "DELTASYNC_MONITOR_URL (`url` in [monitor]) is not an address to listen at.",
            remedy="Write http://127.0.0.1:9464.",
        )
    return host, port


def _application(
    registry: CollectorRegistry, alive: Callable[[], bool], reasons: Callable[[], Sequence[Reason]]
) -> WSGIApplication:
    metrics: WSGIApplication = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start)
            case "/healthz":
                return _json(start, {"alive": alive()}, good=alive())
            case "/readyz":
                found = reasons()
                return _json(start, {"ready": not found, "reasons": found}, good=not found)
            case _:
                start("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
                return [b"There are /metrics, /healthz and /readyz.\n"]

    return answer


def _json(start: StartResponse, body: object, *, good: bool) -> list[bytes]:
    status = "200 OK" if good else "503 Service Unavailable"
    start(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    return [msgspec.json.encode(body) + b"\n"]


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_S_MAX

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the class above
        """Say nothing: a scrape every few seconds is no news."""


class _Http(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._free = threading.BoundedSemaphore(_CLIENTS_MAX)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without asking a name server for our name, as the class above does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news either."""
