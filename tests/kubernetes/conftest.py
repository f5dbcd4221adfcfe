"""Tests on a real cluster: `make test-k8s`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.contract.launchers.cluster_ground import ClusterGround
from tests.support.control_plane import ControlPlaneProcess, control_plane_process
from tests.support.kubernetes.cluster import Cluster, cluster, cluster_image
from tests.support.registry import protected_registry
from tests.support.seaweed import s3_server

__all__ = ["cluster", "cluster_image", "protected_registry", "s3_server"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks all tests of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.k8s)
            item.add_marker(pytest.mark.timeout(900))
            item.add_marker(pytest.mark.xdist_group("k8s"))


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """A namespace of the test's own."""
    name = f"t-{uuid.uuid4().hex[:10]}"
    cluster.namespace(name)
    return name


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlaneProcess]:
    """A control plane that nobody hurts."""
    with control_plane_process(tmp_path_factory.mktemp("plane")) as process:
        yield process


@pytest.fixture
async def ground(
    request: pytest.FixtureRequest, tmp_path: Path, plane: ControlPlaneProcess
) -> AsyncIterator[ClusterGround]:
    """The launcher on a namespace of its own, with the rights of the printed Role; open."""
    made = ClusterGround(tmp_path, plane, request)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
