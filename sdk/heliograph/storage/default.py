"""The storage of flows that name none: the registry of their image, else the default folder of this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliograph.storage.base import Storage
from heliograph.storage.local import Local

if TYPE_CHECKING:
    from heliograph.core.flow import Flow

__all__ = ["repository_of", "storage_of"]


def storage_of(flow: Flow) -> tuple[Storage, str]:
    """Returns the flow's storage; and for one that was chosen because of its image, which one and why."""
    if flow.storage is not None:
        return flow.storage, ""
    image = str(getattr(flow.run_config, "image", "") or "")
    repository = repository_of(image)
    if not repository:
        return Local(), ""
    from heliograph.storage.oci import OCI

    storage = OCI(repository)
    return storage, f"no storage is named, so the bundle is beside the image: {storage.location}"


def repository_of(image: str) -> str:
    """Returns the repository of an image whose name says the registry; empty for other names.

    A name without a host, like `python:3.12`, is one of Docker Hub, mostly of somebody else.
    """
    name = image.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    host = name.partition("/")[0]
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        return ""
    return f"{head}/{tail.partition(':')[0]}"
