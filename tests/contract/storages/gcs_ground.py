"""Buckets of fake-gcs-server: the ground of GCS storage."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from tests.contract.storages.ground import HoldingGround, Refusal, moved
from tests.support.answers import answering
from tests.support.fake_gcs import GCSServer, gcs_server

from heliograph.storage import GCS

__all__ = ["gcs_server"]

_DENIED = {"error": {"code": 403, "message": "flows@x.iam does not have storage.objects.get access to the object."}}


class GCSGround(HoldingGround):
    """A prefix in a bucket."""

    kind = "gcs"

    def open(self) -> None:
        """Makes a bucket."""
        self.server: GCSServer = self.request.getfixturevalue("gcs_server")
        self.patch: pytest.MonkeyPatch = self.request.getfixturevalue("monkeypatch")
        self.patch.setattr("heliograph.utilities.gcs.RETRY_SECONDS", 5.0)
        self.patch.setenv("STORAGE_EMULATOR_HOST", self.server.url)
        self.patch.setenv("GOOGLE_CLOUD_PROJECT", "test")
        self.name = self.server.new_bucket()
        self.bucket = self.server.bucket(self.name)

    def storage(self) -> GCS:
        """Returns the storage."""
        return GCS(self.name, "team/bundles")

    def objects(self) -> dict[str, bytes]:
        """Returns the objects."""
        return {key: self.bucket.blob(f"team/bundles/{key}").download_as_bytes() for key in self.snapshot()}

    def snapshot(self) -> Mapping[str, object]:
        """Returns the keys with their generations."""
        found = list(self.bucket.list_blobs())
        assert all(blob.name.startswith("team/bundles/") for blob in found)
        return {blob.name.removeprefix("team/bundles/"): blob.generation for blob in found}

    def put(self, key: str, data: bytes) -> None:
        """Writes an object."""
        self.bucket.blob(f"team/bundles/{key}").upload_from_string(data)

    def delete(self, key: str) -> None:
        """Deletes an object."""
        self.bucket.blob(f"team/bundles/{key}").delete()

    def refusals(self) -> Iterator[Refusal]:
        """No bucket, an account without rights, no account at all."""

        @contextmanager
        def nothing() -> Iterator[None]:
            yield

        @contextmanager
        def denied() -> Iterator[None]:
            body = json.dumps(_DENIED).encode()
            with answering(403, body, {"Content-Type": "application/json"}) as port, self.via(port):
                yield

        @contextmanager
        def nobody() -> Iterator[None]:
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv("STORAGE_EMULATOR_HOST")
                patch.setenv("NO_GCE_CHECK", "true")
                patch.setenv("CLOUDSDK_CONFIG", str(self.folder))
                patch.setenv("HOME", str(self.folder))
                patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", os.fspath(self.folder / "key.json"))
                (self.folder / "key.json").write_text(json.dumps({"type": "service_account", "private_key": "pr1vate"}))
                yield

        self.secrets = ("pr1vate",)
        missing = "gs://no-such-bucket/heliograph"
        yield Refusal(
            "no bucket", nothing, missing, "bucket", lambda: GCS("no-such-bucket"), lambda ref: moved(ref, missing)
        )
        yield Refusal("an account without rights", denied, f"gs://{self.name}/", "roles/storage")
        yield Refusal("a damaged key", nobody, f"gs://{self.name}", "GOOGLE_APPLICATION_CREDENTIALS")

    def port(self) -> int:
        """Returns the server's port."""
        return int(self.server.url.rpartition(":")[2])

    @contextmanager
    def via(self, port: int) -> Iterator[None]:
        """Points Google's library there."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
            yield


GROUND = GCSGround
