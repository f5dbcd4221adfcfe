"""Where ledgers are: a folder or a bucket."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from heliograph.exceptions import ResultStoreError
from heliograph.ledger.segments import checked_run_id, in_order, segment_name, segment_order
from heliograph.utilities.files import write_atomically
from heliograph.utilities.s3 import s3_client, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["LedgerStore", "LocalLedgerStore", "S3LedgerStore", "open_store", "segment_name", "segment_order"]


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
    if kind == "s3" and description.get("bucket"):
        options = {name: description[name] for name in ("endpoint_url", "region_name") if description.get(name)}
        return S3LedgerStore(description["bucket"], description.get("prefix", ""), options)
    if kind in ("gcs", "azure"):
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


class S3LedgerStore:
    """Segments below `<prefix>/ledger` in a bucket."""

    def __init__(self, bucket: str, prefix: str = "", client_options: Mapping[str, Any] | None = None) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self._options = dict(client_options or {})
        self._client: S3Client | None = None

    @property
    def client(self) -> S3Client:
        """The client, made at first use."""
        if self._client is None:
            self._client = s3_client(self._options)
        return self._client

    def put(self, flow_run_id: str, name: str, data: bytes) -> None:
        """Puts a segment."""
        key = self._key(flow_run_id) + name
        with s3_errors(ResultStoreError, f"the ledger cannot be written to s3://{self.bucket}/{key}"):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def names(self, flow_run_id: str) -> list[str]:
        """Lists the keys of the run."""
        prefix = self._key(flow_run_id)
        with s3_errors(ResultStoreError, f"the ledger cannot be read from s3://{self.bucket}/{prefix}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return in_order(item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", ()))

    def read(self, flow_run_id: str, name: str) -> bytes:
        """Gets a segment."""
        key = self._key(flow_run_id) + name
        with s3_errors(ResultStoreError, f"the ledger cannot be read from s3://{self.bucket}/{key}"):
            return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def _key(self, flow_run_id: str) -> str:
        return f"{self.prefix}/ledger/{checked_run_id(flow_run_id)}/".removeprefix("/")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}/ledger" if self.prefix else f"s3://{self.bucket}/ledger"

    def __repr__(self) -> str:
        return f"S3LedgerStore({self.bucket!r}, {self.prefix!r})"
