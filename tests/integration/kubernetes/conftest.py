"""A cluster whose pods are scripted or pretended, and an agent's launcher on it, without a control plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.kubernetes_fake import Cluster, Json

from heliograph.client.cluster import find_access
from heliograph.run_configs import KubernetesRun
from heliograph_agents.launcher import BundleSpec, Credentials, Handle, InfraExit, Liveness, RunSpec
from heliograph_agents.launchers.kubernetes import api
from heliograph_agents.launchers.kubernetes.launcher import KubernetesLauncher
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.run_directory import RunSettings

TOKEN = "run-token-nobody-may-see"
WAIT_SECONDS = 60.0


class Scene:
    """One cluster and one agent.

    Args:
        folder: Folder of this test.
        old: True for the form of 1.20.
        namespaces: The agent's.
    """

    def __init__(self, folder: Path, *, old: bool = False, namespaces: tuple[str, ...] = ("flows",)) -> None:
        self.folder, self.namespaces = folder, namespaces
        self.cluster = Cluster(folder / "cluster", old=old, namespaces=namespaces)
        self.cluster.kubelet.scripted = True
        self.hints: list[Handle] = []
        self.launchers: list[KubernetesLauncher] = []

    async def agent(
        self, name: str = "a", *, disk: str = "disk", hint: Callable[[Handle], None] | None = None, **options: Any
    ) -> KubernetesLauncher:
        """Opens the launcher of an agent; `disk` names its folder of attempts."""
        settings = RunSettings(
            address="control-plane.test:4480", agent=name, home=str(self.folder), cache=str(self.folder),
            grace_seconds=0.5, env={"SECRET": "value-nobody-may-see"},
        )  # fmt: skip
        given = {"rate": 500.0, "burst": 500, "timeout_seconds": 10.0, "namespaces": self.namespaces,
                 "image_grace_seconds": 0.0, "config_grace_seconds": 0.0, **options}  # fmt: skip
        access = find_access(self.cluster.kubeconfig())
        made = KubernetesLauncher(settings, self.folder / disk, KubernetesOptions(**given), access)
        await made.open(hint or self.hints.append)
        self.launchers.append(made)
        return made

    async def leave(self, launcher: KubernetesLauncher) -> None:
        """Has an agent go."""
        self.launchers.remove(launcher)
        await launcher.close()

    async def close(self) -> None:
        """Ends everything."""
        for launcher in list(self.launchers):
            await self.leave(launcher)
        await asyncio.to_thread(self.cluster.close)

    async def launch(self, launcher: KubernetesLauncher, run: int = 1, epoch: int = 1, **asked: Any) -> Handle:
        """Launches a run."""
        settings = KubernetesRun(**{"image": "flows:1", "env": {"KEY": "also-secret"}, **asked}).launch_settings()
        return await launcher.launch(launcher.plan(spec_of(run, epoch), settings), CREDENTIALS)

    async def pod(self, handle: Handle) -> Json:
        """Waits for the pod of an attempt, and for the offer that is made to it."""
        name = handle.infrastructure.partition("/")[2]
        found = await asyncio.to_thread(self.cluster.pod, name)
        await self.until(lambda: self.names("secrets"), "the offer is made")
        return found

    def names(self, kind: str) -> list[str]:
        """Returns the names of all objects of a kind."""
        return [one["metadata"]["name"] for one in self.cluster.store.all(kind)]

    async def until(self, look: Callable[[], Any], what: str) -> None:
        """Waits for a fact about the cluster."""
        await asyncio.to_thread(self.cluster.until, look, what, WAIT_SECONDS)

    async def exit_of(self, launcher: KubernetesLauncher, handle: Handle) -> InfraExit:
        """Waits until an attempt is proven gone."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while isinstance(found := await launcher.inspect(handle), Liveness):  # noqa: ASYNC110 (a cluster sets no event)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{handle} did not end") from None
        assert isinstance(found, InfraExit)
        return found


CREDENTIALS = Credentials(TOKEN, "store", 15.0)


def spec_of(run: int = 1, epoch: int = 1) -> RunSpec:
    """Returns an attempt."""
    bundle = BundleSpec("local", "/x", "", "", False, "", "")
    return RunSpec(
        f"projects/p/flowRuns/01a20569-cb68-7138-8d91-{run:012d}", "projects/p/flows/Daily Load/versions/1", "otter",
        epoch, 1, '{"secret": "parameter-nobody-may-see"}', bundle, "", 0,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked again is asked as often, after shorter pauses."""
    monkeypatch.setattr(api, "FIRST_PAUSE_SECONDS", 0.02)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A cluster in the form of 1.36."""
    made = Scene(tmp_path)
    yield made
    await made.close()


@pytest.fixture(params=[False, True], ids=["1.36", "1.20"])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """A cluster in each form."""
    made = Scene(tmp_path, old=request.param)
    yield made
    await made.close()
