"""Bundles in an S3 bucket."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.compat import accept_common, pickled, prefix_of
from heliograph.storage.objects import ObjectStorage
from heliograph.utilities.s3 import S3Objects

__all__ = ["S3"]


class S3(ObjectStorage):
    """Bundles in a bucket.

    Args:
        bucket: Name of the bucket.
        prefix: What all keys begin with; by default `heliograph`.
        stored_as_script: False to load a pickle of the flow, as `pickle=True`.
        local_script_path: The file that has the flow; found when not given.
        client_options: Keyword arguments of `boto3.client`, such as `endpoint_url` and `region_name`. Agents
            do not get them: they use `AWS_ENDPOINT_URL` or the setting `storage.s3_endpoint_url`. Keep credentials out.
        upload_options: Passed to `put_object`.
        key: Prefect 1's name for the place: the same as `prefix`.
        project_root: Folder that goes into the bundle; found from the flow's file when not given.
        pickle: True to load a pickle of the flow instead of its file.
    """

    kind: ClassVar[str] = "s3"

    def __init__(
        self,
        bucket: str,
        prefix: str | None = None,
        stored_as_script: bool | None = None,
        local_script_path: str | os.PathLike[str] | None = None,
        client_options: Mapping[str, Any] | None = None,
        upload_options: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        project_root: str | os.PathLike[str] | None = None,
        pickle: bool = False,
        **prefect: Any,
    ) -> None:
        accept_common("S3", prefect)
        super().__init__(
            prefix_of("S3", prefix, "key", key),
            project_root=project_root,
            pickle=pickled("S3", stored_as_script, pickle),
            flow_file=local_script_path,
        )
        if not bucket or set(bucket) & set("/?#@: "):
            raise InvalidArgumentError(f"{bucket!r} is no name of a bucket")
        self.bucket = bucket
        self.client_options = dict(client_options or {})
        self.upload_options = dict(upload_options or {})

    @classmethod
    def at(cls, location: str, host: str = "") -> S3:
        """Returns the storage of `s3://bucket/prefix`."""
        scheme, _, rest = location.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket or host:
            raise StorageError(f"{location!r} is no location of S3 storage: s3://bucket/prefix is expected")
        return cls(bucket, prefix)

    @property
    def location(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    def ledger(self) -> Mapping[str, str]:
        """Returns where ledgers go when a flow's result does not say: beside the bundles."""
        told = {"kind": "s3", "bucket": self.bucket, "prefix": self.prefix}
        for name in ("endpoint_url", "region_name"):
            if name in self.client_options:
                told[name] = str(self.client_options[name])
        return told

    def _open_objects(self) -> S3Objects:
        return S3Objects(self.bucket, self.client_options, self.upload_options)
