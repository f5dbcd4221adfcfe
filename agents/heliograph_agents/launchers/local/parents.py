"""The agent's side of starting supervisors: the warm parent on Linux, a plain process elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from heliograph_agents import processes
from heliograph_agents.launchers.local.environments import Environment
from heliograph_agents.launchers.local.warm_parent import MAX_DATAGRAM_BYTES
from heliograph_agents.run_directory import RunDirectory, RunSettings

START_SECONDS = 60.0
"""How long a warm parent may take to import everything."""

LAUNCH_SECONDS = 30.0
"""How long a fork may take, on a host that is swapping."""

_SECRET_VARIABLES = ("HELIOGRAPH__CLIENT__TOKEN", "HELIOGRAPH__CLIENT__TOKEN_FILE")
"""The agent's own credentials: no process of a run gets them."""


@dataclass(frozen=True, slots=True)
class Supervisor:
    """A supervisor that was started."""

    pid: int
    start: int


def child_environment(settings: RunSettings, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment of everything that the agent starts: its own, without its credentials."""
    source = os.environ if environment is None else environment
    variables = {name: value for name, value in source.items() if name.upper() not in _SECRET_VARIABLES}
    variables["HELIOGRAPH_HOME"] = settings.home
    return variables


def started_with(settings: RunSettings, environment: Environment | None) -> tuple[str, dict[str, str]]:
    """Returns interpreter and variables of what the agent starts in an environment."""
    variables = child_environment(settings)
    if environment is None:
        return sys.executable, variables
    return environment.python, environment.variables(variables)


def environment_fingerprint(paths: list[str] | None = None) -> tuple[tuple[str, int], ...]:
    """Returns what changes when distributions are installed or removed: the times of the folders that hold them."""
    found = []
    for path in sys.path if paths is None else paths:
        if Path(path).name in ("site-packages", "dist-packages"):
            with contextlib.suppress(OSError):
                found.append((path, Path(path).stat().st_mtime_ns))
    return tuple(found)


class WarmParent:
    """Keeps one warm parent, and asks it for supervisors. Used by one event loop.

    Args:
        settings: How flows are run.
        environment: Where it runs; by default the agent's own.
        paths: Folders with that environment's distributions.
    """

    def __init__(
        self, settings: RunSettings, environment: Environment | None = None, paths: tuple[str, ...] | None = None
    ) -> None:
        self._settings, self._environment = settings, environment
        self._paths = list(paths) if paths is not None else None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._waiting: deque[asyncio.Future[dict[str, object]]] = deque()
        self._fingerprint: tuple[tuple[str, int], ...] = ()
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Starts the process and waits until it is warm.

        Raises:
            OSError, EOFError: It cannot be started; its own words are on standard error.
        """
        async with self._starting:
            if self._socket is None:
                await self._start()

    async def launch(self, directory: RunDirectory) -> Supervisor:
        """Has a supervisor forked.

        Raises:
            OSError, EOFError: It was not; or nobody knows, when the warm parent died on it.
        """
        if self._socket is None or environment_fingerprint(self._paths) != self._fingerprint:
            await self.stop()
            await self.start()
        try:
            answer = await asyncio.wait_for(self._ask(str(directory.path)), LAUNCH_SECONDS)
        except TimeoutError:
            await self.stop()  # it hangs: the next launch gets another
            raise
        if "error" in answer:
            raise OSError(str(answer["error"]))
        return Supervisor(int(str(answer["pid"])), int(str(answer["start"])))

    async def stop(self) -> None:
        """Ends the process. What it started goes on."""
        self._disconnect()
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_wait_or_kill, process)

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._fingerprint = environment_fingerprint(self._paths)
        python, variables = started_with(self._settings, self._environment)
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220 (asyncio's own would want a child watcher)
                [python, "-m", "heliograph_agents.launchers.local.warm_parent", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=variables,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._socket = ours
        ready: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        self._waiting.append(ready)
        asyncio.get_running_loop().add_reader(ours, self._on_readable)
        try:
            await asyncio.wait_for(ready, START_SECONDS)
        except TimeoutError:
            await self.stop()
            raise

    def _ask(self, request: str) -> asyncio.Future[dict[str, object]]:
        assert self._socket is not None
        answer: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        self._socket.send(request.encode())
        self._waiting.append(answer)
        return answer

    def _on_readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(MAX_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._disconnect()
            return
        answer = self._waiting.popleft()
        if not answer.done():
            answer.set_result(json.loads(data))

    def _disconnect(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            asyncio.get_running_loop().remove_reader(connection)
            connection.close()
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(EOFError("the warm parent ended"))


class SpawnParent:
    """Starts each supervisor as a process of its own: slower, and right on every platform.

    Args:
        settings: How flows are run.
        environment: Where they run; by default the agent's own.
    """

    def __init__(self, settings: RunSettings, environment: Environment | None = None) -> None:
        self._settings, self._environment = settings, environment

    async def start(self) -> None:
        """Nothing to prepare."""

    async def launch(self, directory: RunDirectory) -> Supervisor:
        """Starts a supervisor.

        Raises:
            OSError: It was not started.
        """
        python, variables = started_with(self._settings, self._environment)
        process = subprocess.Popen(  # noqa: ASYNC220 (as above)
            [python, "-m", "heliograph_agents.supervisor", str(directory.path)],
            stdin=subprocess.DEVNULL,
            env=variables,
            start_new_session=True,
        )
        supervisor = Supervisor(process.pid, processes.start_time(process.pid))
        # Somebody has to wait for it, or it stays a corpse until the agent ends.
        threading.Thread(target=process.wait, name=f"heliograph-reap-{process.pid}", daemon=True).start()
        return supervisor

    async def stop(self) -> None:
        """Supervisors go on."""


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
