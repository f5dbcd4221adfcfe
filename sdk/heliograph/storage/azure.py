"""Bundles in a container of Azure Blob Storage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.compat import accept_common, pickled, prefix_of
from heliograph.storage.credentials import secret_text
from heliograph.storage.objects import ObjectStorage
from heliograph.utilities.azure_blobs import (
    AzureObjects,
    Login,
    azure_login,
    is_container_name,
    split_account,
)

__all__ = ["Azure"]


class Azure(ObjectStorage):
    """Bundles in a container of Azure Blob Storage.

    The account is the one of `account_url`, or of a connection string: the one in the secret
    `connection_string_secret`, or in the variable `AZURE_STORAGE_CONNECTION_STRING`. With an address alone, Azure's own
    chain of identities says who asks: a managed identity, a service principal, `az login`. Agents use what their owner
    bound to the account by the setting `storage.tokens`, their own variable, or their identity.

    Args:
        container: Name of the container.
        connection_string_secret: Name of the secret with the connection string that *registration* uses.
        blob_name: Prefect 1's name for the place: the same as `prefix`.
        overwrite: Not needed: objects are named by what they hold.
        stored_as_script: False to load a pickle of the flow, as `pickle=True`.
        account_url: Address of the account, `https://NAME.blob.core.windows.net`.
        prefix: What all names begin with.
        local_script_path: The file that has the flow; found when not given.
        project_root: Folder that goes into the bundle; found from the flow's file when not given.
        pickle: True to load a pickle of the flow instead of its file.
    """

    kind: ClassVar[str] = "azure"

    def __init__(
        self,
        container: str,
        connection_string_secret: str | None = None,
        blob_name: str | None = None,
        overwrite: bool = False,
        stored_as_script: bool | None = None,
        *,
        account_url: str | None = None,
        prefix: str | None = None,
        local_script_path: str | os.PathLike[str] | None = None,
        project_root: str | os.PathLike[str] | None = None,
        pickle: bool = False,
        **prefect: Any,
    ) -> None:
        del overwrite
        accept_common("Azure", prefect)
        super().__init__(
            prefix_of("Azure", prefix, "blob_name", blob_name),
            project_root=project_root,
            pickle=pickled("Azure", stored_as_script, pickle),
            flow_file=local_script_path,
        )
        if not is_container_name(container):
            raise InvalidArgumentError(f"{container!r} is no name of a container")
        self.container = container
        self.connection_string_secret = connection_string_secret or ""
        self._account = ""
        if account_url:
            self._account, rest = split_account(account_url.rstrip("/"))
            if rest:
                raise InvalidArgumentError(f"account_url={account_url!r} has more than the account in it")

    @classmethod
    def at(cls, location: str, host: str = "") -> Azure:
        """Returns the storage of `https://NAME.blob.core.windows.net/container/prefix`."""
        account, path = split_account(location)
        container, _, prefix = path.partition("/")
        if not container or host:
            raise StorageError(f"{location!r} is no location of Azure storage: https://ACCOUNT/container/prefix")
        return cls(container, account_url=account, prefix=prefix)

    @property
    def account_url(self) -> str:
        """Address of the account.

        Raises:
            StorageError: Nothing says which.
        """
        if not self._account:
            self._account = self._login().account_url
        if not self._account:
            raise StorageError(
                "Azure storage does not know its account",
                hint="Give account_url='https://NAME.blob.core.windows.net', or connection_string_secret.",
            )
        return self._account

    @property
    def location(self) -> str:
        """`https://NAME.blob.core.windows.net/container/prefix`."""
        place = f"{self.account_url}/{self.container}"
        return f"{place}/{self.prefix}" if self.prefix else place

    def ledger(self) -> Mapping[str, str]:
        """Returns where ledgers go when a flow's result does not say: beside the bundles."""
        return {"kind": "azure", "account_url": self.account_url, "container": self.container, "prefix": self.prefix}

    def _login(self) -> Login:
        if self.connection_string_secret:
            return Login(secret_text(self.connection_string_secret))
        return azure_login(self._account)

    def _open_objects(self) -> AzureObjects:
        return AzureObjects(self.account_url, self.container, self._login())

    def _identity(self) -> tuple[object, ...]:
        return (self._account, self.connection_string_secret, self.container, self.prefix)
