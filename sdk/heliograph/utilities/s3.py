"""The one way to an S3 client, shared by results, bundle storage and the ledger."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from heliograph.exceptions import ConfigurationError, HeliographError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["error_code", "is_missing", "s3_client", "s3_errors"]

_lock = threading.Lock()
_loader: Any = None
"""Reads botocore's descriptions of services once for all clients: they are four fifths of what a client costs."""
_DENIED = frozenset({"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})


def s3_client(options: Mapping[str, Any] | None = None) -> S3Client:
    """Makes a client. Credentials come from boto3's own chain: environment, profile, role.

    Args:
        options: Keyword arguments of `boto3.client`; `endpoint_url` defaults to the setting `storage.s3_endpoint_url`,
            then to `AWS_ENDPOINT_URL`, then to Amazon's.

    Raises:
        ConfigurationError: If boto3 is not installed, or refuses the options.
    """
    try:
        import boto3
        import botocore.session
        from botocore.config import Config as BotoConfig
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise ConfigurationError(
            "S3 needs boto3, which is not installed", hint="Install it with: pip install 'heliograph[aws]'"
        ) from error
    global _loader
    from heliograph.config import config

    given = dict(options or {})
    given.setdefault("config", BotoConfig(retries={"max_attempts": 5, "mode": "standard"}))
    if endpoint := config().storage.s3_endpoint_url:
        given.setdefault("endpoint_url", endpoint)
    try:
        with _lock:  # boto3 sessions are not safe to share between threads; clients are
            core = botocore.session.get_session()
            if _loader is None:
                _loader = core.get_component("data_loader")
            core.register_component("data_loader", _loader)
            session = boto3.session.Session(botocore_session=core)
            if session.region_name is None:
                given.setdefault("region_name", "us-east-1")
            return session.client("s3", **given)
    except (BotoCoreError, TypeError, ValueError) as error:
        raise ConfigurationError(f"no S3 client can be made: {error}") from error


def error_code(error: BaseException) -> str:
    """Returns S3's code of an error (`NoSuchKey`, `AccessDenied`, `PreconditionFailed`), or an empty string."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    return str(response.get("Error", {}).get("Code", ""))


def is_missing(error: BaseException) -> bool:
    """Returns True when the error says that the object is not there. A missing bucket is a mistake, not absence."""
    return error_code(error) in _MISSING


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
