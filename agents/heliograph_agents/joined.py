"""Flow processes that are joined to their supervisors by a socket and two pipes: forked, or started anew."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass

from heliograph_agents import flow_process, processes
from heliograph_agents.control import ControlSocket
from heliograph_agents.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class FlowProcess:
    """A flow process that waits for `go`, and this side's ends of what joins it to the supervisor.

    Attributes:
        pid: Its pid.
        control: The control socket.
        poke: Descriptor of the pipe by which it says that there is something to ship.
        output: Descriptor of its standard output and error.
        popen: Kept for as long as it lives, where it was started anew: Python warns of one that is dropped before.
    """

    pid: int
    control: ControlSocket
    poke: int
    output: int
    popen: subprocess.Popen[bytes] | None = None


def fork_flow_process(*unused: socket.socket) -> FlowProcess:
    """Forks one, which waits to be told its attempt. Closes `unused` there. Must come before any channel is opened."""
    ours, theirs, poke_reader, poke_writer, output_reader, output_writer = _wires()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        for connection in (ours, *unused):
            connection.close()
        os.close(poke_reader)
        os.close(output_reader)
        _become_flow_process(parent, output_writer)
        flow_process.stand_by(ControlSocket(theirs), poke_writer)
    theirs.close()
    os.close(poke_writer)
    os.close(output_writer)
    return FlowProcess(pid, ControlSocket(ours), poke_reader, output_reader)


def spawn_flow_process(directory: RunDirectory) -> FlowProcess:
    """Starts one anew for an attempt: slower, and right on every platform.

    Raises:
        OSError: It cannot be started.
    """
    ours, theirs, poke_reader, poke_writer, output_reader, output_writer = _wires()
    arguments = [str(directory.path), str(theirs.fileno()), str(poke_writer)]
    popen = subprocess.Popen(
        [sys.executable, "-m", "heliograph_agents.flow_process", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output_writer,
        stderr=output_writer,
        pass_fds=(theirs.fileno(), poke_writer),
        start_new_session=True,
    )
    theirs.close()
    os.close(poke_writer)
    os.close(output_writer)
    return FlowProcess(popen.pid, ControlSocket(ours), poke_reader, output_reader, popen)


def _wires() -> tuple[socket.socket, socket.socket, int, int, int, int]:
    """Returns the ends, ours before theirs, of the control socket, the pipe of pokes and that of the output."""
    ours, theirs = socket.socketpair()
    poke_reader, poke_writer = os.pipe()
    output_reader, output_writer = os.pipe()
    for descriptor in (poke_reader, poke_writer, output_reader):
        os.set_blocking(descriptor, False)
    return ours, theirs, poke_reader, poke_writer, output_reader, output_writer


def _become_flow_process(parent: int, output: int) -> None:
    """What a forked flow process does before anything else."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    processes.die_with_parent(parent)
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(null)
    os.close(output)
    logging.getLogger("heliograph.supervisor").handlers.clear()
    # New streams: those inherited may remember a position in the file that the agent's output went to.
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
