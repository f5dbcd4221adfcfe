"""Bundles in an S3 bucket."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any, BinaryIO, ClassVar, cast

from heliograph.config import config
from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.base import ObjectMissingError, Storage
from heliograph.storage.compat import accept_common, pickled, prefix_of
from heliograph.storage.objects import checked_prefix
from heliograph.utilities.s3 import error_code, is_missing, s3_client, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["S3"]

_CHUNK_BYTES = 1024 * 1024
_ATTEMPTS = 3
_MAX_MEMORY_BYTES = 8 * 1024 * 1024
_MAX_OVERHEAD_BYTES = 64 * 1024 * 1024  # of an archive over its files: up to 20,000 headers with long names
_PRESENT = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})


class S3(Storage):
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
            project_root=project_root, pickle=pickled("S3", stored_as_script, pickle), flow_file=local_script_path
        )
        if not bucket or set(bucket) & set("/?#@: "):
            raise InvalidArgumentError(f"{bucket!r} is no name of a bucket")
        self.bucket = bucket
        self.prefix = checked_prefix(prefix_of("S3", prefix, "key", key))
        self.client_options = dict(client_options or {})
        self.upload_options = dict(upload_options or {})
        self._client: S3Client | None = None

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

    @property
    def client(self) -> S3Client:
        """The client, made at first use and never pickled."""
        if self._client is None:
            self._client = s3_client(self.client_options)
        return self._client

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _put(self, key: str, data: bytes, *, replace: bool = True) -> bool:
        from botocore.exceptions import ClientError

        full = self._key(key)
        target: dict[str, Any] = {"Bucket": self.bucket, "Key": full, "Body": data, **self.upload_options}
        with s3_errors(StorageError, f"s3://{self.bucket}/{full} cannot be written"):
            if self._is_there(full, data if replace else None):
                return False
            try:
                self.client.put_object(**target, IfNoneMatch="*")
            except ClientError as error:
                if error_code(error) in _PRESENT and (not replace or self._is_there(full, data)):
                    return False  # another registration was quicker
                if error_code(error) not in (*_PRESENT, "NotImplemented"):
                    raise
                # Other bytes are there, which is damage; or the server knows no conditions, and a race writes the same.
                self.client.put_object(**target)
        return True

    def _is_there(self, full: str, data: bytes | None) -> bool:
        """True when the object is there, and, with `data`, has these bytes as far as a look at its head can tell."""
        from botocore.exceptions import ClientError

        try:
            head = self.client.head_object(Bucket=self.bucket, Key=full)
        except ClientError as error:
            if is_missing(error):
                return False
            raise
        if data is None:
            return True
        tag = head["ETag"].strip('"')
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        # With some encryption, and for uploads in parts, the tag is no digest: then the length has to do.
        plain = len(tag) == len(digest) and "ServerSideEncryption" not in head
        return head["ContentLength"] == len(data) and (not plain or tag == digest)

    def _open(self, key: str) -> BinaryIO:
        full = self._key(key)
        spool = tempfile.SpooledTemporaryFile(max_size=_MAX_MEMORY_BYTES)  # noqa: SIM115 (the caller closes it)
        try:
            with s3_errors(StorageError, f"s3://{self.bucket}/{full} cannot be read"):
                # All of it is read here, where a connection that breaks is an error of the storage.
                self._read_into(spool, full)
        except BaseException:
            spool.close()
            raise
        spool.seek(0)
        return cast("BinaryIO", spool)

    def _read_into(self, target: IO[bytes], full: str) -> None:
        """Reads an object, all of it again after a connection that broke: boto3 asks again before an answer only."""
        from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

        for attempt in range(_ATTEMPTS):
            target.seek(0)
            target.truncate()
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=full)
                _copy(answer["Body"].iter_chunks(_CHUNK_BYTES), target, f"s3://{self.bucket}/{full}")
            except ClientError as error:
                if is_missing(error):
                    raise ObjectMissingError(
                        f"s3://{self.bucket}/{full} is not there", hint="Register the flow again."
                    ) from error
                raise
            except (HTTPClientError, IncompleteReadError):
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
            else:
                return


def _copy(chunks: Iterable[bytes], target: IO[bytes], name: str) -> None:
    limit = config().storage.hard_limit_bytes + _MAX_OVERHEAD_BYTES
    for chunk in chunks:
        target.write(chunk)
        if target.tell() > limit:
            raise StorageError(f"{name} is larger than {limit:,} bytes")
