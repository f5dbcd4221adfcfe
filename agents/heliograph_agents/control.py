"""The socketpair between a supervisor and its flow process: one JSON object a line, both ways.

Down: `go` (the bundle is checked: load it and run), `cancel`. Up: `done` (the final state is in the outbox).
The end of the stream means that the other side is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

_LENGTH = struct.Struct("<I")


class ControlSocket:
    """One end. `send` may be called from any thread; one thread reads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._buffer = b""

    def fileno(self) -> int:
        """The descriptor, for selectors."""
        return self._connection.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message. A side that is gone is no error here: its end is noticed elsewhere."""
        data = json.dumps(message).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):
            self._connection.sendall(data)

    def receive(self) -> list[dict[str, Any]] | None:
        """Waits for data and returns the whole messages in it; None when the other side is gone."""
        try:
            data = self._connection.recv(65536)
        except OSError:
            return None
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yields messages until the other side is gone."""
        while (received := self.receive()) is not None:
            yield from received

    def send_attempt(self, path: str, lock: int) -> None:
        """Says which attempt this is, and hands its lock over. Comes first, before any message."""
        data = os.fsencode(path)
        with self._lock, contextlib.suppress(OSError):
            socket.send_fds(self._connection, [_LENGTH.pack(len(data))], [lock])
            self._connection.sendall(data)

    def receive_attempt(self) -> str | None:
        """Waits for `send_attempt` and returns the path; None when the other side is gone.

        The lock is kept for as long as this process lives.
        """
        header, _, _, _ = socket.recv_fds(self._connection, _LENGTH.size, 1)
        if len(header) < _LENGTH.size:
            return None
        return os.fsdecode(self._connection.recv(_LENGTH.unpack(header)[0], socket.MSG_WAITALL))

    def close(self) -> None:
        """Closes this end."""
        self._connection.close()
