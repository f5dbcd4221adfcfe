"""A TCP relay that keeps every byte of both directions: what really crossed the line, below any library of ours."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class Tap:
    """Relays connections from `port` to `target_port` on loopback and records them.

    Args:
        target_port: Where to.
        host: Address that it listens on.

    Attributes:
        port: Port that it listens on.
    """

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self._target_port = target_port
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._connections: list[tuple[bytearray, bytearray]] = []
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, name="tap", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def connections(self) -> list[tuple[bytes, bytes]]:
        """Returns what each connection has carried so far: to the target, and back."""
        with self._lock:
            return [(bytes(there), bytes(back)) for there, back in self._connections]

    def recorded(self) -> list[bytes]:
        """Returns what each direction of each connection carried."""
        return [stream for both in self.connections() for stream in both]

    def _accept(self) -> None:
        while True:
            try:
                inward, _ = self._listener.accept()
            except OSError:
                return
            try:
                outward = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                inward.close()
                continue
            for end in (inward, outward):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [inward, outward]
            kept = bytearray(), bytearray()
            with self._lock:
                self._connections.append(kept)
            for source, sink, stream in ((inward, outward, kept[0]), (outward, inward, kept[1])):
                threading.Thread(target=self._relay, args=(source, sink, stream), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    kept += data
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
