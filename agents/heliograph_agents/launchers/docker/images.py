"""Images: when one is pulled, what the registry says of it, and the digest by which it is then run."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import docker.auth

from heliograph.engine.codes import FailureCode
from heliograph_agents.launcher import LaunchError
from heliograph_agents.launchers.docker.engine import Engine, EngineRefusedError
from heliograph_agents.launchers.docker.logins import LoginError, login_for

_log = logging.getLogger("heliograph.agent")

TRIES = 3
"""How often a pull is tried whose trouble may pass."""

PAUSE_SECONDS = 2.0

_FINAL = (
    "not found", "manifest unknown", "denied", "unauthorized", "no basic auth", "invalid reference", "no matching",
    "does not exist", "authentication required", "not implemented",
)  # fmt: skip
"""What registries say that they will say again."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the engine has.

    Attributes:
        reference: What containers are made from: the repository with its digest, or the image's own id where it was
            never in a registry.
        user: User that it names.
    """

    reference: str
    user: str


def provide(engine: Engine, name: str, policy: str, platform: str) -> Image:
    """Sees to it that the engine has an image, pulling it as the policy says.

    Raises:
        LaunchError: It is not to be had.
        OSError: The engine is away.
    """
    here = engine.image(name) if policy != "Always" else None
    if policy == "Never" and here is None:
        raise _unavailable(name, "it is not here, and the pull policy is Never")
    if policy in ("Always", "IfPossible") or here is None:
        trouble = _pull(engine, name, platform)
        found = engine.image(name)
        if trouble and (policy != "IfPossible" or found is None):
            raise _unavailable(name, trouble)
        if trouble:
            _log.warning("image %s cannot be pulled, the one that is here is used: %s", name, trouble)
        here = found
    if here is None:
        raise _unavailable(name, "it was pulled and is not here")
    return Image(_by_digest(name, here), str((here.get("Config") or {}).get("User") or ""))


def _pull(engine: Engine, name: str, platform: str) -> str:
    """Pulls. Returns what went wrong; empty when nothing did."""
    repository, tag = split(name)
    registry, _ = docker.auth.resolve_repository_name(repository)
    trouble = ""
    _log.info("pulling image %s", name)
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS * attempt)
        try:
            login = login_for(registry)
            trouble = _told(engine, repository, tag, platform, login)
        except LoginError as error:
            trouble = str(error)
        except EngineRefusedError as error:
            trouble = str(error)
        if not trouble or any(word in trouble.lower() for word in _FINAL):
            break
    return trouble


def _told(engine: Engine, repository: str, tag: str, platform: str, login: dict[str, str]) -> str:
    """Pulls once. The engine reports failures in the stream too, after an answer that says all is well."""
    for line in engine.pull(repository, tag, platform, login):
        if "error" in line:
            return str((line.get("errorDetail") or {}).get("message") or line["error"])
    return ""


def split(name: str) -> tuple[str, str]:
    """Returns repository and tag, or digest, of an image's name; the tag is `latest` where none is named."""
    repository, at, digest = name.partition("@")
    head, slash, tail = repository.rpartition("/")
    base, _, tag = tail.partition(":")
    if at:
        return head + slash + base, digest
    return head + slash + base, tag or "latest"


def _by_digest(name: str, found: dict[str, object]) -> str:
    repository, tag = split(name)
    digests = found.get("RepoDigests") or []
    assert isinstance(digests, list)
    for one in digests:
        there, _, digest = str(one).partition("@")
        if _plain(there) == _plain(repository) and (not tag.startswith("sha256:") or digest == tag):
            return f"{repository}@{digest}"
    return str(found["Id"])


def _plain(repository: str) -> str:
    return repository.removeprefix("docker.io/").removeprefix("library/")


def _unavailable(name: str, trouble: str) -> LaunchError:
    return LaunchError(f"image {name}: {trouble}", FailureCode.IMAGE_UNAVAILABLE)
