"""The warm parent: a process that has imported everything a run needs, and forks a supervisor for each launch.

It holds no channel, no thread and no user module, so its children start clean. One serves one Python environment; the
agent ends it and starts another when the installed distributions change. It ends when the agent does; supervisors that
it started go on.

Requests and answers are datagrams on one socket: a run directory's path in, pid and start time out.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path

MAX_DATAGRAM_BYTES = 65536

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
    "heliograph.tasks",
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
    while request := connection.recv(MAX_DATAGRAM_BYTES):
        connection.send(json.dumps(_launch(request.decode(), connection)).encode())


def _launch(path: str, connection: socket.socket) -> dict[str, object]:
    from heliograph_agents import processes

    try:
        pid = os.fork()
    except OSError as error:
        return {"path": path, "error": f"cannot fork: {error}"}
    if pid == 0:
        _become_supervisor(path, connection)
    return {"path": path, "pid": pid, "start": processes.start_time(pid)}


def _become_supervisor(path: str, connection: socket.socket) -> None:
    from heliograph_agents import supervisor
    from heliograph_agents.launchers.local.run_directory import RunDirectory

    code = 1
    try:
        connection.close()
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = supervisor.start(RunDirectory(Path(path)), fork=True)
    except BaseException:  # noqa: BLE001 (the boundary of the forked process): it must never return into the warm parent's loop
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    """`python -m heliograph_agents.launchers.local.warm_parent FD`."""
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
