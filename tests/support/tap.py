"""A TCP relay that keeps every byte of both directions: what really crossed the line, below any library of ours."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class Tap:
    """Relays connections from `port` to `target_port` on loopback and records them.

    Attributes:
        port: Port that it listens on.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._streams: list[bytearray] = []
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, name="tap", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def recorded(self) -> list[bytes]:
        """Returns what each direction of each connection carried."""
        with self._lock:
            return [bytes(stream) for stream in self._streams]

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
            for source, sink in ((inward, outward), (outward, inward)):
                kept = bytearray()
                with self._lock:
                    self._streams.append(kept)
                threading.Thread(target=self._relay, args=(source, sink, kept), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    kept += data
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
