"""Where ledgers are: a folder or a bucket."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from heliograph.exceptions import ResultStoreError
from heliograph.ledger.segments import checked_run_id, in_order, segment_name, segment_order
from heliograph.utilities.files import write_atomically

__all__ = ["LedgerStore", "LocalLedgerStore", "open_store", "segment_name", "segment_order"]


class LedgerStore(Protocol):
    """Keeps segments by flow run and name."""

    def put(self, flow_run_id: str, name: str, data: bytes) -> None:
        """Writes a segment, whole. Raises ResultStoreError."""

    def names(self, flow_run_id: str) -> list[str]:
        """Returns the names of a run's segments, in order. Raises ResultStoreError."""

    def read(self, flow_run_id: str, name: str) -> bytes:
        """Reads a segment. Raises ResultStoreError."""


def open_store(description: Mapping[str, str]) -> LedgerStore:
    """Returns the store that launch settings describe.

    Args:
        description: `{"kind": "local", "dir": …}`, an empty folder meaning this machine's default for results, or
            `{"kind": "s3", "bucket": …, "prefix": …}` with `endpoint_url` and `region_name` where needed,
            `{"kind": "gcs", "bucket": …, "prefix": …}`, or `{"kind": "azure", "account_url": …, "container": …,
            "prefix": …}`.

    Raises:
        ResultStoreError: If the kind is not known.
    """
    kind = description.get("kind", "local")
    if kind == "local":
        from heliograph.engine.results import default_results_dir

        return LocalLedgerStore(description.get("dir") or default_results_dir())
    if kind in ("s3", "gcs", "azure") and (description.get("bucket") or description.get("container")):
        from heliograph.ledger.object_store import object_store

        return object_store(kind, description)
    raise ResultStoreError(f"a ledger of kind {kind!r} is not known here", hint="Upgrade heliograph here.")


class LocalLedgerStore:
    """Segments below `<dir>/ledger`, readable by their owner alone."""

    def __init__(self, dir: str | os.PathLike[str]) -> None:
        self.dir = Path(dir).expanduser().absolute()

    def put(self, flow_run_id: str, name: str, data: bytes) -> None:
        """Writes a segment to a file."""
        folder = self._folder(flow_run_id)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(folder / name, data, 0o600)
        except OSError as error:
            raise ResultStoreError(f"the ledger cannot be written to {folder}: {error}") from error

    def names(self, flow_run_id: str) -> list[str]:
        """Lists the folder of the run."""
        folder = self._folder(flow_run_id)
        try:
            found = [entry.name for entry in folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ResultStoreError(f"the ledger cannot be read from {folder}: {error}") from error
        return in_order(found)

    def read(self, flow_run_id: str, name: str) -> bytes:
        """Reads a file."""
        path = self._folder(flow_run_id) / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise ResultStoreError(f"the ledger cannot be read from {path}: {error}") from error

    def _folder(self, flow_run_id: str) -> Path:
        return self.dir / "ledger" / checked_run_id(flow_run_id)

    def __str__(self) -> str:
        return str(self.dir / "ledger")

    def __repr__(self) -> str:
        return f"LocalLedgerStore({str(self.dir)!r})"
