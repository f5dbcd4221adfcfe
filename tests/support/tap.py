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
    """

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self._target_port, self._host = target_port, host
        self._listener = self.listen()
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

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return int(self._listener.getsockname()[1])

    def listen(self) -> socket.socket:
        """Returns the socket that it listens on."""
        return socket.create_server((self._host, 0))

    def connect(self) -> socket.socket:
        """Returns a new connection to the target."""
        return socket.create_connection(("127.0.0.1", self._target_port))

    def passes(self, number: int, data: bytes, *, there: bool) -> bool:
        """Returns False to cut a connection in place of handing data on. `there`: to the target, not back."""
        return True

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
                outward = self.connect()
            except OSError:
                inward.close()
                continue
            for end in (inward, outward):
                if end.family != socket.AF_UNIX:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [inward, outward]
            with self._lock:
                number = len(self._connections)
                self._connections.append((bytearray(), bytearray()))
            for source, sink, there in ((inward, outward, True), (outward, inward, False)):
                threading.Thread(target=self._relay, args=(source, sink, number, there), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, number: int, there: bool) -> None:
        kept = self._connections[number][0 if there else 1]
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    kept += data
                if not self.passes(number, data, there=there):
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
