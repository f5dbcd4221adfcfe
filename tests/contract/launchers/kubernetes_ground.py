"""The ground of the Kubernetes launcher: a cluster on the wire whose pods are processes, and the rights of the Role."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.contract.launchers.ground import Attempt, Ground, Step
from tests.support.control_plane import ControlPlaneProcess
from tests.support.kubernetes_fake import Cluster

from heliograph.client.cluster import find_access
from heliograph.run_configs import KubernetesRun, RunConfig
from heliograph.storage import Storage
from heliograph.storage.local import Local
from heliograph_agents.launcher import Handle, Launcher
from heliograph_agents.launchers.kubernetes import offer
from heliograph_agents.launchers.kubernetes.launcher import KubernetesLauncher
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.run_directory import RunSettings


class JobGround(Ground):
    """What fake and real clusters have in common."""

    kind = "kubernetes"
    kills_silently = False

    async def launch_dead(self) -> tuple[Attempt, Handle, str]:
        broken = self.shared / "broken-python"
        broken.write_text("#!/bin/sh\necho $((6 * 7)) wheels came off >&2\nexit 9\n")
        broken.chmod(0o755)
        attempt = self.attempt("pass", python=str(broken))
        return attempt, await self.launch(attempt), "42 wheels came off"

    def steps(self) -> list[Step]:
        return [Step(KubernetesLauncher, "_make_job"), Step(offer, "make")]


class KubernetesGround(JobGround):
    """Pods of a cluster in the form of 1.36, which are processes of this host and share its disk."""

    old = False

    def __init__(self, folder: Path, plane: ControlPlaneProcess, request: pytest.FixtureRequest) -> None:
        self.cluster = Cluster(folder / "cluster", old=self.old)
        super().__init__(folder, plane, request)

    def make_launcher(self, agent: str = "", disk: str = "runs") -> Launcher:
        settings = RunSettings(
            address=self.address, agent=agent or self.agent, home=str(self.folder / "home"),
            cache=str(self.folder / "cache"), work_dir=str(self.folder), grace_seconds=0.5,
        )  # fmt: skip
        access = find_access(self.cluster.kubeconfig())
        return KubernetesLauncher(settings, self.runs(agent, disk), self.options(), access)

    def runs(self, agent: str = "", disk: str = "runs") -> Path:
        """Returns the agent's own folder of attempts."""
        return self.folder / f"{disk}-{agent or self.agent}"

    def options(self) -> KubernetesOptions:
        """Returns what the agent's owner sets."""
        return KubernetesOptions(
            keep_success_seconds=0, keep_failed_seconds=0, rate=200, burst=200, timeout_seconds=10,
            crash_lines=self.early_lines,
        )  # fmt: skip

    def storage(self) -> Storage:
        return Local(self.folder / "storage", host="")

    def run_config(self) -> RunConfig | None:
        return KubernetesRun(image="registry.test/flows@sha256:" + 64 * "0")

    async def kill(self, handle: Handle) -> None:
        pod = self.cluster.pod(handle.infrastructure.partition("/")[2])
        await asyncio.to_thread(self.cluster.kubelet.end, pod["metadata"]["uid"])

    async def vanish(self, handle: Handle) -> None:
        namespace, _, name = handle.infrastructure.partition("/")
        pod = self.cluster.pod(name)
        await asyncio.to_thread(self.cluster.kubelet.end, pod["metadata"]["uid"])
        with self.cluster.store.changed:  # at once, before any controller looks
            self.cluster.store.delete("jobs", namespace, name, {})
            self.cluster.remove(pod)

    async def remains(self, handle: Handle) -> list[str]:
        name = handle.infrastructure.partition("/")[2]

        def left() -> list[str]:
            return [
                f"{kind} {one['metadata']['name']}"
                for kind in ("jobs", "pods", "secrets")
                for one in self.cluster.store.all(kind)
                if one["metadata"]["name"].startswith(name)
            ]

        try:  # the cluster collects what has lost its Job by itself
            await asyncio.to_thread(self.cluster.until, lambda: not left(), "nothing is left", 10.0)
        except AssertionError:
            return left()
        return []

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            await asyncio.to_thread(self.cluster.close)


class OldKubernetesGround(KubernetesGround):
    """The same in the form of 1.20."""

    old = True
