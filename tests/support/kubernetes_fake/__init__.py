"""A Kubernetes cluster for tests: an API server on the wire, controllers in the form of 1.20 or 1.36, and a kubelet.

Pods are processes of this host, or what a test scripts. Nothing is mocked in the agent: requests are HTTP with JSON,
watches are streams, and an agent may do exactly what its Role says.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.kubernetes_fake.controllers import Controllers
from tests.support.kubernetes_fake.kubelet import Kubelet
from tests.support.kubernetes_fake.server import ApiServer
from tests.support.kubernetes_fake.store import Json, Refusal, Store

from heliograph_agents.launchers.kubernetes.rbac import manifests

__all__ = ["Cluster", "Json", "Refusal", "fake_cluster"]

TICK_SECONDS = 0.05
AGENT_TOKEN, ADMIN_TOKEN = "agent-token", "admin-token"


class Cluster:
    """One cluster.

    Args:
        folder: Folder for kubeconfigs and pods.
        old: True for the form of 1.20.
        namespaces: Where its agents may be.
    """

    def __init__(self, folder: Path, *, old: bool = False, namespaces: tuple[str, ...] = ("flows",)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.namespaces = folder, namespaces
        self.store = Store()
        self.controllers = Controllers(self.store, old=old)
        self.kubelet = Kubelet(self.store, self.controllers, folder / "pods")
        self.server = ApiServer(self.store, self.kubelet.printed)
        self.server.version = "v1.20.2" if old else "v1.36.2"
        self.server.namespaces = set(namespaces)
        self.server.grant(ADMIN_TOKEN, None)
        self.allow()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def allow(self, *, least: bool = False) -> None:
        """Gives agents the rights that the product prints, and no others."""
        printed = manifests(self.namespaces, "heliograph-agent", self.namespaces[0], least=least)
        self.server.grant(AGENT_TOKEN, [one for one in printed if one["kind"] == "Role"])

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.controllers.step()
            self.kubelet.step()
            with self.store.changed:
                self.store.changed.wait(TICK_SECONDS)

    def close(self) -> None:
        """Ends it, and all that runs in it."""
        self._stopped.set()
        self._thread.join(60)
        self.server.close()
        self.kubelet.close()

    def kubeconfig(self, token: str = AGENT_TOKEN) -> str:
        """Writes a kubeconfig and returns its path."""
        path = self.folder / f"kubeconfig-{token}"
        context = {"name": "test", "context": {"cluster": "c", "user": "u", "namespace": self.namespaces[0]}}
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test", "contexts": [context],
            "clusters": [{"name": "c", "cluster": {"server": self.server.url}}],
            "users": [{"name": "u", "user": {"token": token}}],
        }))  # fmt: skip
        return str(path)

    # --- for tests ---------------------------------------------------------------------------------------------------

    def pods(self, job: str = "") -> list[Json]:
        """Returns all pods, or those of a Job."""
        return [pod for pod in self.store.all("pods") if job in ("", pod["metadata"]["labels"].get("job-name"))]

    def pod(self, job: str = "", seconds: float = 60.0) -> Json:
        """Waits for the pod of a Job."""
        return self.until(lambda: next(iter(self.pods(job)), None), "there is a pod", seconds)

    def until(self, look: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        """Waits for a fact about the cluster."""
        limit = time.monotonic() + seconds
        with self.store.changed:
            while not (found := look()):
                if time.monotonic() > limit:
                    raise AssertionError(f"not within {seconds:.0f} s: {what}")
                self.store.changed.wait(1.0)
            return found

    def set_status(self, pod: Json, **status: Any) -> None:
        """Sets parts of a pod's status, as a kubelet does."""
        meta = pod["metadata"]
        self.store.update("pods", meta["namespace"], meta["name"], lambda found: found["status"].update(status))

    def container(self, pod: Json, state: Json, *, phase: str = "Pending", **status: Any) -> None:
        """Sets the state of a pod's flow container."""
        self.set_status(pod, phase=phase, containerStatuses=[{"name": "flow", "state": state}], **status)

    def remove(self, pod: Json) -> None:
        """Takes a pod away without asking anybody, as a forced deletion does."""
        meta = pod["metadata"]
        with contextlib.suppress(Refusal):
            self.store.update("pods", meta["namespace"], meta["name"],
                              lambda found: found["metadata"].update(finalizers=[]))  # fmt: skip
            self.store.delete("pods", meta["namespace"], meta["name"], {"gracePeriodSeconds": 0})
            self.store.finish("pods", meta["namespace"], meta["name"])


@contextlib.contextmanager
def fake_cluster(folder: Path, **options: Any) -> Iterator[Cluster]:
    """A cluster, while the context lasts."""
    made = Cluster(folder, **options)
    try:
        yield made
    finally:
        made.close()
