"""The ground of the ECS launcher: a double of Fargate whose tasks are containers of a private engine."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from tests.contract.launchers.docker_ground import alive_in_container
from tests.contract.launchers.ground import WAIT_SECONDS, Attempt, Ground, Step
from tests.support.control_plane import ControlPlaneProcess
from tests.support.docker_engine import DockerEngine
from tests.support.fargate.server import Fargate
from tests.support.fargate.task import Task

from heliograph.run_configs import ECSRun, RunConfig
from heliograph.storage import Storage
from heliograph.storage.local import Local
from heliograph_agents.launcher import Handle, Launcher
from heliograph_agents.launchers.ecs import launcher as ecs_launcher
from heliograph_agents.launchers.ecs.launcher import EcsLauncher
from heliograph_agents.launchers.ecs.options import EcsOptions
from heliograph_agents.launchers.ecs.tasks import Tasks
from heliograph_agents.launchers.records import Records
from heliograph_agents.link import Link
from heliograph_agents.run_directory import RunSettings
from heliograph_agents.start_code import StartCodes

ROLE = "arn:aws:iam::123456789012:role/heliograph-execution"


class EcsGround(Ground):
    """Tasks. They share a folder with the tests, as on a network's file system."""

    kind = "ecs"
    kills_silently = False
    tells_how_it_ended = False

    def __init__(self, folder: Path, plane: ControlPlaneProcess, request: pytest.FixtureRequest) -> None:
        self.engine: DockerEngine = request.getfixturevalue("docker_engine")
        self.image: str = request.getfixturevalue("runtime_image")
        self.fargate: Fargate = request.getfixturevalue("fargate")
        self.links: list[Link] = []
        self.log_group = ""
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        # The double lists a task at once: what is not in its lists was never there.
        patch.setattr(ecs_launcher, "APPEAR_SECONDS", 1.0)
        for name, value in self.fargate.environment.items():
            patch.setenv(name, value)
        for place in (folder / "shared", folder / "storage"):
            self.fargate.binds[str(place)] = str(place)
        (folder / "storage").mkdir()
        super().__init__(folder, plane, request)

    def make_launcher(self, agent: str = "", disk: str = "runs") -> Launcher:
        name = agent or self.agent
        settings = RunSettings(
            address=self.address, agent=name, home=str(self.folder / "home"),
            cache=str(self.folder / "cache"), work_dir=str(self.folder), grace_seconds=0.5,
        )  # fmt: skip
        link = Link(self.plane.address, self.plane.token, None, insecure=False)
        self.links.append(link)
        codes = StartCodes(f"agents/{name}", link)
        made = EcsLauncher(settings, self.folder / f"{disk}-{name}", self.options(), codes, advertised=self.address)
        made._address = self.plane.address  # without it no run begins at all, unheard or not
        return made

    def options(self) -> EcsOptions:
        """Returns what the agent's owner sets."""
        return EcsOptions(
            region="eu-west-1", endpoint_url=self.fargate.url, subnets=("subnet-1",), execution_role=ROLE,
            poll_seconds=0.2, crash_lines=self.early_lines, log_group=self.log_group,
        )  # fmt: skip

    def storage(self) -> Storage:
        return Local(self.folder / "storage", host="")

    def run_config(self) -> RunConfig | None:
        return ECSRun(image=self.image, cpu=512, memory=1024)

    async def close(self) -> None:
        self.fargate.script.clear()
        await super().close()
        for link in self.links:
            await link.close()
        for place in (self.shared, self.folder / "storage"):
            self.fargate.binds.pop(str(place), None)

    def task(self, handle: Handle) -> Task:
        """Returns the newest task of an attempt."""
        return self.all_tasks(handle)[-1]

    def all_tasks(self, handle: Handle) -> list[Task]:
        """Returns every task that was made for an attempt."""
        mine = {"key": "heliograph.io/flow-run", "value": handle.flow_run}
        return [one for one in self.fargate.tasks if mine in one.document["tags"]]

    async def kill(self, handle: Handle) -> None:
        client = self.engine.client()
        try:
            for name in self.task(handle).container_names():
                client.api.kill(name, signal.SIGKILL)
        finally:
            client.close()

    async def vanish(self, handle: Handle) -> None:
        task = self.task(handle)
        self.fargate.tasks.remove(task)
        task.stop("UserInitiated", "vanished")
        await asyncio.to_thread(task.wait, WAIT_SECONDS)

    async def launch_dead(self) -> tuple[Attempt, Handle, str]:
        await self.leave()
        self.log_group = f"/flows/{self.project}"
        self.launcher = self.make_launcher()
        await self.launcher.open(self.hints.append)
        words = ["/bin/sh", "-c", "echo $((6 * 7)) wheels came off >&2; exit 9", "-"]
        dying = {"containerDefinitions": [{"name": "flow", "image": self.image, "entryPoint": words}]}
        attempt = self.attempt("pass", task_definition=dying)
        return attempt, await self.launch(attempt), "42 wheels came off"

    def steps(self) -> list[Step]:
        return [
            Step(StartCodes, "ask"),
            Step(Records, "mark"),
            Step(Tasks, "run"),
            Step(EcsLauncher, "_note"),
        ]

    def alive(self, pid: int) -> bool:
        return alive_in_container(pid, self.shared)

    async def remains(self, handle: Handle) -> list[str]:
        left = [one for one in self.all_tasks(handle) if not await asyncio.to_thread(one.wait, 10)]
        client = self.engine.client()
        try:
            found = [
                str(one.name)
                for task in self.all_tasks(handle)
                for one in client.containers.list(all=True, filters={"label": f"task={task.arn}"})
            ]
        finally:
            client.close()
        return [f"task {one.arn}" for one in left] + [f"container {name}" for name in found]
