"""The one way to an S3 client, shared by results, bundle storage and the ledger."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from heliograph.exceptions import HeliographError
from heliograph.utilities.aws import aws_client, error_code
from heliograph.utilities.objects import Head, ObjectGoneError, Objects

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["S3Objects", "s3_client", "s3_errors"]

_DENIED = frozenset({"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_OTHERWISE = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_CHUNK_BYTES = 1024 * 1024
_ATTEMPTS = 3
_MD5_HEX = 32


def s3_client(options: Mapping[str, Any] | None = None) -> S3Client:
    """Makes a client. Credentials come from boto3's own chain: environment, profile, role.

    Args:
        options: Keyword arguments of `boto3.client`; `endpoint_url` defaults to the setting `storage.s3_endpoint_url`,
            then to `AWS_ENDPOINT_URL`, then to Amazon's.

    Raises:
        ConfigurationError: If boto3 is not installed, or refuses the options.
    """
    from heliograph.config import config

    given = dict(options or {})
    if endpoint := config().storage.s3_endpoint_url:
        given.setdefault("endpoint_url", endpoint)
    return cast("S3Client", aws_client("s3", given, name="S3", region="us-east-1"))


class S3Objects(Objects):
    """Objects in a bucket.

    Args:
        bucket: Name of the bucket.
        client_options: Keyword arguments of `boto3.client`; see `s3_client`.
        upload_options: Passed to `put_object` (`ServerSideEncryption`, `StorageClass`, …).

    Attributes:
        client: The client.

    Raises:
        ConfigurationError: If boto3 is not installed, or refuses the options.
    """

    def __init__(
        self,
        bucket: str,
        client_options: Mapping[str, Any] | None = None,
        upload_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._bucket = bucket
        self._upload_options = dict(upload_options or {})
        self.client = s3_client(client_options)

    def address(self, key: str = "") -> str:
        """Returns `s3://bucket/key`."""
        return f"s3://{self._bucket}/{key}" if key else f"s3://{self._bucket}"

    def head(self, key: str) -> Head | None:
        """Looks at an object."""
        from botocore.exceptions import ClientError

        try:
            found = self.client.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error_code(error) in _MISSING:  # a missing bucket is a mistake, not absence
                return None
            raise
        tag = found["ETag"].strip('"')
        # With some encryption, and for uploads in parts, the tag is no digest: then the length has to do.
        plain = len(tag) == _MD5_HEX and "ServerSideEncryption" not in found
        return Head(found["ContentLength"], bytes.fromhex(tag) if plain else None, found["ETag"])

    def write(self, key: str, data: bytes, *, over: str | None = "") -> bool:
        """Writes an object; without its condition where the server knows none."""
        from botocore.exceptions import ClientError

        target: dict[str, Any] = {"Bucket": self._bucket, "Key": key, "Body": data, **self._upload_options}
        condition: dict[str, Any] = {} if over is None else {"IfMatch": over} if over else {"IfNoneMatch": "*"}
        try:
            self.client.put_object(**target, **condition)
        except ClientError as error:
            code = error_code(error)
            if code in _OTHERWISE or (over and code in _MISSING):
                return False
            if code != "NotImplemented" or not condition:
                raise
            self.client.put_object(**target)
        return True

    def read(self, key: str, target: IO[bytes]) -> None:
        """Reads an object, all of it again after a connection that broke: boto3 asks again before an answer only."""
        from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

        for attempt in range(_ATTEMPTS):
            target.seek(0)
            target.truncate()
            try:
                answer = self.client.get_object(Bucket=self._bucket, Key=key)
                for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):
                    target.write(chunk)
            except ClientError as error:
                if error_code(error) in _MISSING:
                    raise ObjectGoneError from error
                raise
            except (HTTPClientError, IncompleteReadError):
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
            else:
                return

    def names(self, prefix: str) -> Iterator[str]:
        """Lists keys."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                yield item["Key"]

    def errors(self, kind: type[HeliographError], message: str) -> AbstractContextManager[None]:
        """Turns boto3's exceptions into `kind`."""
        return s3_errors(kind, message)


@contextmanager
def s3_errors(kind: type[HeliographError], message: str) -> Iterator[None]:
    """Turns whatever boto3 raises in the block into `kind`, with S3's own code and message behind `message`."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (BotoCoreError, ClientError, HTTPError) as error:
        code = error_code(error)
        hint = "Check the way to the server, and this machine's credentials for it."
        if code in _DENIED:
            hint = "Check the credentials and the bucket's policy."
        elif code == "NoSuchBucket":
            hint = "Make the bucket, or correct its name."
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            hint = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this host a role."
        raise kind(f"{message}: {error}", hint=hint) from error
