"""Objects in S3, or in a store that speaks its protocol."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from heliograph.context import context
from heliograph.core.task import Task
from heliograph.utilities.tasks import defaults_from_attrs

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class _S3(Task):
    """What the S3 tasks share.

    Args:
        bucket: Name of the bucket; a call may name another.
        boto_kwargs: Arguments of the boto3 client, `endpoint_url` for instance, which is otherwise taken from the
            setting `storage.s3_endpoint_url` or from `AWS_ENDPOINT_URL`.
        **kwargs: The options of `Task`.
    """

    def __init__(self, bucket: str | None = None, boto_kwargs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.bucket = bucket
        self.boto_kwargs = dict(boto_kwargs or {})
        super().__init__(**kwargs)

    def _client(self, credentials: Mapping[str, str] | None) -> S3Client:
        """Makes a client; without credentials, given or in the context's secrets, boto3 finds them its own way."""
        from heliograph.utilities.s3 import s3_client

        options = dict(self.boto_kwargs)
        credentials = credentials or (context.get("secrets") or {}).get("AWS_CREDENTIALS")
        if credentials:
            options["aws_access_key_id"] = credentials["ACCESS_KEY"]
            options["aws_secret_access_key"] = credentials["SECRET_ACCESS_KEY"]
            options["aws_session_token"] = credentials.get("SESSION_TOKEN")
        return s3_client(options)

    @staticmethod
    def _check_bucket(bucket: str | None) -> str:
        if not bucket:
            raise ValueError("a bucket is needed, in the constructor or in the call")
        return bucket


class S3Upload(_S3):
    """Writes an object.

    Args:
        bucket: Name of the bucket; a call may name another.
        boto_kwargs: Arguments of the boto3 client, `endpoint_url` for instance.
        upload_options: Arguments of `put_object`, `ContentType` for instance.
        **kwargs: The options of `Task`.
    """

    def __init__(
        self,
        bucket: str | None = None,
        boto_kwargs: Mapping[str, Any] | None = None,
        upload_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.upload_options = dict(upload_options or {})
        super().__init__(bucket, boto_kwargs, **kwargs)

    @defaults_from_attrs("bucket", "upload_options")
    def run(
        self,
        data: str | bytes,
        key: str | None = None,
        credentials: Mapping[str, str] | None = None,
        bucket: str | None = None,
        compression: str | None = None,
        upload_options: Mapping[str, Any] | None = None,
    ) -> str:
        """Writes `data` and returns the object's key.

        Args:
            data: The content; text is written as UTF-8.
            key: Name of the object; a random one by default.
            credentials: `ACCESS_KEY`, `SECRET_ACCESS_KEY` and perhaps `SESSION_TOKEN`.
            bucket: The bucket; by default that of the constructor.
            compression: `gzip`, or None.
            upload_options: Arguments of `put_object`; by default those of the constructor.

        Raises:
            ValueError: No bucket, or an unknown compression.
            botocore.exceptions.ClientError: S3 refused.
            ConfigurationError: boto3 is not installed.
        """
        bucket = self._check_bucket(bucket)
        body = data.encode() if isinstance(data, str) else data
        if _is_gzip(compression):
            body = gzip.compress(body)
        key = key or str(uuid.uuid4())
        self._client(credentials).put_object(Bucket=bucket, Key=key, Body=body, **(upload_options or {}))
        return key


class S3Download(_S3):
    """Reads an object."""

    @defaults_from_attrs("bucket")
    def run(
        self,
        key: str,
        credentials: Mapping[str, str] | None = None,
        bucket: str | None = None,
        compression: str | None = None,
        as_bytes: bool = False,
        version_id: str | None = None,
    ) -> str | bytes:
        """Returns an object's content.

        Args:
            key: Name of the object.
            credentials: `ACCESS_KEY`, `SECRET_ACCESS_KEY` and perhaps `SESSION_TOKEN`.
            bucket: The bucket; by default that of the constructor.
            compression: `gzip`, or None.
            as_bytes: True to return bytes, else text that is read as UTF-8.
            version_id: A version of the object; by default the newest.

        Raises:
            ValueError: No bucket, or an unknown compression.
            botocore.exceptions.ClientError: S3 refused, or there is no such object.
            ConfigurationError: boto3 is not installed.
        """
        bucket = self._check_bucket(bucket)
        packed = _is_gzip(compression)
        version: dict[str, Any] = {"VersionId": version_id} if version_id else {}
        body = self._client(credentials).get_object(Bucket=bucket, Key=key, **version)["Body"].read()
        if packed:
            body = gzip.decompress(body)
        return body if as_bytes else body.decode()


class S3List(_S3):
    """Lists objects."""

    @defaults_from_attrs("bucket")
    def run(
        self,
        prefix: str,
        delimiter: str = "",
        page_size: int = 1_000,
        max_items: int | None = None,
        credentials: Mapping[str, str] | None = None,
        bucket: str | None = None,
    ) -> list[str]:
        """Returns the keys that begin with `prefix`, in order.

        Args:
            prefix: Beginning of the keys.
            delimiter: Keys with this behind the prefix are left out.
            page_size: Keys asked for at a time.
            max_items: Most keys to return; by default all.
            credentials: `ACCESS_KEY`, `SECRET_ACCESS_KEY` and perhaps `SESSION_TOKEN`.
            bucket: The bucket; by default that of the constructor.

        Raises:
            ValueError: No bucket.
            botocore.exceptions.ClientError: S3 refused.
            ConfigurationError: boto3 is not installed.
        """
        bucket = self._check_bucket(bucket)
        pages = (
            self._client(credentials)
            .get_paginator("list_objects_v2")
            .paginate(
                Bucket=bucket,
                Prefix=prefix,
                Delimiter=delimiter,
                PaginationConfig={"PageSize": page_size, **({} if max_items is None else {"MaxItems": max_items})},
            )
        )
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def _is_gzip(compression: str | None) -> bool:
    if compression not in (None, "gzip"):
        raise ValueError(f"unknown compression {compression!r}; known is 'gzip'")
    return compression == "gzip"
