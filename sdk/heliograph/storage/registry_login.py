"""Logins of OCI registries: what `docker login` left, credential helpers, bound secrets, and for ECR a fresh token.

Asked for at every storing and fetching and never kept: a token of ECR lasts twelve hours, an agent for months.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heliograph.exceptions import StorageError
from heliograph.storage.credentials import bound_secret, secret_text

__all__ = ["Login", "docker_login_for", "ecr_login", "login_for"]

HELPER_SECONDS = 60.0
DOCKER_HUB = "docker.io"
_HUB_NAMES = ("https://index.docker.io/v1/", "index.docker.io", DOCKER_HUB, "registry-1.docker.io")
_HELPER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:amazonaws\.com|on\.aws)(?:\.cn)?"
)


@dataclass(frozen=True, slots=True)
class Login:
    """A user with a password, or a token that a registry's token server changes into one."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The header's value; empty when there is no user."""
        if not self.user:
            return ""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def login_for(host: str, repository: str = "", secret: str = "") -> Login | None:
    """Returns the login of a registry; None when there is none.

    Looked for, in this order: the secret of the given name, the one that `storage.tokens` binds to the host, Docker's
    configuration with its helpers, and for ECR AWS' credentials.

    Args:
        host: Host and port, or `docker.io`.
        repository: Name in the registry: logins may be for what begins with it.
        secret: Name of a secret, `user:password`.

    Raises:
        StorageError: There is a way to log in, and it failed.
    """
    name = secret or bound_secret(host, repository)
    if name:
        user, mark, password = secret_text(name).partition(":")
        if not mark:
            raise StorageError(f"the secret {name!r} for {host} is not of the form user:password")
        return Login(user, password)
    return docker_login_for(host, repository)


def docker_login_for(host: str, repository: str = "") -> Login | None:
    """Returns the login that Docker has for a registry, or AWS for its own; None when there is none.

    Args:
        host: Host and port, or `docker.io`.
        repository: Name in the registry, for logins of what begins with it: those are other tools', not the engine's.

    Raises:
        StorageError: There is a way to log in, and it failed.
    """
    known = _docker_config()
    helper = _helper_of(known, host)
    if helper:
        return _ask_helper(helper, host)
    ecr = ecr_login(host)
    return ecr if ecr is not None else _kept(known, host, repository)


def ecr_login(host: str) -> Login | None:
    """Returns a login of ECR; None for other registries, and without credentials of AWS.

    Raises:
        StorageError: boto3 is missing, or AWS refuses.
    """
    place = _ECR.fullmatch(host)
    if place is None:
        return None
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    except ImportError as error:
        raise StorageError("ECR needs boto3", hint="pip install 'heliograph[aws]'") from error
    try:
        client: Any = boto3.session.Session().client("ecr", region_name=place["region"])
        [data] = client.get_authorization_token(registryIds=[place["account"]])["authorizationData"]
        user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    except NoCredentialsError:
        return None
    except (BotoCoreError, ClientError, ValueError, KeyError) as error:
        raise StorageError(f"AWS gives no login of ECR: {error}") from error
    return Login(user, password)


def _docker_config() -> Mapping[str, Any]:
    folder = os.environ.get("DOCKER_CONFIG") or str(Path.home() / ".docker")
    path = Path(folder) / "config.json"
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {type(error).__name__}") from None
    if not isinstance(document, dict):
        raise StorageError(f"{path} is no configuration of Docker")
    return document


def _names(host: str) -> tuple[str, ...]:
    if host in _HUB_NAMES:
        return _HUB_NAMES
    return (host, f"https://{host}", f"http://{host}", f"https://{host}/v2/", f"https://{host}/v1/")


def _helper_of(known: Mapping[str, Any], host: str) -> str:
    helpers = known.get("credHelpers")
    for name in _names(host):
        if isinstance(helpers, dict) and helpers.get(name):
            return str(helpers[name])
    return str(known.get("credsStore") or "")


def _ask_helper(helper: str, host: str) -> Login | None:
    if not _HELPER.fullmatch(helper):
        raise StorageError(f"{helper!r} is no name of a credential helper")
    server = _HUB_NAMES[0] if host in _HUB_NAMES else host
    command = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [command, "get"], input=server, capture_output=True, text=True, timeout=HELPER_SECONDS, check=False
        )
    except FileNotFoundError:
        raise StorageError(
            f"the credential helper {command} for {host} is not here", hint="Install it, or take it out of config.json."
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StorageError(f"the credential helper {command} failed: {type(error).__name__}") from None
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[:200]
        if "not found" in said:
            return None
        raise StorageError(f"the credential helper {command} failed for {host}: {said or done.returncode}")
    try:
        told = json.loads(done.stdout)
        user, text = str(told["Username"]), str(told["Secret"])
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"the credential helper {command} answers with something else than a login") from None
    return Login(identity_token=text) if user == "<token>" else Login(user, text)


def _kept(known: Mapping[str, Any], host: str, repository: str) -> Login | None:
    auths = known.get("auths")
    if not isinstance(auths, dict):
        return None
    parts = repository.split("/") if repository else []
    # The longest path wins, as in other tools that read this file.
    wanted = [f"{host}/{'/'.join(parts[:count])}" for count in range(len(parts), 0, -1)]
    for name in (*wanted, *_names(host)):
        entry = auths.get(name)
        if not isinstance(entry, dict):
            continue
        if entry.get("identitytoken"):
            return Login(identity_token=str(entry["identitytoken"]))
        if entry.get("auth"):
            try:
                user, mark, password = base64.b64decode(str(entry["auth"])).decode().partition(":")
            except ValueError:
                mark = ""
            if not mark:
                raise StorageError(f"Docker's configuration has a malformed login for {name}", hint="docker login")
            return Login(user, password.rstrip("\0"))
        if entry.get("username"):
            return Login(str(entry["username"]), str(entry.get("password", "")))
    return None
