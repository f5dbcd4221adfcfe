"""A whole Heliograph on loopback, as real processes: control plane, agent, flows.

`Stack` starts what `heliograph server start` and `heliograph agent start` start, in a home of its own, and gives tests
handles to register flows, run them, watch them through the API and kill any part.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from heliograph.client.channel import TlsFiles
from heliograph.client.connection import Connection
from heliograph.engine.codes import StateCode

if TYPE_CHECKING:
    from heliograph.api.v1.agent_service_pb2 import Agent
    from heliograph.api.v1.flow_run_service_pb2 import FlowRun

PROJECT = "proof"
START_SECONDS = 90.0


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], what: str, seconds: float = START_SECONDS) -> Any:
    """Returns the first truthy value of `condition`; fails with `what` when it does not come in time.

    For facts that no event tells: another process's files and death. Whatever the API can stream is awaited there.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


class Stack:
    """One control plane and its agents.

    Attributes:
        root: Folder of everything: home, store, logs, flows.
        database: URL of the store; SQLite in the data folder when empty.
        port: Port of the control plane, kept over restarts.
        agents_address: Where agents, and what they start, look for the control plane: a proxy's address, for example.
    """

    def __init__(
        self,
        root: Path,
        *,
        agent_args: Sequence[str] = (),
        server_args: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        database: str = "",
    ) -> None:
        self.root = root
        self.database = database
        self.port = free_port()
        self.address = self.agents_address = f"127.0.0.1:{self.port}"
        self.home = root / "home"
        self.data = root / "control-plane"
        self.agent_args, self.server_args = list(agent_args), list(server_args)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HELIOGRAPH")},
            "HELIOGRAPH_HOME": str(self.home),
            "HELIOGRAPH__CLIENT__ADDRESS": self.address,
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            **(environment or {}),
        }
        self.control_plane: subprocess.Popen[bytes] | None = None
        self.agents: list[subprocess.Popen[bytes]] = []
        self.home.mkdir(parents=True, exist_ok=True)

    # --- processes ---------------------------------------------------------------------------------------------------

    def spawn(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts `heliograph ARGUMENTS`, its output in `root/NAME.log`, with more variables in its environment."""
        with (self.root / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "heliograph.cli", *arguments],
                env={**self.environment, **environment},
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_control_plane(self) -> None:
        """Starts the control plane on its port and waits until it serves."""
        ready = self.root / "ready"
        ready.unlink(missing_ok=True)
        self.control_plane = process = self.spawn(
            "control-plane", "server", "start", "--port", str(self.port), "--data-dir", str(self.data),
            "--ready-file", str(ready), *(["--database", self.database] if self.database else []), *self.server_args,
        )  # fmt: skip
        wait_until(lambda: ready.exists() or process.poll() is not None, "the control plane serves")
        assert process.poll() is None, self.log("control-plane")
        token = (self.data / "admin.token").read_text().strip()
        self.environment["HELIOGRAPH__CLIENT__TOKEN"] = token

    def kill_control_plane(self) -> None:
        """Kills the control plane with -9."""
        assert self.control_plane is not None
        self.control_plane.kill()
        self.control_plane.wait()

    def start_agent(self, name: str = "agent-1", *, wait: bool = True) -> subprocess.Popen[bytes]:
        """Starts a local agent and, with `wait`, waits until the control plane has seen it."""
        agent = self.spawn(
            name, "agent", "start", "--type", "local", "--name", name, *self.agent_args,
            HELIOGRAPH__CLIENT__TOKEN=self.token(f"services/{name}", "agent"),
            HELIOGRAPH__CLIENT__ADDRESS=self.agents_address,
        )  # fmt: skip
        self.agents.append(agent)
        if not wait:
            return agent
        wait_until(
            lambda: agent.poll() is not None or any(seen.name == f"agents/{name}" for seen in self.agents_seen()),
            "the agent is registered",
        )
        assert agent.poll() is None, self.log(name)
        return agent

    def stop(self) -> None:
        """Ends everything that was started, and whatever it started."""
        for process in [*self.agents, *([self.control_plane] if self.control_plane else [])]:
            if process.poll() is None:
                process.kill()
            process.wait()
        for left in self.processes():
            with _gone():
                left.kill()

    def processes(self, *words: str) -> list[psutil.Process]:
        """Returns the processes of this home, those whose command line has all `words`."""
        found = []
        for process in psutil.process_iter():
            with _gone():
                if process.environ().get("HELIOGRAPH_HOME") == str(self.home):
                    line = " ".join(process.cmdline())
                    if process.pid != os.getpid() and all(word in line for word in words):
                        found.append(process)
        return found

    def log(self, name: str) -> str:
        """Returns what a process has printed."""
        return (self.root / f"{name}.log").read_text()

    # --- command line ------------------------------------------------------------------------------------------------

    def cli(self, *arguments: str, check: bool = True, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs `heliograph ARGUMENTS` to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "heliograph.cli", *arguments],
            env=self.environment, cwd=self.root, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"heliograph {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *arguments: str) -> Any:
        """Runs a command with `-o json` and returns what it printed."""
        return json.loads(self.cli(*arguments, "-o", "json").stdout)

    def register(self, source: str, *, file: str = "flow.py", project: str = PROJECT, seconds: float = 60.0) -> None:
        """Writes `source` as a flow file and registers it. The project is made when it is not there."""
        folder = self.root / "flows" / file.removesuffix(".py")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(textwrap.dedent(source))
        self.cli("projects", "create", project, check=False)
        self.cli("register", str(folder / file), "--project", project, seconds=seconds)

    def run(self, flow: str, *parameters: str, project: str = PROJECT) -> str:
        """Creates a run and returns its id."""
        flags = [word for parameter in parameters for word in ("--param", parameter)]
        return str(self.json("run", f"{project}/{flow}", *flags)["name"]).rpartition("/")[2]

    # --- the API, without the cost of a process a question ------------------------------------------------------------

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Opens a connection with the admin's token."""
        said = {
            name: self.environment.get(f"HELIOGRAPH__CLIENT__{name}", "") for name in ("TLS_CA", "TLS_CERT", "TLS_KEY")
        }
        tls = TlsFiles(said["TLS_CA"], said["TLS_CERT"], said["TLS_KEY"])
        address = self.environment["HELIOGRAPH__CLIENT__ADDRESS"]
        with Connection(address, self.environment["HELIOGRAPH__CLIENT__TOKEN"], tls=tls) as connection:
            yield connection

    def inspect(self, run: str) -> FlowRun:
        """Returns a run as the API has it."""
        with self.connection() as connection:
            return self._get(connection, run)

    def wait_for(self, run: str, *states: StateCode, seconds: float = 90.0) -> FlowRun:
        """Waits until the run is finished, and returns it. Its state must be one of `states`."""
        with self.connection() as connection:

            def finished() -> FlowRun | None:
                found = self._get(connection, run)
                return found if StateCode(found.state).is_finished else None

            found: FlowRun = wait_until(finished, f"run {run} is finished", seconds)
        assert StateCode(found.state) in states, f"the run is {StateCode(found.state).name}: {found}"
        return found

    def token(self, principal: str, role: str) -> str:
        """Issues a token with one role and returns its text."""
        from heliograph.api.v1 import options_pb2
        from heliograph.api.v1 import token_service_pb2 as api

        request = api.CreateTokenRequest(
            request_id=uuid.uuid4().hex, principal=principal, roles=[options_pb2.Role.Value(f"ROLE_{role.upper()}")]
        )
        with self.connection() as connection:
            return connection.call(connection.services.tokens.CreateToken, request).secret

    def agents_seen(self) -> list[Agent]:
        """Returns the agents as the API has them."""
        from heliograph.api.v1 import agent_service_pb2 as api

        with self.connection() as connection:
            return list(connection.call(connection.services.agents.ListAgents, api.ListAgentsRequest()).agents)

    @staticmethod
    def _get(connection: Connection, run: str) -> FlowRun:
        from heliograph.api.v1 import flow_run_service_pb2 as api

        name = f"projects/-/flowRuns/{run}"
        return connection.call(connection.services.flow_runs.GetFlowRun, api.GetFlowRunRequest(name=name))


@contextmanager
def _gone() -> Iterator[None]:
    """Passes over processes that ended, or are not ours to look at."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
        yield


def signal_process(process: psutil.Process, number: signal.Signals) -> None:
    """Sends a signal to a process that may be gone."""
    with _gone():
        process.send_signal(number)
