"""What a signature says: this bundle, with these launch settings, is this flow of this project. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

CONTEXT = b"heliograph.bundle.v1\0"
"""Begins every signed text, so that no signature made for something else fits."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What is signed. The digests cover every byte that is loaded, and the launch settings with their image.

    Attributes:
        project: Name of the project: a bundle signed for one is worthless in another.
        flow: Name of the flow.
        storage: Kind of storage.
        location: Where the bundle is.
        digest: Of the bundle's manifest.
        launch_digest: Of the launch settings.
        image: Container image; empty means none.
        graph_hash: Of tasks, edges and parameter names.
        pickled: True when a pickle is loaded.
    """

    project: str
    flow: str
    storage: str
    location: str
    digest: str
    launch_digest: str
    image: str
    graph_hash: str
    pickled: bool

    def to_bytes(self) -> bytes:
        """Returns the signed bytes: one text for one statement, whoever makes it."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return CONTEXT + text.encode("ascii")
