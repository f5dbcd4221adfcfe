"""Supervisors that stand by in the warm parent: one while all is idle, as many as came at once while they come.

Each is forked with its flow process and warms up by itself; a launch is then a message to it. Which of them stand by is
known to the warm parent alone: where its end of their sockets closes, they end.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections import deque
from dataclasses import dataclass

QUIET_SECONDS = 0.06
"""How long nothing was asked for before a supervisor is made to stand by: it must not slow the run just launched."""

MOST_STANDING_BY = 4
"""Most supervisors that stand by; each takes some 15 MB."""

IDLE_SECONDS = 20.0
"""How long nothing was asked for before all but one of those that stand by are let go."""


@dataclass(frozen=True, slots=True)
class _Child:
    """A forked supervisor that waits to be told its run directory."""

    pid: int
    orders: socket.socket


class Standing:
    """The supervisors that stand by, and how many of them there are to be.

    Args:
        connection: The warm parent's own, which no child may keep.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._spares: deque[_Child] = deque()
        self._wanted = 1
        self._last = b""

    def patience_seconds(self) -> float | None:
        """Returns after how long a quiet `adjust` is due; None when it never is."""
        if len(self._spares) < self._wanted:
            return QUIET_SECONDS
        return IDLE_SECONDS if self._wanted > 1 else None

    def adjust(self) -> None:
        """Makes one more where one is missing; else lets go of all but one."""
        if len(self._spares) < self._wanted:
            try:
                self._spares.append(self._fork(self._last))
            except OSError:  # no room for it: the next launch may find some
                self._wanted = len(self._spares)
            return
        self._wanted = 1
        while len(self._spares) > 1:
            self._spares.pop().orders.close()

    def launch(self, request: bytes) -> dict[str, object]:
        """Hands a run directory's path to a supervisor. Returns the answer for the agent."""
        from heliograph_agents import processes

        path = request.decode()
        self._last = request
        if not self._spares:
            self._wanted = min(self._wanted + 1, MOST_STANDING_BY)
        while True:
            stood_by = bool(self._spares)
            try:
                child = self._spares.popleft() if stood_by else self._fork(b"")
                with child.orders:
                    child.orders.send(request)
            except OSError as error:
                if not stood_by:
                    return {"path": path, "error": f"cannot fork: {error}"}
                # It was killed: the next one.
            else:
                return {"path": path, "pid": child.pid, "start": processes.start_time(child.pid)}

    def _fork(self, last: bytes) -> _Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            # What is left open here would hide the warm parent's end from the agent, and from those standing by.
            for unused in (self._connection, ours, *(spare.orders for spare in self._spares)):
                unused.close()
            _become_supervisor(theirs, last)
        theirs.close()
        return _Child(pid, ours)


def _become_supervisor(orders: socket.socket, last: bytes) -> None:
    from heliograph_agents import supervisor

    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = supervisor.stand_by(orders, last)
    except BaseException:  # noqa: BLE001 (the boundary of the forked process): it must never return into the warm parent's loop
        traceback.print_exc()
    finally:
        os._exit(code)
