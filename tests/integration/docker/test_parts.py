"""The real parts that other tests stand on: engine, image, registries."""

from __future__ import annotations

import docker
import pytest
from tests.support.docker_engine import DockerEngine
from tests.support.registry import Registry

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(600)]


def test_the_image_has_heliograph_and_an_offer_is_missed(docker_engine: DockerEngine, runtime_image: str) -> None:
    client = docker_engine.client()
    try:
        told = client.containers.run(
            runtime_image, ["python", "-c", "import heliograph; print(heliograph.__version__)"]
        )
        assert told.decode().strip()
        with pytest.raises(docker.errors.ContainerError, match="there is nothing to run"):
            client.containers.run(runtime_image, ["python", "-m", "heliograph_agents.container"], remove=True)
    finally:
        client.close()


def test_a_protected_registry_wants_a_login(
    docker_engine: DockerEngine, runtime_image: str, protected_registry: Registry
) -> None:
    client = docker_engine.client(timeout=300)
    name = f"{protected_registry.address}/runtime"
    login = {"username": protected_registry.user, "password": protected_registry.password}
    try:
        client.images.get(runtime_image).tag(name, "1")
        told = list(client.images.push(name, "1", stream=True, decode=True))
        assert any("error" in line for line in told)
        told = list(client.images.push(name, "1", stream=True, decode=True, auth_config=login))
        assert not any("error" in line for line in told)
        client.images.remove(f"{name}:1")
        with pytest.raises(docker.errors.APIError):
            client.images.pull(name, "1")
        assert client.images.pull(name, "1", auth_config=login)
    finally:
        client.close()
