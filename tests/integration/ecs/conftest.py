"""A double of Fargate over a Docker Engine, S3, and the image of this checkout."""

from __future__ import annotations

from tests.support.docker_engine import docker_engine
from tests.support.fargate.server import fargate
from tests.support.runtime_image import runtime_image
from tests.support.seaweed import s3_server

__all__ = ["docker_engine", "fargate", "runtime_image", "s3_server"]
