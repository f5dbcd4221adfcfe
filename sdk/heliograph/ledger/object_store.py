"""Ledgers in clouds' object stores."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

from heliograph.exceptions import ConfigurationError, ResultStoreError
from heliograph.ledger.segments import checked_run_id, in_order
from heliograph.utilities.objects import ObjectGoneError, Objects

__all__ = ["ObjectLedgerStore", "object_store"]


class ObjectLedgerStore:
    """Segments below `<prefix>/ledger` in a bucket or container.

    Args:
        open_objects: Opens the bucket, at first use.
        prefix: What all keys begin with.
    """

    def __init__(self, open_objects: Callable[[], Objects], prefix: str = "") -> None:
        self.prefix = prefix.strip("/")
        self._open_objects = open_objects
        self._opened: Objects | None = None

    @property
    def objects(self) -> Objects:
        """The bucket."""
        if self._opened is None:
            try:
                self._opened = self._open_objects()
            except ConfigurationError as error:
                raise ResultStoreError(str(error), hint=error.hint) from error
        return self._opened

    def put(self, flow_run_id: str, name: str, data: bytes) -> None:
        """Writes a segment."""
        key = self._key(flow_run_id) + name
        with self.objects.errors(ResultStoreError, f"the ledger cannot be written to {self.objects.address(key)}"):
            self.objects.write(key, data, over=None)

    def names(self, flow_run_id: str) -> list[str]:
        """Lists the keys of the run."""
        prefix = self._key(flow_run_id)
        with self.objects.errors(ResultStoreError, f"the ledger cannot be read from {self.objects.address(prefix)}"):
            return in_order(key.removeprefix(prefix) for key in self.objects.names(prefix))

    def read(self, flow_run_id: str, name: str) -> bytes:
        """Reads a segment."""
        key = self._key(flow_run_id) + name
        message = f"the ledger cannot be read from {self.objects.address(key)}"
        buffer = io.BytesIO()
        try:
            with self.objects.errors(ResultStoreError, message):
                self.objects.read(key, buffer)
        except ObjectGoneError as error:
            raise ResultStoreError(f"{message}: it is not there") from error
        return buffer.getvalue()

    def _key(self, flow_run_id: str) -> str:
        return f"{self.prefix}/ledger/{checked_run_id(flow_run_id)}/".removeprefix("/")

    def __str__(self) -> str:
        return self.objects.address(f"{self.prefix}/ledger".removeprefix("/"))

    def __repr__(self) -> str:
        return f"ObjectLedgerStore({self.prefix!r})"


def object_store(kind: str, description: Mapping[str, str]) -> ObjectLedgerStore:
    """Returns the store of kind `s3`, `gcs` or `azure` that launch settings describe."""
    prefix = description.get("prefix", "")
    if kind == "s3":

        def amazon() -> Objects:
            from heliograph.utilities.s3 import S3Objects

            options = {name: description[name] for name in ("endpoint_url", "region_name") if description.get(name)}
            return S3Objects(description.get("bucket", ""), options)

        return ObjectLedgerStore(amazon, prefix)
    if kind == "gcs":

        def bucket() -> Objects:
            from heliograph.utilities.gcs import GCSObjects

            return GCSObjects(description.get("bucket", ""))

        return ObjectLedgerStore(bucket, prefix)

    def container() -> Objects:
        from heliograph.utilities.azure_blobs import AzureObjects, azure_login

        account = description.get("account_url", "")
        return AzureObjects(account, description.get("container", ""), azure_login(account))

    return ObjectLedgerStore(container, prefix)
