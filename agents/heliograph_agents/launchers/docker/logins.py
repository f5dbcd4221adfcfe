"""Logins of registries: what `docker login` left, credential helpers, and for ECR a fresh token for each pull.

Asked for at every pull and never kept: a token of ECR lasts twelve hours, an agent for months.
"""

from __future__ import annotations

from typing import Any

import docker.auth
import docker.errors

from heliograph.exceptions import StorageError
from heliograph.storage.registry_login import ecr_login


class LoginError(Exception):
    """There is a way to log in, and it failed."""


def login_for(registry: str) -> dict[str, str]:
    """Returns the login of a registry; empty when there is none.

    Args:
        registry: Host and port, or `docker.io`.

    Raises:
        LoginError: A helper or AWS refuses.
    """
    config = docker.auth.load_config()
    helped = bool(config.get_credential_store(registry))
    try:
        found = None if helped else ecr_login(registry)
    except StorageError as error:
        raise LoginError(f"{error}; {error.hint}" if error.hint else str(error)) from error
    if found is not None:
        return {"username": found.user, "password": found.password}
    try:
        known: Any = config.resolve_authconfig(registry)
    except docker.errors.DockerException as error:
        raise LoginError(f"the credential helper of {registry} failed: {error}") from error
    return {str(key): str(value) for key, value in known.items() if value} if known else {}
