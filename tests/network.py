"""A network between two parts that can be slow, forget connections, be cut, or reset them: a TCP proxy.

What is cut drops packets in the kernel, as a firewall does: neither end is told, none of what it sends is acknowledged.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

# Linux has these, and Python no names for them. The program is one instruction: of each packet, take nothing.
_ATTACH_FILTER, _DETACH_FILTER = 26, 27
_DROP = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
_CHUNK = 64 * 1024


class Network:
    """Leads to `host:port`; whoever connects to `port` of this object (on 127.0.0.1) goes through it.

    Where a server tells its address in what it answers (a Kafka broker on 127.0.0.1), it is told as this one.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._told = b"127.0.0.1" + struct.pack(">i", port), b"127.0.0.1" + struct.pack(">i", self.port)
        self.delay_s = 0.0
        self._links: list[tuple[socket.socket, socket.socket]] = []
        self._ended = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended = True
        self._listener.close()
        self.reset()

    def forget(self) -> None:
        """What is connected stays so, and no packet passes any more; new connections work."""
        for link in self._links:
            _filter(*link)
        self._links = []

    def cut(self) -> None:
        """No packet passes until `heal`; nobody can connect."""
        _filter(self._listener, *(end for link in self._links for end in link))

    def heal(self) -> None:
        """Packets pass again; what was sent meanwhile is sent again, as TCP does."""
        for end in (self._listener, *(end for link in self._links for end in link)):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)

    def reset(self) -> None:
        """End what is connected, at both ends, as a router does that was started anew (RST)."""
        for end in (end for link in self._links for end in link):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RD)
        self._links = []

    def _accept(self) -> None:
        while not self._ended:
            with suppress(OSError):
                near, _ = self._listener.accept()
                link = near, socket.create_connection(self._target, timeout=10)
                self._links.append(link)
                threading.Thread(target=self._carry, args=link, daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError), near, far:
            while True:
                for end in select.select((near, far), (), ())[0]:
                    data = end.recv(_CHUNK)
                    if not data:
                        return
                    time.sleep(self.delay_s)
                    (far if end is near else near).sendall(data.replace(*self._told) if end is far else data)


def _filter(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(_DROP)))
