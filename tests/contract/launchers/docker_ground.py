"""The ground of the Docker launcher: containers of a private engine, with the image of this checkout."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.contract.launchers.ground import Attempt, Ground, Step
from tests.support.control_plane import ControlPlaneProcess
from tests.support.docker_engine import DockerEngine

from heliograph.run_configs import DockerRun, RunConfig
from heliograph.storage import Storage
from heliograph.storage.local import Local
from heliograph_agents.launcher import Handle, Launcher
from heliograph_agents.launchers.docker.engine import Engine
from heliograph_agents.launchers.docker.launcher import DockerLauncher
from heliograph_agents.launchers.docker.options import DockerOptions
from heliograph_agents.launchers.docker.volumes import Volume
from heliograph_agents.run_directory import RunSettings


class DockerGround(Ground):
    """Containers. They share a folder with the tests, and the host's network with the control plane."""

    kind = "docker"

    def __init__(self, folder: Path, plane: ControlPlaneProcess, request: pytest.FixtureRequest) -> None:
        self.engine: DockerEngine = request.getfixturevalue("docker_engine")
        self.image: str = request.getfixturevalue("runtime_image")
        self.owner_says: dict[str, Any] = {}
        super().__init__(folder, plane, request)

    def make_launcher(self, agent: str = "", disk: str = "runs") -> Launcher:
        settings = RunSettings(
            address=self.address, agent=agent or self.agent, home=str(self.folder / "home"),
            cache=str(self.folder / "cache"), work_dir=str(self.folder), grace_seconds=0.5,
        )  # fmt: skip
        return DockerLauncher(settings, self.folder / f"{disk}-{agent or self.agent}", self.options())

    def options(self) -> DockerOptions:
        """Returns what the agent's owner sets."""
        places = (self.shared, self.folder / "storage")
        return DockerOptions(
            base_url=self.engine.url,
            networks=("host",),
            volumes=tuple(Volume(str(place), str(place)) for place in places),
            **{"crash_lines": self.early_lines, **self.owner_says},
        )

    def storage(self) -> Storage:
        return Local(self.folder / "storage", host="")

    def run_config(self) -> RunConfig | None:
        return DockerRun(image=self.image)

    async def kill(self, handle: Handle) -> None:
        client = self.engine.client()
        try:
            client.api.kill(handle.infrastructure, signal.SIGKILL)
        finally:
            client.close()

    def alive(self, pid: int) -> bool:
        return alive_in_container(pid, self.shared)

    async def vanish(self, handle: Handle) -> None:
        client = self.engine.client()
        try:
            client.containers.get(handle.infrastructure).remove(force=True)
        finally:
            client.close()

    async def launch_dead(self) -> tuple[Attempt, Handle, str]:
        attempt = self.attempt("pass", entrypoint=["/bin/sh", "-c", "echo $((6 * 7)) wheels came off >&2; exit 9", "-"])
        return attempt, await self.launch(attempt), "42 wheels came off"

    def steps(self) -> list[Step]:
        return [Step(Engine, name) for name in ("make_volume", "create", "put", "start")]

    async def remains(self, handle: Handle) -> list[str]:
        client = self.engine.client()
        try:
            containers = client.containers.list(all=True, filters={"name": handle.infrastructure})
            volumes = client.volumes.list(filters={"name": handle.infrastructure})
            return [f"container {one.name}" for one in containers] + [f"volume {one.name}" for one in volumes]
        finally:
            client.close()


def alive_in_container(pid: int, shared: Path) -> bool:
    """Looks for a process that is that one in a container which shows that folder."""
    for process in psutil.process_iter():
        folder = Path(f"/proc/{process.pid}")
        with suppress(OSError, psutil.NoSuchProcess):
            inside = re.search(r"^NSpid:.*\s(\d+)$", (folder / "status").read_text(), re.MULTILINE)
            same = inside is not None and int(inside[1]) == pid != process.pid
            if same and str(shared) in (folder / "mountinfo").read_text():
                return process.status() != psutil.STATUS_ZOMBIE
    return False
