"""The one way to Google Cloud Storage, shared by bundle storage, results and the ledger."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from heliograph.exceptions import ConfigurationError, HeliographError
from heliograph.utilities.objects import Head, ObjectGoneError, Objects

__all__ = ["GCSObjects", "is_bucket_name"]

RETRY_SECONDS = 30.0
"""How long a call is tried again while the service cannot be reached, is busy or breaks off."""


def is_bucket_name(name: str) -> bool:
    """Returns True for what can name a bucket: one part of an address."""
    return bool(name) and not set(name) & set("/?#@%\\: ") and name.isprintable()


class GCSObjects(Objects):
    """Objects in a bucket. Credentials come from Google's own chain: application default, workload identity, metadata.

    Args:
        bucket: Name of the bucket.
        project: Project that is billed for requests; by default the credentials' own.

    Raises:
        ConfigurationError: If the library is not installed, or there are no credentials.
    """

    def __init__(self, bucket: str, project: str | None = None) -> None:
        try:
            from google.auth.exceptions import GoogleAuthError
            from google.cloud import storage
            from google.cloud.storage.retry import DEFAULT_RETRY
        except ImportError as error:
            raise ConfigurationError(
                "GCS needs google-cloud-storage, which is not installed",
                hint="Install it with: pip install 'heliograph[gcp]'",
            ) from error
        self._name = bucket
        # A write with a condition may be repeated: the condition says whether the first one arrived.
        self._retry = DEFAULT_RETRY.with_timeout(RETRY_SECONDS).with_delay(initial=0.2, maximum=5.0)
        try:
            self._bucket: Any = storage.Client(project=project).bucket(bucket)
        except (GoogleAuthError, OSError) as error:
            raise ConfigurationError(
                f"there are no credentials for gs://{bucket}: {_first(error)}", hint=_LOGIN
            ) from None

    def address(self, key: str = "") -> str:
        """Returns `gs://bucket/key`."""
        return f"gs://{self._name}/{key}" if key else f"gs://{self._name}"

    def head(self, key: str) -> Head | None:
        """Looks at an object."""
        blob = self._bucket.get_blob(key, retry=self._retry)
        if blob is None:
            return None
        return Head(blob.size, base64.b64decode(blob.md5_hash) if blob.md5_hash else None, str(blob.generation))

    def write(self, key: str, data: bytes, *, over: str | None = "") -> bool:
        """Writes an object."""
        from google.api_core.exceptions import PreconditionFailed

        condition = {} if over is None else {"if_generation_match": int(over or 0)}
        try:
            self._bucket.blob(key).upload_from_string(
                data, content_type="application/octet-stream", checksum="crc32c", retry=self._retry, **condition
            )
        except PreconditionFailed:
            return False
        return True

    def read(self, key: str, target: IO[bytes]) -> None:
        """Reads an object; the library goes on where a connection broke, and compares the checksum."""
        from google.api_core.exceptions import Forbidden, NotFound

        try:
            self._bucket.blob(key).download_to_file(target, checksum="crc32c", retry=self._retry)
        except NotFound as error:
            with suppress(Forbidden):  # who may not list learns no more than that it is not there
                next(iter(self._bucket.list_blobs(prefix=key, max_results=1, retry=self._retry)), None)
            raise ObjectGoneError from error

    def names(self, prefix: str) -> Iterator[str]:
        """Lists keys."""
        for blob in self._bucket.list_blobs(prefix=prefix, retry=self._retry):
            yield str(blob.name)

    @contextmanager
    def errors(self, kind: type[HeliographError], message: str) -> Iterator[None]:
        """Turns Google's exceptions into `kind`."""
        from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, Unauthorized
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        kinds: tuple[type[Exception], ...] = (GoogleAPIError, GoogleAuthError, RequestException, *_transfer_errors())
        try:
            yield
        except kinds as error:
            hint = "Check the way to the service, and this machine's credentials for it."
            if isinstance(error, Forbidden | Unauthorized):
                hint = _ROLES
            elif isinstance(error, NotFound):
                hint = "Make the bucket, or correct its name."
            elif isinstance(error, GoogleAuthError):
                hint = _LOGIN
            raise kind(f"{message}: {_first(error)}", hint=hint) from None


_ROLES = "Give the account roles on the bucket: roles/storage.objectViewer reads, roles/storage.objectUser also writes."
_LOGIN = (
    "Give the machine a service account, or set GOOGLE_APPLICATION_CREDENTIALS, or run: gcloud auth"
    " application-default login"
)


def _transfer_errors() -> tuple[type[Exception], ...]:
    """Exceptions of transfers, which moved between versions of the library."""
    found: list[type[Exception]] = []
    for module in ("google.cloud.storage.exceptions", "google.resumable_media.common"):
        try:
            loaded = importlib.import_module(module)
        except ImportError:
            continue
        found += [getattr(loaded, name) for name in ("InvalidResponse", "DataCorruption") if hasattr(loaded, name)]
    return tuple(found)


def _first(error: BaseException) -> str:
    """Returns the first line of a message: the rest is the service's page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
