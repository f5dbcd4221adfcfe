"""Logins of registries: what `docker login` left, credential helpers, and for ECR a fresh token for each pull.

Asked for at every pull and never kept: a token of ECR lasts twelve hours, an agent for months.
"""

from __future__ import annotations

import base64
import re
from typing import Any

import docker.auth
import docker.errors

_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:amazonaws\.com|on\.aws)(?:\.cn)?"
)


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
    ecr = _ECR.fullmatch(registry)
    if ecr is not None and not helped:
        found = _ecr_login(ecr["account"], ecr["region"])
        if found:
            return found
    try:
        known: Any = config.resolve_authconfig(registry)
    except docker.errors.DockerException as error:
        raise LoginError(f"the credential helper of {registry} failed: {error}") from error
    return {str(key): str(value) for key, value in known.items() if value} if known else {}


def _ecr_login(account: str, region: str) -> dict[str, str]:
    """Returns a login of ECR; empty without credentials of AWS, when Docker's own configuration may know better."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    except ImportError as error:
        raise LoginError("to pull from ECR the agent needs boto3: pip install 'heliograph[aws]'") from error
    try:
        client: Any = boto3.session.Session().client("ecr", region_name=region)
        [data] = client.get_authorization_token(registryIds=[account])["authorizationData"]
        user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    except NoCredentialsError:
        return {}
    except (BotoCoreError, ClientError, ValueError, KeyError) as error:
        raise LoginError(f"AWS gives no login of ECR: {error}") from error
    return {"username": user, "password": password}
