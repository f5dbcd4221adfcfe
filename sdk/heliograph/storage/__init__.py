"""Where flows' bundles are: in the user's own storage, named by what they hold."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.base import BundleRef, Storage
from heliograph.storage.launch import LaunchSettings, launch_settings
from heliograph.storage.local import Local
from heliograph.storage.manifest import BundleFormat, Manifest
from heliograph.storage.places import check_location
from heliograph.storage.s3 import S3

if TYPE_CHECKING:
    from heliograph.storage.azure import Azure
    from heliograph.storage.bitbucket import Bitbucket
    from heliograph.storage.codecommit import CodeCommit
    from heliograph.storage.docker import Docker
    from heliograph.storage.gcs import GCS
    from heliograph.storage.git import Git
    from heliograph.storage.github import GitHub
    from heliograph.storage.gitlab import GitLab
    from heliograph.storage.http import HTTP, Webhook
    from heliograph.storage.module import Module
    from heliograph.storage.oci import OCI

__all__ = [
    "GCS",
    "HTTP",
    "OCI",
    "S3",
    "Azure",
    "Bitbucket",
    "BundleFormat",
    "BundleRef",
    "CodeCommit",
    "Docker",
    "Git",
    "GitHub",
    "GitLab",
    "LaunchSettings",
    "Local",
    "Manifest",
    "Module",
    "Storage",
    "Webhook",
    "from_reference",
    "launch_settings",
]

_HERE = "heliograph.storage"
_KINDS = {
    "azure": ("azure", "Azure"),
    "bitbucket": ("bitbucket", "Bitbucket"),
    "codecommit": ("codecommit", "CodeCommit"),
    "gcs": ("gcs", "GCS"),
    "docker": ("docker", "Docker"),
    "git": ("git", "Git"),
    "github": ("github", "GitHub"),
    "gitlab": ("gitlab", "GitLab"),
    "http": ("http", "HTTP"),
    "local": ("local", "Local"),
    "module": ("module", "Module"),
    "oci": ("oci", "OCI"),
    "s3": ("s3", "S3"),
}
"""Kinds of storage: the module here, and the class, whose `at(location, host)` opens references."""

_LATE = {name: f"{_HERE}.{module}" for module, name in _KINDS.values() if name not in globals()}
_LATE["Webhook"] = _LATE["HTTP"]
"""Imported when asked for: they need what most flows do not."""


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)


def from_reference(storage: str, location: str, *, host: str = "") -> Storage:
    """Returns the storage that a reference names, to fetch from.

    Args:
        storage: Kind: `local`, `s3`, `gcs`, `azure`, `git`, `github`, `gitlab`, `bitbucket`, `codecommit`, `oci`,
            `docker`, `module`, `http`.
        location: A folder, `s3://bucket/prefix`, `oci://host/name@sha256:…`, or a repository's address with what of it
            is meant.
        host: The host that has the folder, for messages.

    Raises:
        StorageError: If this installation does not know the kind, or the location is malformed.
    """
    if storage not in _KINDS:
        raise StorageError(f"storage of kind {storage!r} is not known here", hint="Upgrade heliograph here.")
    check_location(storage, location)
    module, name = _KINDS[storage]
    kind: type[Storage] = getattr(importlib.import_module(f"{_HERE}.{module}"), name)
    try:
        return kind.at(location, host)
    except InvalidArgumentError as error:
        raise StorageError(str(error), hint=error.hint or "Register the flow again.") from error
