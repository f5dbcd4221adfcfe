"""Bundles in a bucket of Google Cloud Storage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.compat import accept_common, pickled, prefix_of
from heliograph.storage.objects import ObjectStorage
from heliograph.utilities.gcs import GCSObjects, is_bucket_name

__all__ = ["GCS"]


class GCS(ObjectStorage):
    """Bundles in a bucket of Google Cloud Storage.

    Credentials are those that Google's libraries find, on the author's machine and on the agent's: the service account
    of the machine, workload identity, `GOOGLE_APPLICATION_CREDENTIALS`, or `gcloud auth application-default login`.

    Args:
        bucket: Name of the bucket.
        prefix: What all keys begin with.
        project: Project that is billed for requests; by default the credentials' own. Agents use theirs.
        stored_as_script: False to load a pickle of the flow, as `pickle=True`.
        local_script_path: The file that has the flow; found when not given.
        key: Prefect 1's name for the place: the same as `prefix`.
        project_root: Folder that goes into the bundle; found from the flow's file when not given.
        pickle: True to load a pickle of the flow instead of its file.
    """

    kind: ClassVar[str] = "gcs"

    def __init__(
        self,
        bucket: str,
        prefix: str | None = None,
        project: str | None = None,
        stored_as_script: bool | None = None,
        local_script_path: str | os.PathLike[str] | None = None,
        *,
        key: str | None = None,
        project_root: str | os.PathLike[str] | None = None,
        pickle: bool = False,
        **prefect: Any,
    ) -> None:
        accept_common("GCS", prefect)
        super().__init__(
            prefix_of("GCS", prefix, "key", key),
            project_root=project_root,
            pickle=pickled("GCS", stored_as_script, pickle),
            flow_file=local_script_path,
        )
        if not is_bucket_name(bucket):
            raise InvalidArgumentError(f"{bucket!r} is no name of a bucket")
        self.bucket = bucket
        self.project = project

    @classmethod
    def at(cls, location: str, host: str = "") -> GCS:
        """Returns the storage of `gs://bucket/prefix`."""
        scheme, _, rest = location.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "gs" or not is_bucket_name(bucket) or host:
            raise StorageError(f"{location!r} is no location of GCS storage: gs://bucket/prefix is expected")
        return cls(bucket, prefix)

    @property
    def location(self) -> str:
        """`gs://bucket/prefix`."""
        return f"gs://{self.bucket}/{self.prefix}" if self.prefix else f"gs://{self.bucket}"

    def ledger(self) -> Mapping[str, str]:
        """Returns where ledgers go when a flow's result does not say: beside the bundles."""
        return {"kind": "gcs", "bucket": self.bucket, "prefix": self.prefix}

    def _open_objects(self) -> GCSObjects:
        return GCSObjects(self.bucket, self.project)
