"""Storages with a fault each, which the suite must find. Importable, because authors that are killed unpickle them."""

from __future__ import annotations

import threading
from typing import Any

from heliograph.storage import BundleRef, LaunchSettings, Local

_meeting = threading.Barrier(4)


class ManifestFirst(Local):
    """Stores the manifest, which says that all is there, before the archive."""

    def put_bundle(self, bundle: Any, launch: LaunchSettings | None = None) -> BundleRef:
        """Stores it in the wrong order."""
        digest = bundle.manifest.digest.removeprefix("sha256:")
        self._put(f"bundles/sha256/{digest[:2]}/{digest}/manifest.json", bundle.manifest.to_json())
        return super().put_bundle(bundle, launch)


class Torn(Local):
    """Writes objects in place, in two pieces."""

    def _put(self, key: str, data: bytes, *, replace: bool = True) -> bool:
        path = self.directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[: len(data) // 2])
        with path.open("r+b") as stream:
            stream.write(data)
        return True


class Rewriting(Local):
    """Stores again what is there."""

    def _put(self, key: str, data: bytes, *, replace: bool = True) -> bool:
        (self.directory / key).unlink(missing_ok=True)
        return super()._put(key, data, replace=True)


class TwoSalts(Local):
    """Looks, and writes later."""

    def _put(self, key: str, data: bytes, *, replace: bool = True) -> bool:
        there = (self.directory / key).exists()
        if key.endswith("salt"):
            _meeting.wait(60)
        return False if there and not replace else super()._put(key, data, replace=True)
