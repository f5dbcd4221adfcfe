"""Buckets of SeaweedFS: the ground of S3 storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from tests.contract.storages.ground import HoldingGround, Refusal, as_user, moved
from tests.support.seaweed import S3Server, s3_server

from heliograph.storage import S3

__all__ = ["s3_server"]


class S3Ground(HoldingGround):
    """A prefix in a bucket."""

    kind = "s3"

    def open(self) -> None:
        """Makes a bucket that a second user may read."""
        self.server: S3Server = self.request.getfixturevalue("s3_server")
        self.patch: pytest.MonkeyPatch = self.request.getfixturevalue("monkeypatch")
        for name, value in self.server.environment.items():
            self.patch.setenv(name, value)
        self.secrets = (self.server.secret_key, self.server.reader_secret)
        self.bucket = self.server.new_bucket("readable")
        self.client = self.server.client()

    def storage(self) -> S3:
        """Returns the storage."""
        return S3(self.bucket, "team/bundles")

    def objects(self) -> dict[str, bytes]:
        """Returns the objects."""
        return {
            key: self.client.get_object(Bucket=self.bucket, Key=f"team/bundles/{key}")["Body"].read()
            for key in self.snapshot()
        }

    def snapshot(self) -> Mapping[str, object]:
        """Returns the keys with the times of the last write."""
        found = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        assert all(item["Key"].startswith("team/bundles/") for item in found)
        return {item["Key"].removeprefix("team/bundles/"): item["LastModified"] for item in found}

    def put(self, key: str, data: bytes) -> None:
        """Puts an object."""
        self.client.put_object(Bucket=self.bucket, Key=f"team/bundles/{key}", Body=data)

    def delete(self, key: str) -> None:
        """Deletes an object."""
        self.client.delete_object(Bucket=self.bucket, Key=f"team/bundles/{key}")

    def refusals(self) -> Iterator[Refusal]:
        """No bucket, a wrong secret, a user who may only read, and nobody at all."""

        reader = {"AWS_ACCESS_KEY_ID": self.server.reader_key, "AWS_SECRET_ACCESS_KEY": self.server.reader_secret}
        yield Refusal(
            "no bucket",
            as_user,
            "s3://no-such-bucket-of-test/",
            "bucket",
            lambda: S3("no-such-bucket-of-test"),
            lambda ref: moved(ref, "s3://no-such-bucket-of-test/heliograph"),
        )
        yield Refusal(
            "a wrong secret",
            lambda: as_user(AWS_SECRET_ACCESS_KEY="wr0ng-s3cret"),
            f"s3://{self.bucket}/",
            "credentials",
        )
        yield Refusal("a reader", lambda: as_user(**reader), f"s3://{self.bucket}/", "policy", fetches=False)
        self.secrets += ("wr0ng-s3cret",)
        yield Refusal(
            "nobody", lambda: as_user(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None), "credentials", "AWS_PROFILE"
        )

    def port(self) -> int:
        """Returns the server's port."""
        return int(self.server.endpoint_url.rpartition(":")[2])

    @contextmanager
    def via(self, port: int) -> Iterator[None]:
        """Points boto3 there."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            yield


GROUND = S3Ground
