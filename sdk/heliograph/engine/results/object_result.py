"""Results in clouds' object stores: what they have in common, Google Cloud Storage and Azure Blob Storage."""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import Any, ClassVar

from heliograph.engine.result import Location, Result
from heliograph.engine.results.local_result import default_location
from heliograph.engine.serializers import Serializer
from heliograph.exceptions import ConfigurationError, InvalidArgumentError, ResultStoreError
from heliograph.utilities.objects import ObjectGoneError, Objects

__all__ = ["AzureResult", "GCSResult", "ObjectResult"]


class ObjectResult(Result):
    """A result in an object."""

    stores: ClassVar[bool] = True

    def __init__(self, location: Location | None, serializer: Serializer | None, value: Any) -> None:
        super().__init__(value, location, serializer)
        self._opened: Objects | None = None

    @abstractmethod
    def _open_objects(self) -> Objects:
        """Opens the bucket."""

    @property
    def objects(self) -> Objects:
        """The bucket, opened at first use and never pickled."""
        if self._opened is None:
            try:
                self._opened = self._open_objects()
            except ConfigurationError as error:
                raise ResultStoreError(str(error), hint=error.hint) from error
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def write(self, value_: Any, **kwargs: Any) -> Result:
        """Puts the value into the bucket; `location` of what is returned is the key."""
        key = self._render(self.location, kwargs) if self.location is not None else default_location()
        data, objects = self._serialize(value_), self.objects
        with objects.errors(ResultStoreError, f"the result cannot be written to {objects.address(key)}"):
            objects.write(key, data, over=None)
        return self._with(value_, key, len(data))

    def read(self, location: str) -> Result:
        """Reads the object with the key `location`."""
        objects, buffer = self.objects, io.BytesIO()
        message = f"the result cannot be read from {objects.address(location)}"
        try:
            with objects.errors(ResultStoreError, message):
                objects.read(location, buffer)
        except ObjectGoneError as error:
            raise ResultStoreError(f"{message}: it is not there") from error
        data = buffer.getvalue()
        return self._with(self._deserialize(data, objects.address(location)), location, len(data))

    def exists(self, location: str, **kwargs: Any) -> bool:
        """Returns True when the object is there; an error other than its absence is raised."""
        key, objects = self._render(location, kwargs), self.objects
        message = f"it cannot be told whether there is a result at {objects.address(key)}"
        with objects.errors(ResultStoreError, message):
            return objects.head(key) is not None


class GCSResult(ObjectResult):
    """A result in an object of Google Cloud Storage. Credentials are those that Google's libraries find.

    Args:
        bucket: Name of the bucket.
        location: Key, or a template of one.
        serializer: How the value becomes bytes; cloudpickle when not given.
    """

    def __init__(
        self,
        bucket: str | None = None,
        location: Location | None = None,
        serializer: Serializer | None = None,
        value: Any = None,
    ) -> None:
        super().__init__(location, serializer, value)
        if not bucket:
            raise InvalidArgumentError("GCSResult needs a bucket")
        self.bucket = bucket

    def _open_objects(self) -> Objects:
        from heliograph.utilities.gcs import GCSObjects

        return GCSObjects(self.bucket)

    def describe_config(self) -> dict[str, str]:
        """Returns the bucket."""
        return {"bucket": self.bucket}


class AzureResult(ObjectResult):
    """A result in a blob of Azure Blob Storage.

    Args:
        container: Name of the container.
        connection_string: Not taken: a connection string is a secret.
        connection_string_secret: Name of the secret with the connection string, wherever tasks run; by default what is
            bound to the account there, `AZURE_STORAGE_CONNECTION_STRING`, or an identity.
        account_url: Address of the account, `https://NAME.blob.core.windows.net`; by default the connection string's.
        location: Name of the blob, or a template of one.
        serializer: How the value becomes bytes; cloudpickle when not given.
    """

    def __init__(
        self,
        container: str,
        connection_string: str | None = None,
        connection_string_secret: str | None = None,
        *,
        account_url: str | None = None,
        location: Location | None = None,
        serializer: Serializer | None = None,
        value: Any = None,
    ) -> None:
        super().__init__(location, serializer, value)
        if connection_string:
            raise InvalidArgumentError(
                "AzureResult: connection_string: keep it as a secret, and give the secret's name:"
                " connection_string_secret="
            )
        self.container = container
        self.connection_string_secret = connection_string_secret or ""
        self.account_url = account_url or ""

    def _open_objects(self) -> Objects:
        from heliograph.storage.credentials import secret_text
        from heliograph.utilities.azure_blobs import AzureObjects, Login, azure_login

        name = self.connection_string_secret
        login = Login(secret_text(name)) if name else azure_login(self.account_url)
        self.account_url = self.account_url or login.account_url
        if not self.account_url:
            raise ResultStoreError(
                "AzureResult does not know its account", hint="Give account_url, or connection_string_secret."
            )
        return AzureObjects(self.account_url, self.container, login)

    def describe_config(self) -> dict[str, str]:
        """Returns account and container, and the secret's name."""
        told = {"account_url": self.account_url, "container": self.container}
        return {**told, "secret": self.connection_string_secret} if self.connection_string_secret else told
