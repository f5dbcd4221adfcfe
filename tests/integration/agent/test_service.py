"""An agent as a service: what systemd is told over a real socket, and the command that asks whether it is well."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.integration.agent.conftest import World, eventually, plane, world
from tests.support.stack import free_port

from heliograph.engine.codes import StateCode

__all__ = ["plane", "world"]

pytestmark = pytest.mark.timeout(180)

LEAK = """
    import os
    from heliograph import Flow, task

    @task
    def look():
        with open("seen", "w") as file:
            file.write(" ".join(name for name in os.environ if name in ("NOTIFY_SOCKET", "WATCHDOG_USEC")) or "nothing")

    with Flow("look") as flow:
        look()
"""


class Manager:
    """The end of systemd: a socket that takes datagrams."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(60)
        self.heard: list[str] = []

    def until(self, wanted: str) -> None:
        """Listens until a line has come."""
        while not any(line.startswith(wanted) for line in self.heard):
            self.heard += self._socket.recv(4096).decode().splitlines()

    def drain(self) -> None:
        """Takes what was under way, until nothing has come for five times the pace of the signs of life."""
        self._socket.settimeout(1)
        with suppress(TimeoutError):
            while True:
                self._socket.recv(4096)
        self._socket.settimeout(60)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager's socket."""
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def test_systemd_is_told_when_an_agent_is_ready_lives_and_stops(world: World, manager: Manager) -> None:
    agent = world.start_agent(NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="400000")
    manager.until("READY=1")
    assert not any(line.startswith("WATCHDOG") for line in manager.heard[:1])
    manager.until("WATCHDOG=1")
    manager.until("STATUS=0 of ")
    run = world.run(world.register(LEAK))
    world.wait_for(run, StateCode.SUCCESS, seconds=90)
    assert world.marks("seen") == ["nothing"], "no process of a run may speak for the agent"
    assert "STOPPING=1" not in manager.heard
    agent.send_signal(signal.SIGTERM)
    manager.until("STOPPING=1")
    assert agent.wait(60) == 0


def test_an_agent_whose_loop_is_stuck_gives_no_sign_of_life(world: World, manager: Manager) -> None:
    agent = world.start_agent(NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="400000")
    manager.until("WATCHDOG=1")
    agent.send_signal(signal.SIGSTOP)  # as stuck as can be
    manager.drain()  # ends: nothing comes any more
    agent.send_signal(signal.SIGCONT)
    manager.heard.clear()
    manager.until("WATCHDOG=1")


def test_a_probe_needs_no_curl(world: World) -> None:
    port = str(free_port())

    def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "heliograph.cli", "agent", "healthcheck", "--health-port", port, *arguments]
        return subprocess.run(command, env=world.environment(), capture_output=True, text=True, check=False)

    nobody = asked()
    assert nobody.returncode == 1
    assert f"no agent answers at 127.0.0.1:{port}" in nobody.stderr
    agent = world.start_agent("--health-port", port)
    eventually(lambda: asked("--ready").returncode == 0, "it takes runs", 60)
    well = asked()
    assert (well.returncode, well.stderr) == (0, "")
    assert "the control plane answered" in well.stdout
    agent.send_signal(signal.SIGSTOP)
    try:
        assert asked("--timeout", "0.5").returncode == 1
    finally:
        agent.send_signal(signal.SIGCONT)
    nothing = subprocess.run(
        [sys.executable, "-m", "heliograph.cli", "agent", "healthcheck"],
        env=world.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert nothing.returncode == 2
    assert "--health-port" in nothing.stderr
