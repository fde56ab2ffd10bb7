"""A network between two parts that can be slow, lose packets, forget connections, be cut, or reset them: a TCP proxy.

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

# Linux has these, and Python no names for them: programs that say of each packet how much of it is taken.
_ATTACH_FILTER, _DETACH_FILTER = 26, 27
_TAKE_NOTHING, _TAKE_ALL = (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)
_LOAD_RANDOM, _SKIP_UNLESS_ABOVE = (0x20, 0, 0, 0xFFFFF038), (0x25, 0, 1)
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
        self._ends: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._listener.close()
        self.reset()

    def forget(self) -> None:
        """What is connected stays so, and no packet passes any more; new connections work."""
        _filter(self._ends, _TAKE_NOTHING)
        self._ends = []

    def cut(self) -> None:
        """No packet passes until `heal`; nobody can connect."""
        _filter([self._listener, *self._ends], _TAKE_NOTHING)

    def lose(self, share: float) -> None:
        """Of what is connected, drop this share of the packets until `heal`."""
        most = int(share * 2**32)
        _filter(self._ends, _LOAD_RANDOM, (*_SKIP_UNLESS_ABOVE, most), _TAKE_ALL, _TAKE_NOTHING)

    def heal(self) -> None:
        """Packets pass again; what was sent meanwhile is sent again, as TCP does."""
        _set([self._listener, *self._ends], _DETACH_FILTER, 0)

    def reset(self) -> None:
        """End what is connected, at both ends, as a router does that was started anew (RST)."""
        _set(self._ends, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RD)
        self._ends = []

    def _accept(self) -> None:
        while self._listener.fileno() >= 0:
            with suppress(OSError):
                near, _ = self._listener.accept()
                link = near, socket.create_connection(self._target, timeout=10)
                self._ends += link
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


def _filter(ends: list[socket.socket], *program: tuple[int, int, int, int]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    _set(ends, _ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code)))


def _set(ends: list[socket.socket], option: int, value: int | bytes) -> None:
    for end in ends:
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, option, value)
