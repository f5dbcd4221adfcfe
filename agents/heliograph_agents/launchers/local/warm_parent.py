"""The warm parent: a process that has imported everything a run needs, and forks a supervisor for each launch.

It holds no channel, no thread and no user module, so its children start clean. One serves one Python environment; the
agent ends it and starts another when the installed distributions change. It ends when the agent does; supervisors that
it started go on.

While nothing is asked for it keeps a supervisor standing by, its flow process forked and warmed up: a launch then
costs a message. Where launches come several at a time, as many stand by as came, up to a limit and for a while; those
that come faster than that are forked as they come.

Requests and answers are datagrams on one socket: a run directory's path in, pid and start time out.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import threading

from heliograph_agents.launchers.local.standing import Standing

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
    standing = Standing(connection)
    while True:
        while not select.select([connection], [], [], standing.patience_seconds())[0]:
            standing.adjust()
        request = connection.recv(MAX_DATAGRAM_BYTES)
        if not request:
            return
        connection.send(json.dumps(standing.launch(request)).encode())


def main() -> None:
    """`python -m heliograph_agents.launchers.local.warm_parent FD`."""
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
