"""The ground of the Kubernetes launcher on the real cluster of `make test-k8s`, with the rights of the printed Role."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.contract.launchers.docker_ground import alive_in_container
from tests.contract.launchers.kubernetes_ground import JobGround
from tests.support.control_plane import ControlPlaneProcess
from tests.support.kubernetes.api import Api, Json
from tests.support.kubernetes.cluster import Cluster

from heliograph.client.cluster import find_access
from heliograph.run_configs import KubernetesRun, RunConfig
from heliograph.storage import Storage
from heliograph.storage.local import Local
from heliograph_agents.launcher import Handle, Launcher
from heliograph_agents.launchers.kubernetes.launcher import KubernetesLauncher
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.launchers.kubernetes.rbac import manifests
from heliograph_agents.run_directory import RunSettings

ACCOUNT = "heliograph-agent"


def apply(api: Api, objects: Sequence[Json]) -> None:
    """Creates objects, as `kubectl apply` does."""
    places = {"ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
              "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
              "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings"}  # fmt: skip
    for one in objects:
        api.post(places[one["kind"]].format(one["metadata"]["namespace"]), one)


def account_token(api: Api, namespace: str, account: str = ACCOUNT) -> str:
    """Returns a token of a service account, as pods of it get one."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    return str(api.post(path, {"spec": {"expirationSeconds": 7200}})["status"]["token"])


class ClusterGround(JobGround):
    """Pods on the node's Docker Engine. They share folders with the tests, and the host's network."""

    def __init__(self, folder: Path, plane: ControlPlaneProcess, request: pytest.FixtureRequest) -> None:
        self.cluster: Cluster = request.getfixturevalue("cluster")
        self.image: str = request.getfixturevalue("cluster_image")
        self.admin = self.cluster.admin
        self.namespace = f"flows-{uuid.uuid4().hex[:10]}"
        self.cluster.namespace(self.namespace)
        apply(self.admin, manifests([self.namespace], ACCOUNT, self.namespace, least=False))
        self.user = self.cluster.api(account_token(self.admin, self.namespace))
        self.more_options: dict[str, Any] = {}
        super().__init__(folder, plane, request)

    def make_launcher(self, agent: str = "", disk: str = "runs") -> Launcher:
        settings = RunSettings(
            address=self.address, agent=agent or self.agent, home=str(self.folder / "home"),
            cache=str(self.folder / "cache"), work_dir=str(self.folder), grace_seconds=0.5,
        )  # fmt: skip
        config = self.cluster.kubeconfig(self.folder / "kubeconfig", self.user, self.namespace)
        return KubernetesLauncher(
            settings, self.folder / f"{disk}-{agent or self.agent}", self.options(), find_access(str(config))
        )

    def options(self) -> KubernetesOptions:
        """Returns what the agent's owner sets."""
        given: dict[str, Any] = {
            "namespaces": (self.namespace,), "template": self.template(), "keep_success_seconds": 0,
            "keep_failed_seconds": 0, "rate": 100, "burst": 100,
            "crash_lines": self.early_lines,
        }  # fmt: skip
        return KubernetesOptions(**{**given, **self.more_options})

    def template(self) -> Json:
        """Returns a pod that sees the folders of the test, and the control plane on loopback."""
        places = {"shared": self.shared, "storage": self.folder / "storage"}
        for place in places.values():
            place.mkdir(exist_ok=True)
        return {
            "spec": {
                "hostNetwork": True,
                "containers": [
                    {
                        "name": "flow",
                        "volumeMounts": [{"name": name, "mountPath": str(place)} for name, place in places.items()],
                    }
                ],
                "volumes": [{"name": name, "hostPath": {"path": str(place)}} for name, place in places.items()],
            }
        }

    def storage(self) -> Storage:
        return Local(self.folder / "storage", host="")

    def run_config(self) -> RunConfig | None:
        return KubernetesRun(image=self.image)

    def pods(self) -> list[Json]:
        """Returns the pods of the test's namespace."""
        found: list[Json] = self.admin.get(f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return found

    def _pod(self, handle: Handle) -> Json:
        name = handle.infrastructure.partition("/")[2]
        return next(pod for pod in self.pods() if pod["metadata"]["labels"]["job-name"] == name)

    async def kill(self, handle: Handle) -> None:
        await asyncio.to_thread(self._kill, self._pod(handle))

    def _kill(self, pod: Json) -> None:
        """Kills a pod's flow as the kernel does, if it still runs."""
        client = self.cluster.docker()
        try:
            wanted = [f"io.kubernetes.pod.uid={pod['metadata']['uid']}", "io.kubernetes.container.name=flow"]
            for container in client.containers.list(filters={"label": wanted}):
                with suppress(docker.errors.APIError):  # it has ended meanwhile
                    client.api.kill(str(container.id), signal.SIGKILL)
        finally:
            client.close()

    async def vanish(self, handle: Handle) -> None:
        pod = self._pod(handle)
        name, core = handle.infrastructure.partition("/")[2], f"/api/v1/namespaces/{self.namespace}"
        self.admin.delete(f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{name}", propagationPolicy="Background")
        self.admin.delete(f"{core}/pods/{pod['metadata']['name']}", gracePeriodSeconds=0)
        await asyncio.to_thread(self._kill, pod)

    def alive(self, pid: int) -> bool:
        return alive_in_container(pid, self.shared)

    async def remains(self, handle: Handle) -> list[str]:
        name = handle.infrastructure.partition("/")[2]
        core, batch = f"/api/v1/namespaces/{self.namespace}", f"/apis/batch/v1/namespaces/{self.namespace}"

        def left() -> list[str]:
            return [
                f"{path} {one['metadata']['name']}"
                for path in (f"{batch}/jobs", f"{core}/pods", f"{core}/secrets")
                for one in self.admin.get(path)["items"]
                if one["metadata"]["name"].startswith(name)
            ]

        with suppress(AssertionError):  # the cluster collects what has lost its owner by itself
            await self.until(lambda: not left(), "nothing is left")
        return await asyncio.to_thread(left)

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            self.admin.delete(f"/api/v1/namespaces/{self.namespace}")
