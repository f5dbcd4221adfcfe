"""The warm parent: a process that has imported everything a run needs, and forks a supervisor for each launch.

It holds no channel, no thread and no user module, so its children start clean. One serves one Python environment; the
agent ends it and starts another when the installed distributions change. It ends when the agent does; supervisors that
it started go on.

While nothing is asked for it keeps one supervisor standing by, its flow process forked and warmed up: a launch then
costs a message. Those that come faster than that are forked as they come.

Requests and answers are datagrams on one socket: a run directory's path in, pid and start time out.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from dataclasses import dataclass

MAX_DATAGRAM_BYTES = 65536

QUIET_SECONDS = 0.15
"""How long nothing was asked for before a supervisor is made to stand by: it must not slow the run just launched."""

_PRELOADED = (
    "heliograph.client.channel",
    "heliograph.client.errors",
    "heliograph.core.flow",
    "heliograph.engine.flow_runner",
    "heliograph.engine.results.local_result",
    "heliograph.executors",
    "heliograph.logging",
    "heliograph.reporting.sink",
    "heliograph.storage.load",
    "heliograph.storage.local",
    "heliograph.tasks.core",
    "heliograph.utilities.tasks",
    "heliograph_agents.supervisor",
    "grpc",
)


def preload() -> None:
    """Imports what supervisors and flow processes need."""
    import importlib

    from heliograph_agents import processes

    for name in _PRELOADED:
        importlib.import_module(name)
    processes.preload()


def serve(connection: socket.socket) -> None:
    """Answers requests until the agent closes its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are nobody's children: the kernel reaps them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the agent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    preload()
    if threading.active_count() > 1:
        raise RuntimeError(f"an import started threads: {threading.enumerate()}")
    gc.collect()
    gc.freeze()  # children share these pages: the collector must not touch them
    connection.send(json.dumps({"ready": os.getpid()}).encode())
    spare: _Child | None = None
    last = b""
    while True:
        if spare is None and not select.select([connection], [], [], QUIET_SECONDS)[0]:
            with contextlib.suppress(OSError):  # no room for it: the next launch may find some
                spare = _fork(connection, None, last)
        request = connection.recv(MAX_DATAGRAM_BYTES)
        if not request:
            return
        connection.send(json.dumps(_launch(request, connection, spare)).encode())
        last = request
        if spare is not None:
            spare.orders.close()
            spare = None


@dataclass(frozen=True, slots=True)
class _Child:
    """A forked supervisor that waits to be told its run directory."""

    pid: int
    orders: socket.socket


def _launch(request: bytes, connection: socket.socket, spare: _Child | None) -> dict[str, object]:
    from heliograph_agents import processes

    path = request.decode()
    if spare is not None:
        try:
            spare.orders.send(request)
        except OSError:  # it was killed
            pass
        else:
            return {"path": path, "pid": spare.pid, "start": processes.start_time(spare.pid)}
    try:
        child = _fork(connection, spare, b"")
        with child.orders:
            child.orders.send(request)
    except OSError as error:
        return {"path": path, "error": f"cannot fork: {error}"}
    return {"path": path, "pid": child.pid, "start": processes.start_time(child.pid)}


def _fork(connection: socket.socket, spare: _Child | None, last: bytes) -> _Child:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        # What is left open here would hide the warm parent's end from the agent, and from a supervisor standing by.
        for unused in (connection, ours, *((spare.orders,) if spare is not None else ())):
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


def main() -> None:
    """`python -m heliograph_agents.launchers.local.warm_parent FD`."""
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
