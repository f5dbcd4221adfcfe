"""The Docker launcher over a double of the engine: what it refuses to start with, and what a failed launch leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.agents.test_docker_plan import planned

from heliograph.engine.codes import FailureCode
from heliograph.exceptions import InvalidArgumentError
from heliograph_agents.launcher import Credentials, LaunchError
from heliograph_agents.launchers.docker import launcher as docker_launcher
from heliograph_agents.launchers.docker.images import Image
from heliograph_agents.launchers.docker.launcher import DockerLauncher
from heliograph_agents.launchers.docker.options import DockerOptions
from heliograph_agents.run_directory import RunSettings


def test_containers_share_the_loopback_of_the_hosts_network(tmp_path: Path) -> None:
    settings = RunSettings("127.0.0.1:4480", "a", str(tmp_path), str(tmp_path))
    with pytest.raises(InvalidArgumentError, match="containers cannot reach"):
        DockerLauncher(settings, tmp_path, DockerOptions())
    DockerLauncher(settings, tmp_path, DockerOptions(networks=("host",)))


class Engine:
    """An engine that does what it is asked to, and keeps what it has made."""

    def __init__(self) -> None:
        self.containers: set[str] = set()
        self.volumes: set[str] = set()

    def container(self, _: str) -> None:
        return None

    def make_volume(self, name: str, _: Any) -> None:
        self.volumes.add(name)

    def create(self, _: Any, name: str, __: str) -> None:
        self.containers.add(name)

    def put(self, *_: Any) -> None:
        pass

    def remove(self, name: str, *, force: bool) -> bool:
        self.containers.discard(name)
        return force

    def remove_volume(self, name: str) -> None:
        self.volumes.discard(name)


async def test_a_launch_whose_bundle_cannot_be_fetched_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> bytes:
        raise LaunchError("it is not in the registry", FailureCode.BUNDLE_UNAVAILABLE)

    engine = Engine()
    launcher = DockerLauncher(RunSettings("plane:4480", "a", str(tmp_path), str(tmp_path)), tmp_path, DockerOptions())
    monkeypatch.setattr(launcher, "_engine", engine)
    monkeypatch.setattr(docker_launcher, "provide", lambda *_: Image("image:1", ""))
    monkeypatch.setattr(docker_launcher, "carried", missing)
    with pytest.raises(LaunchError, match="registry"):
        await launcher.launch(planned(), Credentials("token", "store", 15.0))
    assert not engine.containers | engine.volumes
    assert not [*tmp_path.iterdir()]  # noqa: ASYNC240 (nobody waits)
