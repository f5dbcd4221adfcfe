"""A control plane and an agent as processes, and a client to watch them with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from tests.support.control_plane import ControlPlaneProcess, control_plane_process

from heliograph.api.v1.options_pb2 import ROLE_AGENT
from heliograph.client.client import Client
from heliograph.engine.codes import StateCode
from heliograph.storage.load import load_flows
from heliograph.storage.local import Local

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, seconds: float = 90.0) -> T:
    """Returns the first truthy answer of `look`: for facts about other processes, which send no events."""
    limit = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < limit, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


class World:
    """One control plane with one local agent, in a folder of their own."""

    def __init__(self, folder: Path, plane: ControlPlaneProcess) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.plane = plane
        self.client = Client(plane.address, plane.token)
        # A project of its own, and a token for it alone: worlds that share a control plane see nothing of each other.
        self.project = f"p{uuid.uuid4().hex[:12]}"
        self.client.create_project(self.project)
        self.token = self.client.create_token("services/agent", [ROLE_AGENT], projects=[self.project]).secret
        self.agents: list[subprocess.Popen[bytes]] = []
        self.token_file = folder / "agent.token"
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(self.token)

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH")}
        return {
            **kept,
            "HELIOGRAPH_HOME": str(self.home),
            "HELIOGRAPH__CLIENT__ADDRESS": self.plane.address,
            "HELIOGRAPH__CLIENT__TOKEN_FILE": str(self.token_file),
        }

    def start_agent(self, *arguments: str, name: str = "a", wait: bool = True, **env: str) -> subprocess.Popen[bytes]:
        """Starts an agent; waits until it is registered."""
        log = self.folder / f"{name}.log"
        before = log.read_text().count("is registered") if log.exists() else 0
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "heliograph.cli", "agent", "start", "--name", self.agent_name(name), *arguments],
                env={**self.environment(), **env}, cwd=self.folder, stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.agents.append(process)
        if wait:
            eventually(
                lambda: log.read_text().count("is registered") > before or process.poll() is not None, "registered"
            )
            assert process.poll() is None, log.read_text()
        return process

    def agent_name(self, name: str = "a") -> str:
        """The name that an agent of this world has: a control plane gives a name to the agents of one project only."""
        return f"{name}-{self.project}"

    def log(self, name: str = "a") -> str:
        return (self.folder / f"{name}.log").read_text()

    def register(self, source: str, file: str = "flow.py", **options: Any) -> str:
        """Registers the one flow of a file."""
        folder = self.folder / "source"
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(textwrap.dedent(source))
        [flow] = load_flows(folder / file)
        flow.storage = Local(self.folder / "storage")
        return self.client.register(flow, self.project, **options)

    def run(self, flow_id: str, **parameters: Any) -> str:
        return self.client.create_flow_run(flow_id, parameters=parameters)

    def state(self, run: str) -> StateCode:
        return StateCode(self.client.get_flow_run(run).state)

    def wait_for(self, run: str, *states: StateCode, seconds: float = 90.0) -> Any:
        """Waits until the run is in one of the states; returns it."""
        try:
            eventually(lambda: self.state(run) in states, f"{run} is {states}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\nis {self.state(run)!r}\n{self.log()}\n{self.run_files(run)}") from None
        return self.client.get_flow_run(run)

    def run_directory(self, run: str, name: str = "a", epoch: int = 1) -> Path:
        run_id = run.rpartition("/")[2]
        return self.home / "agent" / "agents" / self.agent_name(name) / "runs" / f"{run_id}.{epoch}"

    def run_files(self, run: str) -> str:
        folder = self.run_directory(run)
        names = ("supervisor.log", "output.log", "exit.json")
        return "\n".join(f"--- {n}\n{(folder / n).read_text()}" for n in names if (folder / n).exists())

    def pids(self, run: str) -> tuple[int, int]:
        """Pids of supervisor and flow process."""
        import json

        path = self.run_directory(run) / "supervisor.json"
        record = json.loads(eventually(lambda: path.exists() and path.read_text(), "supervisor.json"))
        return record["supervisor_pid"], record["flow_pid"]

    def marks(self, name: str) -> list[str]:
        """Lines that flows wrote to a file of that name in their working folder."""
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    def close(self) -> None:
        self.client.close()
        for agent in self.agents:
            if agent.poll() is None:
                agent.kill()
            agent.wait()
        for process in psutil.process_iter():
            try:
                if process.environ().get("HELIOGRAPH_HOME") == str(self.home) or (
                    process.environ().get("HELIOGRAPH_RUN_DIRECTORY", "").startswith(str(self.home))
                ):
                    process.kill()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlaneProcess]:
    """A control plane for the tests that do not hurt it."""
    with control_plane_process(tmp_path_factory.mktemp("plane")) as process:
        yield process


@pytest.fixture
def world(tmp_path: Path, plane: ControlPlaneProcess) -> Iterator[World]:
    """A world on the shared control plane."""
    created = World(tmp_path, plane)
    try:
        yield created
    finally:
        created.close()


@pytest.fixture
def mortal_world(tmp_path: Path) -> Iterator[World]:
    """A world with a control plane of its own, to be killed."""
    with control_plane_process(tmp_path) as process:
        created = World(tmp_path, process)
        try:
            yield created
        finally:
            created.close()


def alive(pid: int) -> bool:
    """True while the process runs; a corpse does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)
