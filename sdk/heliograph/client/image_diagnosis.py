"""Looks whether a container image can be had: asks its registry for that very manifest, with Docker's logins.

A name that is spelled well, or a copy that lies on this machine, says nothing of the next pull. Only the registry's own
answer is called good. Nothing is pulled, and no engine is needed.
"""

from __future__ import annotations

import re

from heliograph.client.diagnosis import Finding
from heliograph.exceptions import HeliographError

LAYER = "image"

_FORM = re.compile(
    r"(?P<name>[^@:\s]+(?::[0-9]+/[^@:\s]+)?)(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def image_finding(image: str) -> Finding:
    """Asks an image's registry for it.

    Args:
        image: As a run config names it: `flows:1`, `registry.internal:5000/flows/base@sha256:…`.
    """
    from heliograph.storage.base import ObjectMissingError
    from heliograph.storage.http_client import HTTPError
    from heliograph.storage.registry_client import Repository

    try:
        host, name, reference = parse_image(image)
        repository = Repository(host, name, for_docker=True)
    except HeliographError as error:
        return Finding(LAYER, False, str(error), error.hint)
    logins = f"`docker login {host}` for the user of the agent; clusters and ECS have logins of their own."
    try:
        digest = repository.image_digest(reference)
    except ObjectMissingError:
        return Finding(
            LAYER, False, f"{host} has no {name} at {reference}",
            "Push it, or correct the name. A copy that an engine has runs there, as long as nothing is pulled.",
        )  # fmt: skip
    except HTTPError as error:
        if error.status in (401, 403):
            said = "refuses the login that is here" if repository.has_login else "wants a login, and none is here"
            return Finding(LAYER, False, f"{host} {said} ({error.status}): {name}", logins)
        return _unanswered(host, error)
    except HeliographError as error:
        return _unanswered(host, error)
    whose = "with the login that is here" if repository.has_login else "without a login"
    return Finding(LAYER, True, f"{host} has {name} at {reference}, and gives it {whose}: {digest}")


def parse_image(image: str) -> tuple[str, str, str]:
    """Returns registry, name there, and the digest or else the tag of an image.

    Raises:
        StorageError: It is no image's name.
    """
    from heliograph.exceptions import StorageError
    from heliograph.storage.registry_client import parse_repository

    found = _FORM.fullmatch(image)
    if found is None:
        raise StorageError(f"{image!r} is no name of an image", hint="HOST[:PORT]/NAME[:TAG][@sha256:…] is expected.")
    first, slash, _ = found["name"].partition("/")
    hosted = bool(slash) and (first == "localhost" or "." in first or ":" in first)
    host, name = parse_repository(found["name"] if hosted else f"docker.io/{found['name']}")
    return host, name, found["digest"] or found["tag"] or "latest"


def _unanswered(host: str, error: HeliographError) -> Finding:
    return Finding(
        LAYER, False, f"{host} gives this machine no answer: {error}",
        "See that the name is right and the way there open. Where the engine goes another way (a mirror, a proxy,"
        " insecure-registries), only its own pull can tell.",
    )  # fmt: skip
