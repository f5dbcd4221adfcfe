"""Grounds of the launchers: every test of this folder runs on each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.contract.launchers.cluster_ground import ClusterGround
from tests.contract.launchers.docker_ground import DockerGround
from tests.contract.launchers.ecs_ground import EcsGround
from tests.contract.launchers.ground import Ground
from tests.contract.launchers.kubernetes_ground import KubernetesGround, OldKubernetesGround
from tests.contract.launchers.local_ground import LocalGround
from tests.support.control_plane import ControlPlaneProcess, control_plane_process
from tests.support.docker_engine import docker_engine
from tests.support.fargate.server import fargate
from tests.support.kubernetes.cluster import cluster, cluster_image
from tests.support.runtime_image import runtime_image

__all__ = ["cluster", "cluster_image", "docker_engine", "fargate", "runtime_image"]

GROUNDS: dict[str, type[Ground]] = {
    "local": LocalGround,
    "docker": DockerGround,
    "ecs": EcsGround,
    "kubernetes": KubernetesGround,
    "kubernetes-1.20": OldKubernetesGround,
    "cluster": ClusterGround,
}


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlaneProcess]:
    """A control plane for the tests that do not hurt it."""
    with control_plane_process(tmp_path_factory.mktemp("plane")) as process:
        yield process


GROUPS = {"docker": "docker", "ecs": "docker"}
"""Kinds that share a part with other tests, and its xdist group."""


FULL = {"kubernetes-1.20"}
"""Kinds for the full form: what is different about them has tests of its own in the quick one."""


def _marks(kind: str) -> list[pytest.MarkDecorator]:
    if kind == "cluster":  # which is built first: by `make test-k8s`, and nothing else
        return [pytest.mark.k8s, pytest.mark.xdist_group("k8s"), pytest.mark.timeout(900)]
    marks = [pytest.mark.xdist_group(GROUPS.get(kind, f"launcher-{kind}")), pytest.mark.timeout(600)]
    return [*marks, pytest.mark.full] if kind in FULL else marks


@pytest.fixture(params=[pytest.param(kind, marks=_marks(kind)) for kind in GROUNDS])
async def ground(request: pytest.FixtureRequest, tmp_path: Path, plane: ControlPlaneProcess) -> AsyncIterator[Ground]:
    """One kind of launcher, open."""
    made = GROUNDS[request.param](tmp_path, plane, request)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
