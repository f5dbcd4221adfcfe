"""A Docker Engine, registries and the image of this checkout."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from tests.support.docker_engine import docker_engine
from tests.support.registry import protected_registry, registry
from tests.support.runtime_image import runtime_image
from tests.support.seaweed import s3_server

__all__ = ["docker_engine", "protected_registry", "registry", "runtime_image", "s3_server"]


@pytest.fixture
def swept() -> Iterator[None]:
    """Collects at the end: the SDK leaves sockets open on which nobody answered, and the warning belongs here."""
    yield
    gc.collect()
