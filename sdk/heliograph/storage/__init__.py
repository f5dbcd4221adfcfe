"""Where flows' bundles are: in the user's own storage, named by what they hold."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from heliograph.exceptions import StorageError
from heliograph.storage.base import BundleRef, Storage
from heliograph.storage.launch import LaunchSettings, launch_settings
from heliograph.storage.local import Local
from heliograph.storage.manifest import BundleFormat, Manifest
from heliograph.storage.s3 import S3

if TYPE_CHECKING:
    from heliograph.storage.git import Git

__all__ = [
    "S3",
    "BundleFormat",
    "BundleRef",
    "Git",
    "LaunchSettings",
    "Local",
    "Manifest",
    "Storage",
    "from_reference",
    "launch_settings",
]

_LATE = {"Git": "heliograph.storage.git"}
"""Imported when asked for: they need what most flows do not."""


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)


def from_reference(
    storage: str, location: str, client_options: Mapping[str, str] | None = None, *, host: str = ""
) -> Storage:
    """Returns the storage that a reference names, to fetch from.

    Args:
        storage: Kind: `local`, `s3`, `git`.
        location: A folder, `s3://bucket/prefix`, or a repository's address with what of it is meant.
        client_options: Keyword arguments of `boto3.client`; by default this machine's own settings are used.
        host: The host that has the folder, for messages.

    Raises:
        StorageError: If this installation does not know the kind, or the location is malformed.
    """
    if storage == Local.kind:
        return Local(location, host=host)
    if storage == "git":
        from heliograph.storage.git import Git

        return Git.at(location, host)
    if storage == S3.kind:
        scheme, _, rest = location.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise StorageError(f"{location!r} is no location of S3 storage: s3://bucket/prefix is expected")
        return S3(bucket, prefix, client_options=client_options)
    raise StorageError(f"storage of kind {storage!r} is not known here", hint="Upgrade heliograph here.")
