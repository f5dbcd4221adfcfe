"""Pods of a cluster on the wire, which are processes of this host.

Jobs, Secrets and what pods get of them are as in any cluster; their disk and their network are this host's.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.kubernetes_fake import Cluster
from tests.support.places.place import Attempt, Place, Shown, texts_in

_FLOW_RUN, _EPOCH = "heliograph.io/flow-run", "heliograph.io/epoch"


class KubernetesPlace(Place):
    """Pods that share the disk and the network of this host."""

    kind = "kubernetes"
    run_config = "KubernetesRun"
    image, python = "registry.test/flows:7", sys.executable

    def __init__(self, folder: Path, request: pytest.FixtureRequest | None = None) -> None:
        super().__init__(folder, request)
        self.cluster = Cluster(folder / "cluster")

    def agent_arguments(self, address: str) -> list[str]:
        return ["--type", "kubernetes", "--namespace", "flows", "--kubeconfig", self.cluster.kubeconfig(),
                "--keep-success", "0", "--keep-failed", "0", "--api-rate", "200", "--api-burst", "200",
                "--advertise-address", address]  # fmt: skip

    def described(self, label: Callable[[], str], folder: Callable[[], str]) -> dict[str, Any]:
        return {"pod_labels": {"note": label()}}

    def close(self) -> None:
        self.cluster.close()

    def kill(self, attempt: Attempt) -> bool:
        for pod in self.cluster.pods():
            uid = pod["metadata"]["uid"]
            if _attempt(pod) == attempt and self.cluster.kubelet.pid(uid):
                with suppress(KeyError):  # it has ended meanwhile
                    self.cluster.kubelet.end(uid)
                    return True
        return False

    def lose_answer(self) -> None:
        self.cluster.server.plant("POST", "/jobs$", "after", 1)

    def hurt(self) -> None:
        server = self.cluster.server
        for method, path, how in (("GET", "", 503), ("POST", "/jobs$", 500), ("POST", "/secrets$", "before"),
                                  ("DELETE", "", 503)):  # fmt: skip
            server.plant(method, path, how, 4)
        server.cut_watches()

    def answers_to_lose(self) -> int:
        return sum(fault.times for fault in self.cluster.server.faults if fault.how == "after")

    def shown(self) -> Shown:
        """What every object has ever said, Secrets among them, and what was asked for; Jobs' names once and for all."""
        jobs = {name.removesuffix(f"-{run}-{epoch}") for (run, epoch), name in self.made()}
        for name in jobs:  # pods' and events' names begin with it, as far as they go
            yield "name of the Job", name.encode()
        named = re.compile("|".join(map(re.escape, jobs)).encode())
        for place, text in self._said():
            yield place, named.sub(b"", text)

    def _said(self) -> Shown:
        for method, path, query, body in list(self.cluster.server.requests):
            yield f"{method} path", path.encode()
            yield f"{method} query", query.encode()
            if method != "POST":
                yield from texts_in(body or {}, method)
        for kind, item in self.cluster.store.history():
            if kind == "secrets":
                for name, text in (item.pop("data", None) or {}).items():
                    yield f"secrets.data.{name}", base64.b64decode(text)
            yield from texts_in(item, kind)

    def made(self) -> list[tuple[Attempt, str]]:
        jobs: dict[str, Any] = {item["metadata"]["uid"]: item for kind, item in self.cluster.store.history()
                                if kind == "jobs"}  # fmt: skip
        return [(_attempt(job), job["metadata"]["name"]) for job in jobs.values()]

    def left(self, runs: Collection[str]) -> list[str]:
        return [
            f"{kind} {one['metadata']['name']}"
            for kind in ("jobs", "pods", "secrets")
            for one in self.cluster.store.all(kind)
            if any(run in json.dumps(one["metadata"]) for run in runs)
        ]


def _attempt(item: Any) -> Attempt:
    notes = item["metadata"]["annotations"]
    return notes[_FLOW_RUN].rpartition("/")[2], int(notes[_EPOCH])
