"""A real Kubernetes cluster for tests: servers built by `tools/kubernetes/build.py`, pods on a private Docker Engine.

Use the fixture `cluster` by importing it in a `conftest.py`. Tests that need it are marked `k8s`: `make test-k8s`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest
from tests.support.kubernetes.api import Api
from tests.support.kubernetes.servers import AUTHORITY, write_kubeconfig
from tests.support.runtime_image import build_runtime_image
from tools.kubernetes import build

ROOT = Path(__file__).resolve().parents[3]
PREFIX = "heliograph-k8s-"


class Cluster:
    """One running cluster with one node.

    Attributes:
        folder: Its folder, with the logs of all servers.
        url: The API server's URL.
        authority: Path of the certificate of its authority.
        docker_url: Where the node's Docker Engine listens.
        gateway: Address of this machine as pods see it.
        admin: The API as a user who may do everything.
        seconds: How long it took to start.
    """

    def __init__(self) -> None:
        sweep()
        programs = build.build()
        begun = time.monotonic()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "--", sys.executable, "-m",
                 "tests.support.kubernetes.serve", str(self.folder), str(programs)],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
            assert self._process.stdout is not None
            told = self._process.stdout.readline()
            if not told:
                self._process.communicate()
                log.seek(0)
                raise AssertionError(f"the cluster did not start:\n{log.read().decode()[-6000:]}")
        places: dict[str, Any] = json.loads(told)
        self.seconds = time.monotonic() - begun
        self.url, self.docker_url, self.gateway = places["url"], places["docker"], places["gateway"]
        self.pids: dict[str, int] = places["pids"]
        self.authority = str(self.folder / AUTHORITY)
        self.admin = self.api(places["token"])

    def api(self, token: str) -> Api:
        """Returns the API as another user."""
        return Api(self.url, token, self.authority)

    def kubeconfig(self, path: Path, api: Api, namespace: str = "default") -> Path:
        """Writes a kubeconfig file for a user of this cluster."""
        return write_kubeconfig(path, self.url, api.token, Path(self.authority), namespace)

    def docker(self, **options: Any) -> docker.DockerClient:
        """Returns a client of the node's Docker Engine."""
        return docker.DockerClient(base_url=self.docker_url, **options)

    def kill(self, name: str) -> None:
        """Kills a server, such as `kubelet`, with -9."""
        self._say({"kill": name})

    def start(self, name: str) -> None:
        """Starts a server that was killed."""
        self._say({"start": name})

    def restart_api(self) -> None:
        """Kills the API server and starts it again: it has forgotten all changes but those to come."""
        self.kill("kube-apiserver")
        self.start("kube-apiserver")
        self.admin.until("/readyz", lambda answer: answer.get("text") == "ok", "the API server is ready again")

    def namespace(self, name: str) -> None:
        """Makes a namespace, and waits until pods can start in it."""
        self.admin.post("/api/v1/namespaces", {"metadata": {"name": name}})
        self.admin.until(
            f"/api/v1/namespaces/{name}/serviceaccounts/default", lambda one: one.get("secrets"), "its own account"
        )

    def stop(self) -> None:
        """Ends everything."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(120)
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        sweep()

    def _say(self, command: dict[str, str]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        self.pids = json.loads(self._process.stdout.readline())["pids"]


def sweep() -> None:
    """Ends what is left of clusters whose own process was killed: servers, containers, bridges, folders."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        lock = folder / "lock"
        if not lock.exists():
            if time.time() - folder.stat().st_mtime > 600:  # else it is just being made
                shutil.rmtree(folder, ignore_errors=True)
            continue
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # it is alive
            for _round in range(50):
                if not _kill(folder):
                    break
                time.sleep(0.1)
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(
                    ["ip", "link", "del", (folder / "bridge").read_text()], check=False, capture_output=True,
                    env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
                )  # fmt: skip
            shutil.rmtree(folder, ignore_errors=True)


def _kill(folder: Path) -> int:
    """Kills what has that folder among its mounts, which are a cluster's own; returns how many there were."""
    count = 0
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if str(folder) in Path(f"/proc/{process.pid}/mountinfo").read_text():
                os.kill(process.pid, signal.SIGKILL)
                count += 1
    return count


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster of this test process."""
    running = Cluster()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def cluster_image(cluster: Cluster) -> str:
    """The tag of the image of this checkout, on the cluster's node."""
    client = cluster.docker(timeout=600)
    try:
        return build_runtime_image(client)
    finally:
        client.close()
