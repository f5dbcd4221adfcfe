"""Results in an S3 bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from heliograph.engine.result import Location, Result
from heliograph.engine.results.local_result import default_location
from heliograph.engine.serializers import Serializer
from heliograph.exceptions import ResultStoreError
from heliograph.utilities.s3 import is_missing, s3_client, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["S3Result"]


class S3Result(Result):
    """A result in an S3 object.

    Args:
        bucket: Name of the bucket.
        boto3_kwargs: Keyword arguments of `boto3.client`, such as `endpoint_url`. Keep credentials out of it: boto3
            finds them in the environment, a profile or a role.
        upload_options: Passed to `put_object` (`ServerSideEncryption`, `StorageClass`, …).
        location: Key, or a template of one.
        serializer: How the value becomes bytes; cloudpickle when not given.
    """

    stores: ClassVar[bool] = True

    def __init__(
        self,
        bucket: str,
        boto3_kwargs: dict[str, Any] | None = None,
        upload_options: dict[str, Any] | None = None,
        location: Location | None = None,
        serializer: Serializer | None = None,
        value: Any = None,
    ) -> None:
        super().__init__(value, location, serializer)
        self.bucket = bucket
        self.boto3_kwargs = dict(boto3_kwargs or {})
        self.upload_options = dict(upload_options or {})
        self._client: S3Client | None = None

    @property
    def client(self) -> S3Client:
        """The client, made at first use and never pickled."""
        if self._client is None:
            self._client = s3_client(self.boto3_kwargs)
        return self._client

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def write(self, value_: Any, **kwargs: Any) -> Result:
        """Puts the value into the bucket; `location` of what is returned is the key."""
        key = self._render(self.location, kwargs) if self.location is not None else default_location()
        data = self._serialize(value_)
        with s3_errors(ResultStoreError, f"the result cannot be written to s3://{self.bucket}/{key}"):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data, **self.upload_options)
        return self._with(value_, key, len(data))

    def read(self, location: str) -> Result:
        """Reads the object with the key `location`."""
        with s3_errors(ResultStoreError, f"the result cannot be read from s3://{self.bucket}/{location}"):
            data = self.client.get_object(Bucket=self.bucket, Key=location)["Body"].read()
        return self._with(self._deserialize(data, f"s3://{self.bucket}/{location}"), location, len(data))

    def exists(self, location: str, **kwargs: Any) -> bool:
        """Returns True when the object is there; an error other than its absence is raised."""
        from botocore.exceptions import ClientError

        key = self._render(location, kwargs)
        with s3_errors(ResultStoreError, f"it cannot be told whether there is a result at s3://{self.bucket}/{key}"):
            try:
                self.client.head_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if is_missing(error):
                    return False
                raise
        return True

    def describe_config(self) -> dict[str, str]:
        """Returns bucket, and endpoint and region where they are set."""
        told = {"bucket": self.bucket}
        for name in ("endpoint_url", "region_name"):
            if name in self.boto3_kwargs:
                told[name] = str(self.boto3_kwargs[name])
        return told
