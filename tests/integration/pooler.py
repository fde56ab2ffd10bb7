"""A pooler as small as can be: it greets with process ids of its own, and lends backends per transaction."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SSL_OR_GSS = (80877103, 80877104)


def _exactly(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = link.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _message(link: socket.socket) -> tuple[bytes, bytes]:
    """One message of the protocol: its type, and all of its bytes."""
    head = _exactly(link, 5)
    return head[:1], head + _exactly(link, struct.unpack("!I", head[1:])[0] - 4)


class _Client(socketserver.BaseRequestHandler):
    server: Pooler

    def handle(self) -> None:
        try:
            own = self._log_in()
            if self.server.by_transaction:
                self.server.idle.insert(0, own)
            while True:
                self._transact(own)
        except (EOFError, OSError):
            return

    def _log_in(self) -> socket.socket:
        """Let the server itself ask for the password, but hide which backend answers."""
        backend = socket.create_connection(self.server.upstream)
        self.server.opened.append(backend)
        startup = self._startup()
        backend.sendall(startup)
        while True:
            kind, message = _message(backend)
            hidden = message[:5] + struct.pack("!I", 1) + message[9:] if kind == b"K" else message
            self.request.sendall(hidden)
            if kind == b"Z":
                return backend
            if kind == b"R" and struct.unpack("!I", message[5:9])[0] not in (0, 12):
                backend.sendall(_message(self.request)[1])

    def _startup(self) -> bytes:
        while True:
            head = _exactly(self.request, 8)
            length, code = struct.unpack("!II", head)
            if code not in _SSL_OR_GSS:
                return head + _exactly(self.request, length - 8)
            self.request.sendall(b"N")

    def _transact(self, own: socket.socket) -> None:
        kind, message = _message(self.request)
        backend = self.server.take() if self.server.by_transaction else own
        while True:
            backend.sendall(message)
            if kind == b"X":
                raise EOFError
            if kind in {b"Q", b"S"} and self._answer(backend) == b"I":
                break
            kind, message = _message(self.request)
        if self.server.by_transaction:
            self.server.idle.append(backend)

    def _answer(self, backend: socket.socket) -> bytes:
        while True:
            kind, message = _message(backend)
            self.request.sendall(message)
            if kind == b"Z":
                return message[5:6]


class Pooler(socketserver.ThreadingTCPServer):
    """Listens on a free port of 127.0.0.1; `idle` are the backends that wait, the last used on top."""

    daemon_threads = True

    def __init__(self, upstream: tuple[str, int], *, by_transaction: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.upstream = upstream
        self.by_transaction = by_transaction
        self.idle: list[socket.socket] = []
        self.opened: list[socket.socket] = []

    def take(self) -> socket.socket:
        return self.idle.pop()


@contextmanager
def pooler(upstream: tuple[str, int], *, by_transaction: bool) -> Iterator[int]:
    """Run a pooler; yields its port."""
    with Pooler(upstream, by_transaction=by_transaction) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
            for backend in server.opened:
                backend.close()
