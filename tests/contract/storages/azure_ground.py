"""Containers of Azurite: the ground of Azure storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.contract.storages.ground import HoldingGround, Refusal, moved
from tests.support.azurite import AzureServer, azurite

from heliograph.storage import Azure, BundleRef

__all__ = ["azurite"]

_STRING = "AZURE_STORAGE_CONNECTION_STRING"
_WRONG = "d3JvbmctazN5LXdyb25nLWszeQ=="


class AzureGround(HoldingGround):
    """A prefix in a container."""

    kind = "azure"

    def open(self) -> None:
        """Makes a container."""
        self.server: AzureServer = self.request.getfixturevalue("azurite")
        self.request.getfixturevalue("monkeypatch").setenv(_STRING, self.server.connection_string())
        self.request.getfixturevalue("monkeypatch").setattr("heliograph.utilities.azure_blobs.RETRIES", 1)
        self.name = self.server.new_container()
        self.container = self.server.container(self.name)
        self.reader_signature = self.server.signature(self.name)
        self.secrets = (self.server.key, self.reader_signature, self.reader_signature.rpartition("sig=")[2], _WRONG)

    def storage(self) -> Azure:
        """Returns the storage."""
        return Azure(self.name, prefix="team/bundles", account_url=self.server.account_url)

    def objects(self) -> dict[str, bytes]:
        """Returns the blobs."""
        return {key: self.container.download_blob(f"team/bundles/{key}").readall() for key in self.snapshot()}

    def snapshot(self) -> Mapping[str, object]:
        """Returns the names with their tags."""
        found = list(self.container.list_blobs())
        assert all(blob.name.startswith("team/bundles/") for blob in found)
        return {blob.name.removeprefix("team/bundles/"): blob.etag for blob in found}

    def put(self, key: str, data: bytes) -> None:
        """Writes a blob."""
        self.container.upload_blob(f"team/bundles/{key}", data, overwrite=True)

    def delete(self, key: str) -> None:
        """Deletes a blob."""
        self.container.delete_blob(f"team/bundles/{key}")

    def refusals(self) -> Iterator[Refusal]:
        """No container, a wrong key, a signature that may only read, a login for another account, and none at all."""

        @contextmanager
        def as_user(text: str | None) -> Iterator[None]:
            with pytest.MonkeyPatch.context() as patch:
                if text is None:
                    patch.delenv(_STRING)
                else:
                    patch.setenv(_STRING, text)
                yield

        sound, url = self.server.connection_string(), self.server.account_url
        place = f"{url}/{self.name}"
        missing = f"{url}/no-such-container"
        yield Refusal(
            "no container", lambda: as_user(sound), missing, "container",
            lambda: Azure("no-such-container", account_url=url), lambda ref: moved(ref, f"{missing}/heliograph"),
        )  # fmt: skip
        yield Refusal("a wrong key", lambda: as_user(self.server.connection_string(key=_WRONG)), place, "login")
        reader = self.server.connection_string(signature=self.reader_signature)
        yield Refusal("a reader", lambda: as_user(reader), place, "role", fetches=False)
        away = replace(self.server, port=1).connection_string(signature=self.reader_signature)
        yield Refusal(
            "a server that is away", lambda: as_user(away), "127.0.0.1:1/", "way",
            lambda: Azure(self.name, account_url="http://127.0.0.1:1/heliotest"), self._at_port(1),
        )  # fmt: skip
        yield Refusal("a login for another account", lambda: as_user(away), "not sent to", "storage.tokens")
        yield Refusal("no login", lambda: as_user(None), "not sent to", "storage.tokens")

    def _at_port(self, port: int) -> object:
        def there(ref: BundleRef) -> BundleRef:
            return moved(ref, ref.location.replace(f":{self.server.port}/", f":{port}/"))

        return there

    def port(self) -> int:
        """Returns the server's port."""
        return self.server.port

    @contextmanager
    def via(self, port: int) -> Iterator[None]:
        """Makes the account's address one at that port."""
        before = self.server
        self.server = replace(before, port=port)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(_STRING, self.server.connection_string())
            yield
        self.server = before


GROUND = AzureGround
