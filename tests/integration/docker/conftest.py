"""A Docker Engine, registries and the image of this checkout."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.registry import protected_registry, registry
from tests.support.runtime_image import runtime_image
from tests.support.seaweed import s3_server
from tests.support.sshd import SshClient, Sshd, make_key, running_sshd

__all__ = ["docker_engine", "protected_registry", "registry", "runtime_image", "s3_server"]


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Docker configuration folder with nothing in it, and no other word of an engine."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "docker-config"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder


@pytest.fixture(scope="session")
def sshd(docker_engine: DockerEngine) -> Iterator[Sshd]:
    """A server whose users reach the engine."""
    with running_sshd({"DOCKER_HOST": docker_engine.url}) as server:
        yield server


@pytest.fixture
def ssh_user(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody: Path) -> SshClient:
    """A user with a key that the server accepts."""
    make_key(tmp_path / "id")
    sshd.accept(tmp_path / "id")
    client = SshClient(tmp_path / "user", sshd, tmp_path / "id")
    monkeypatch.setenv("PATH", client.path)
    assert nobody.is_dir(), "no other word of an engine"
    return client


@pytest.fixture
def swept() -> Iterator[None]:
    """Collects at the end: the SDK leaves sockets open on which nobody answered, and the warning belongs here."""
    yield
    gc.collect()
