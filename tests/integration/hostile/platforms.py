"""Whole agents, in this process, of the kinds that ask others to run containers; what they ask is written down.

What an agent asks its platform for by itself, looking around, is not counted. Anything else is refused there, and was a
deed: nothing of bad work may come that far.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import unquote, urlsplit

import pytest
from tests.support.docker_engine import DockerEngine
from tests.support.evil_plane import Bucket, EvilPlane
from tests.support.evil_work import Work
from tests.support.fargate.server import Fargate
from tests.support.fargate.shapes import ServiceError
from tests.support.kubernetes_fake import Cluster

from heliograph.client.cluster import find_access
from heliograph.signing import TrustStore
from heliograph_agents.agent import Agent, AgentOptions
from heliograph_agents.ended import Ended
from heliograph_agents.gate import Gate
from heliograph_agents.launcher import Launcher
from heliograph_agents.launchers.docker.launcher import DockerLauncher
from heliograph_agents.launchers.docker.options import DockerOptions
from heliograph_agents.launchers.docker.plan import _KNOWN as DOCKER_OPTIONS
from heliograph_agents.launchers.ecs.launcher import EcsLauncher
from heliograph_agents.launchers.ecs.options import EcsOptions
from heliograph_agents.launchers.ecs.plan import _KNOWN as ECS_OPTIONS
from heliograph_agents.launchers.kubernetes.launcher import KubernetesLauncher
from heliograph_agents.launchers.kubernetes.manifest import KNOWN as KUBERNETES_OPTIONS
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.link import Link
from heliograph_agents.offers import Offers
from heliograph_agents.policy import Policy
from heliograph_agents.run_directory import RunSettings
from heliograph_agents.start_code import StartCodes

IMAGE = f"registry.test/flows/a@sha256:{64 * '0'}"
FOREVER = 10**9
WAIT_SECONDS = 60.0


class Platform(Work, ABC):
    """An agent of one kind with a policy and a trusted key, a control plane that lies to it, and its platform.

    Args:
        folder: A folder of its own.
        patch: Sets the variables by which the agent finds its storage.

    Attributes:
        kind: The kind of agent.
        options: Names of the launcher's own options that its policy allows: all but one.
    """

    kind: ClassVar[str]
    options: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, IMAGE)
        self.plane, self.bucket = EvilPlane(), Bucket(folder / "buckets")
        for name, value in {
            "HELIOGRAPH_HOME": str(folder / "home"), "AWS_ENDPOINT_URL": self.bucket.address,
            "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        patch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps the credentials that it found first
        self.said: list[str] = []
        trust = TrustStore(folder / "trusted")
        trust.add("ann", self.key.public)
        self.policy = Policy(
            projects=("etl",), flows=("etl/good",), storages=("s3://bundles/prod/",), images=("registry.test/flows/*",),
            require_image_digest=True, env=("APP_*",), mounts=("/data/*:ro",), max_cpu_millis=2000,
            max_memory_bytes=2**30, identities=("flows-*",), options=self.options, pickles=False,
        )  # fmt: skip
        self.gate = Gate(folder / "cache", needs_settings=True, policy=self.policy, trust=trust)
        self.agent: Agent
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="evil-agent", daemon=True)
        self._log = _Lines(self.said)

    @abstractmethod
    def make_launcher(self, settings: RunSettings, link: Link) -> Launcher:
        """Returns the launcher of its agent."""

    @abstractmethod
    def deeds(self) -> list[str]:
        """Returns what was asked of the platform so far, besides looks around."""

    def start(self) -> None:
        """Starts the agent."""
        logging.getLogger("heliograph.agent").addHandler(self._log)
        self._thread.start()
        self.plane.wait_for_polls(1)

    def close(self) -> None:
        """Ends the agent, and all around it."""
        for _ in range(2):
            self._loop.call_soon_threadsafe(self.agent.drain)
        self._thread.join(WAIT_SECONDS)
        logging.getLogger("heliograph.agent").removeHandler(self._log)
        self.plane.stop()
        self.bucket.stop()
        assert not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """True while the agent runs."""
        return self._thread.is_alive()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        link = Link(self.plane.address, "hg_agent", None, insecure=False)
        folder = self.folder / "agent"
        settings = RunSettings(
            address=self.plane.address, agent="a", home=str(self.folder / "home"), cache=str(self.folder / "cache"),
            work_dir=str(self.folder),
        )  # fmt: skip
        options = AgentOptions(name="a", labels=(), capacity=4, host="")
        launcher = self.make_launcher(settings, link)
        self.agent = Agent(options, link, launcher, Offers(folder / "offers"), self.gate, Ended(folder / "ended"))
        await self.agent.run()


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


class DockerPlatform(Platform):
    """Docker, behind a socket that answers nothing but looks around."""

    kind = "docker"
    options = (*sorted(DOCKER_OPTIONS - {"working_dir"}), "host_config.*")

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, patch)
        self._engine = _Engine()

    def make_launcher(self, settings: RunSettings, link: Link) -> Launcher:
        options = DockerOptions(base_url=self._engine.address, most=self.policy.most)
        return DockerLauncher(settings, self.folder / "runs", options, advertised=settings.address)

    def deeds(self) -> list[str]:
        return list(self._engine.asked)

    def close(self) -> None:
        super().close()
        self._engine.stop()


class _Engine:
    """A Docker Engine that has every image, and makes no containers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = "/" + urlsplit(self.path).path.lstrip("/").partition("/")[2]
                if self.path.endswith("/version"):
                    self._send(200, {"Version": "28.0.0", "ApiVersion": "1.48", "MinAPIVersion": "1.24"})
                elif path == "/containers/json":
                    self._send(200, [])
                elif path == "/events":
                    self._send(200, {})
                else:
                    self._refuse()

            def do_POST(self) -> None:
                self._refuse()

            def do_PUT(self) -> None:
                self._refuse()

            def do_DELETE(self) -> None:
                self._refuse()

            def _refuse(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                engine.asked.append(f"{self.command} {unquote(self.path)}")
                is_image = self.command == "GET" and "/images/" in self.path  # it is there, and nothing else will be
                self._send(
                    200 if is_image else 404, {"Id": "sha256:0", "Config": {}} if is_image else {"message": "no"}
                )

            def _send(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"tcp://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="engine", daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class KubernetesPlatform(Platform):
    """Kubernetes, whose API server makes nothing."""

    kind = "kubernetes"
    options = tuple(sorted(KUBERNETES_OPTIONS - {"gpu"}))

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, patch)
        self._cluster = Cluster(folder / "cluster")
        for method in ("POST", "PATCH", "DELETE"):
            self._cluster.server.plant(method, ".", 403, FOREVER)

    def make_launcher(self, settings: RunSettings, link: Link) -> Launcher:
        options = KubernetesOptions(rate=1000, burst=1000, timeout_seconds=10, most=self.policy.most)
        access = find_access(self._cluster.kubeconfig())
        return KubernetesLauncher(settings, self.folder / "runs", options, access)

    def deeds(self) -> list[str]:
        return [
            f"{method} {path}"
            for method, path, _, _ in list(self._cluster.server.requests)
            if method != "GET" or not path.endswith(("/version", "/jobs", "/pods"))
        ]

    def close(self) -> None:
        super().close()
        self._cluster.close()


class EcsPlatform(Platform):
    """ECS, with instances that tasks could take over, to which this agent may do nothing."""

    kind = "ecs"
    options = (*sorted(ECS_OPTIONS - {"container"}), "run_task_kwargs.*")

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, patch)
        self._fargate = Fargate(cast("DockerEngine", None))  # no task comes so far that one would be asked
        self._fargate.access_keys.add("a")
        self._fargate.forward = lambda *_: (403, [], b"")  # type: ignore[method-assign]
        for operation in ("RegisterTaskDefinition", "RunTask"):
            self._fargate.script.refuse(operation, ServiceError("AccessDeniedException", "no"), 1000)

    def make_launcher(self, settings: RunSettings, link: Link) -> Launcher:
        options = EcsOptions(
            most=self.policy.most,
            region="eu-west-1",
            endpoint_url=self._fargate.url,
            launch_type="EC2",
            subnets=("subnet-1",),
        )
        codes = StartCodes("agents/a", link)
        return EcsLauncher(settings, self.folder / "runs", options, codes, advertised=settings.address)

    def deeds(self) -> list[str]:
        return [name for name, _ in list(self._fargate.requests) if name not in ("ListTasks", "DescribeTasks")]

    def close(self) -> None:
        super().close()
        self._fargate.stop()


PLATFORMS: dict[str, Callable[[Path, pytest.MonkeyPatch], Platform]] = {
    "docker": DockerPlatform,
    "kubernetes": KubernetesPlatform,
    "ecs": EcsPlatform,
}
