"""Results in an S3 bucket."""

from __future__ import annotations

from typing import Any

from heliograph.engine.result import Location
from heliograph.engine.results.object_result import ObjectResult
from heliograph.engine.serializers import Serializer
from heliograph.utilities.objects import Objects

__all__ = ["S3Result"]


class S3Result(ObjectResult):
    """A result in an S3 object.

    Args:
        bucket: Name of the bucket.
        boto3_kwargs: Keyword arguments of `boto3.client`, such as `endpoint_url`. Keep credentials out of it: boto3
            finds them in the environment, a profile or a role.
        upload_options: Passed to `put_object` (`ServerSideEncryption`, `StorageClass`, …).
        location: Key, or a template of one.
        serializer: How the value becomes bytes; cloudpickle when not given.
    """

    def __init__(
        self,
        bucket: str,
        boto3_kwargs: dict[str, Any] | None = None,
        upload_options: dict[str, Any] | None = None,
        location: Location | None = None,
        serializer: Serializer | None = None,
        value: Any = None,
    ) -> None:
        super().__init__(location, serializer, value)
        self.bucket = bucket
        self.boto3_kwargs = dict(boto3_kwargs or {})
        self.upload_options = dict(upload_options or {})

    def _open_objects(self) -> Objects:
        from heliograph.utilities.s3 import S3Objects

        return S3Objects(self.bucket, self.boto3_kwargs, self.upload_options)

    def describe_config(self) -> dict[str, str]:
        """Returns bucket, and endpoint and region where they are set."""
        told = {"bucket": self.bucket}
        for name in ("endpoint_url", "region_name"):
            if name in self.boto3_kwargs:
                told[name] = str(self.boto3_kwargs[name])
        return told
