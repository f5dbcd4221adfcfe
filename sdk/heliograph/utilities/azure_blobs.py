"""The one way to Azure Blob Storage, shared by bundle storage, results and the ledger.

A login is sent only to the server it is for: an account's key or signature to the address that its connection string
names, an identity's token to Azure's domains. An address that somebody else wrote gets neither.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlsplit

from heliograph.exceptions import ConfigurationError, HeliographError, InvalidArgumentError, StorageError
from heliograph.utilities.objects import Head, ObjectGoneError, Objects, md5_of

__all__ = [
    "AzureObjects",
    "Login",
    "account_url_of",
    "azure_login",
    "is_container_name",
    "split_account",
]

RETRIES = 3
"""How often a call is tried again while the service cannot be reached, is busy or breaks off: about six seconds."""

_DOMAINS = (".blob.core.windows.net", ".blob.core.chinacloudapi.cn", ".blob.core.usgovcloudapi.net",
            ".blob.storage.azure.net")  # fmt: skip
_ENVIRONMENT = "AZURE_STORAGE_CONNECTION_STRING"
_CONTAINER = re.compile(r"\$root|[a-z0-9](?:-?[a-z0-9]){2,62}")


def is_container_name(name: str) -> bool:
    """Returns True for what can name a container."""
    return _CONTAINER.fullmatch(name) is not None


def split_account(location: str) -> tuple[str, str]:
    """Divides an address into the account's and the path in it.

    Azure's own rule: where the host is a bare address, as emulators have it, the account is the path's first part.

    Raises:
        InvalidArgumentError: It is none.
    """
    scheme, mark, rest = location.partition("://")
    host, _, path = rest.partition("/")
    if (
        not mark
        or scheme not in ("https", "http")
        or not host
        or set(host) & set("@%\\ ")
        or set(path) & set("?#")
        or host != host.lower()
    ):
        raise InvalidArgumentError(
            f"{location.partition('?')[0]!r} is no address of an account: https://NAME.blob.core…"
        )
    if _is_bare(host):
        account, _, path = path.partition("/")
        if not account:
            raise InvalidArgumentError(f"{location!r} names no account")
        return f"{scheme}://{host}/{account}", path
    if scheme != "https":
        raise InvalidArgumentError(f"{location!r}: an account is reached by https")
    return f"{scheme}://{host}", path


def _is_bare(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def account_url_of(connection_string: str) -> str:
    """Returns the address of the account that a connection string is for.

    Raises:
        StorageError: It is none. Nothing of it is repeated.
    """
    parts = dict(part.partition("=")[::2] for part in connection_string.strip().split(";") if "=" in part)
    url = parts.get("BlobEndpoint", "")
    if not url and parts.get("AccountName"):
        protocol = parts.get("DefaultEndpointsProtocol", "https")
        url = f"{protocol}://{parts['AccountName']}.blob.{parts.get('EndpointSuffix', 'core.windows.net')}"
    if not url:
        raise StorageError(
            "the connection string of Azure Storage names no account",
            hint="Copy it again: the account's page, Access keys or Shared access signature.",
        )
    split = urlsplit(url)
    return f"{split.scheme}://{split.netloc.lower()}{split.path.rstrip('/')}"


class Login:
    """What proves who asks: a connection string, or what Azure's own chain of identities finds.

    Args:
        connection_string: With an account's key or a shared access signature; empty means an identity.
    """

    def __init__(self, connection_string: str = "") -> None:
        self._text = connection_string
        self.account_url = account_url_of(connection_string) if connection_string else ""

    def credential_for(self, account_url: str) -> Any:
        """Returns what the library takes for this account.

        Raises:
            ConfigurationError: The login is for another account, or the library is not installed.
        """
        if self._text:
            if self.account_url != account_url:
                raise ConfigurationError(
                    f"the connection string here is for {self.account_url}, not for {account_url}", hint=_BIND
                )
            parts = dict(part.partition("=")[::2] for part in self._text.strip().split(";") if "=" in part)
            if parts.get("SharedAccessSignature"):
                return parts["SharedAccessSignature"].removeprefix("?")
            if parts.get("AccountKey"):
                return {"account_name": parts.get("AccountName", ""), "account_key": parts["AccountKey"]}
        host = urlsplit(account_url).netloc
        if not host.endswith(_DOMAINS):
            raise ConfigurationError(f"an identity's token is not sent to {host}, which is not Azure's", hint=_BIND)
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError as error:
            raise ConfigurationError(
                "identities of Azure need azure-identity, which is not installed",
                hint="Install it with: pip install 'heliograph[azure]'",
            ) from error
        return DefaultAzureCredential()


def azure_login(account_url: str = "") -> Login:
    """Returns this machine's login for an account: the secret that its owner bound to it, or the environment's.

    Args:
        account_url: Address of the account; when it is empty, the environment says which one.

    Raises:
        StorageError: The bound secret is not there, or is no connection string.
    """
    from heliograph.storage.credentials import bound_secret, secret_text

    server, _, path = account_url.partition("://")[2].partition("/")
    name = bound_secret(server, path) if account_url else ""
    if name:
        return Login(secret_text(name))
    text = os.environ.get(_ENVIRONMENT, "")
    if text and account_url and account_url_of(text) != account_url:
        text = ""
    return Login(text)


class AzureObjects(Objects):
    """Blobs in a container.

    Args:
        account_url: Address of the account.
        container: Name of the container.
        login: Who asks.

    Raises:
        ConfigurationError: If the library is not installed, or there is no login for the account.
    """

    def __init__(self, account_url: str, container: str, login: Login) -> None:
        try:
            from azure.storage.blob import ContainerClient, ExponentialRetry
        except ImportError as error:
            raise ConfigurationError(
                "Azure needs azure-storage-blob, which is not installed",
                hint="Install it with: pip install 'heliograph[azure]'",
            ) from error
        self._address = f"{account_url}/{container}"
        retry = ExponentialRetry(initial_backoff=0, increment_base=2, retry_total=RETRIES, random_jitter_range=1)
        self._container: Any = ContainerClient(
            account_url, container, credential=login.credential_for(account_url), retry_policy=retry
        )

    def address(self, key: str = "") -> str:
        """Returns the blob's address, without a signature."""
        return f"{self._address}/{key}" if key else self._address

    def head(self, key: str) -> Head | None:
        """Looks at a blob."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            found = self._container.get_blob_client(key).get_blob_properties()
        except ResourceNotFoundError as error:
            if _no_container(error):
                raise
            return None
        md5 = found.content_settings.content_md5
        return Head(found.size, bytes(md5) if md5 else None, str(found.etag))

    def write(self, key: str, data: bytes, *, over: str | None = "") -> bool:
        """Writes a blob."""
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError
        from azure.storage.blob import ContentSettings

        condition = {"etag": over, "match_condition": MatchConditions.IfNotModified} if over else {}
        try:
            self._container.get_blob_client(key).upload_blob(
                data,
                overwrite=over != "",
                content_settings=ContentSettings("application/octet-stream", content_md5=bytearray(md5_of(data))),
                validate_content=True,
                **condition,
            )
        except (ResourceExistsError, ResourceModifiedError):
            return False
        return True

    def read(self, key: str, target: IO[bytes]) -> None:
        """Reads a blob; the library asks again for the rest where a connection broke."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            self._container.get_blob_client(key).download_blob().readinto(target)
        except ResourceNotFoundError as error:
            if _no_container(error):
                raise
            raise ObjectGoneError from error

    def names(self, prefix: str) -> Iterator[str]:
        """Lists blobs."""
        for name in self._container.list_blob_names(name_starts_with=prefix):
            yield str(name)

    @contextmanager
    def errors(self, kind: type[HeliographError], message: str) -> Iterator[None]:
        """Turns Azure's exceptions into `kind`, without the query of an address, where a signature stands."""
        from azure.core.exceptions import (
            AzureError,
            ClientAuthenticationError,
            HttpResponseError,
            ResourceNotFoundError,
        )

        try:
            yield
        except AzureError as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            hint = "Check the way to the service, and this machine's login for it."
            status = error.status_code if isinstance(error, HttpResponseError) else None
            if isinstance(error, ClientAuthenticationError) or status in (401, 403):
                hint = "Check the login; an identity needs the role Storage Blob Data Reader, an author's Contributor."
            elif isinstance(error, ResourceNotFoundError):
                hint = "Make the container, or correct its name."
            raise kind(f"{message}: {re.sub(r'[?][^ ]*', '?…', text)}", hint=hint) from None


_BIND = (
    "On an agent, bind a connection string to the account by the setting storage.tokens; at registration give"
    " connection_string_secret."
)


def _no_container(error: Any) -> bool:
    return str(getattr(error, "error_code", "")) in ("ContainerNotFound", "StorageErrorCode.CONTAINER_NOT_FOUND")
