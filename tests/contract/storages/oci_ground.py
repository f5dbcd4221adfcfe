"""A repository of a real registry with a password: the ground of OCI storage."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.contract.storages.ground import Damage, Ground, Refusal, moved
from tests.support.registry import Registry, protected_registry

from heliograph.config import set_temporary_config
from heliograph.exceptions import BundleChangedError
from heliograph.storage import OCI, BundleRef, oci

__all__ = ["protected_registry"]


class OciGround(Ground):
    """A repository."""

    kind = "oci"
    holds = True
    has_values = True
    one_maker = False  # the distribution API has no conditional writes
    repairs = False  # the registry keeps a blob that it has, without looking at its bytes

    def open(self) -> None:
        """Leaves a login as `docker login` would."""
        self.registry: Registry = self.request.getfixturevalue("protected_registry")
        self.patch: pytest.MonkeyPatch = self.request.getfixturevalue("monkeypatch")
        self.patch.setenv("DOCKER_CONFIG", str(self.folder / "docker"))
        self.patch.setenv("HELIOGRAPH__SECRETS__WRONG_LOGIN", f"{self.registry.user}:wr0ng-pass")
        self.registry.login(self.folder / "docker")
        self.secrets = (self.registry.password, "wr0ng-pass")
        self.name = f"team/flows-{uuid.uuid4().hex[:8]}"

    def storage(self) -> OCI:
        """Returns the storage."""
        return OCI(f"{self.registry.address}/{self.name}")

    def named(self, location: str) -> str:
        """Returns the repository, without the artifact's digest."""
        return location.partition("@")[0]

    @property
    def _data(self) -> Path:
        return self.registry.folder / "data" / "docker" / "registry" / "v2"

    def snapshot(self) -> Mapping[str, object]:
        """Returns the repository's files with their times."""
        files = (path for path in (self._data / "repositories" / self.name).rglob("*") if path.is_file())
        return {str(path): path.stat().st_mtime_ns for path in files}

    def vanish(self) -> None:
        """Takes the repository away."""
        shutil.rmtree(self._data / "repositories" / self.name)

    def _tagged(self) -> dict[str, str]:
        """Returns digests by tag."""
        links = (self._data / "repositories" / self.name / "_manifests" / "tags").glob("*/current/link")
        return {link.parent.parent.name: link.read_text() for link in links}

    def salt(self) -> str:
        """Returns the layer of the tagged artifact."""
        (layer,) = json.loads(self._blob(self._tagged()["heliograph-salt"]).read_bytes())["layers"]
        return self._blob(layer["digest"]).read_text()

    def make_salt(self, text: str) -> bool:
        """Pushes the artifact."""
        repository = self.storage()._repository(write=True)
        oci.store_salt(repository, text)
        return oci.stored_salt(repository) == text

    def stored(self, digest: str) -> BundleRef:
        """Returns the reference that the tag would give; one to nothing when there is no such tag."""
        start = f"bundle-{digest.removeprefix('sha256:')[:32]}-"
        found = [value for tag, value in self._tagged().items() if tag.startswith(start)]
        return moved(super().stored(digest), f"{self.storage().location}@{(found or ['sha256:' + '0' * 64])[0]}")

    def _blob(self, digest: str) -> Path:
        value = digest.removeprefix("sha256:")
        return self._data / "blobs" / "sha256" / value[:2] / value / "data"

    def damages(self, ref: BundleRef) -> Iterator[Damage]:
        """Yields what may happen to the artifact and its three layers on the registry's disk."""
        artifact = ref.location.partition("@")[2]
        layers = json.loads(self._blob(artifact).read_bytes())["layers"]
        titles = {layer["annotations"]["org.opencontainers.image.title"]: layer["digest"] for layer in layers}
        for name, digest in {**titles, "artifact": artifact}.items():
            path = self._blob(digest)
            data = path.read_bytes()
            changed = data[:40] + bytes([data[40] ^ 1]) + data[41:]

            def write(path: Path = path, data: bytes = changed) -> None:
                path.write_bytes(data)

            def restore(path: Path = path, data: bytes = data) -> None:
                path.write_bytes(data)

            yield Damage(f"{name} with a letter changed", write, BundleChangedError, restore)

    def refusals(self) -> Iterator[Refusal]:
        """No login, a wrong one, a helper that is not there, and nothing there."""

        @contextmanager
        def configured(document: object = None, *tokens: str) -> Iterator[None]:
            folder = self.folder / f"docker-{uuid.uuid4().hex[:6]}"
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(document or {}))
            with pytest.MonkeyPatch.context() as patch, set_temporary_config({"storage.tokens": tokens}):
                patch.setenv("DOCKER_CONFIG", str(folder))
                yield

        address = self.registry.address
        yield Refusal("no login", configured, "does not let this machine", "docker login")
        yield Refusal(
            "a wrong login", lambda: configured(None, f"{address}=WRONG_LOGIN"), "does not let", r"storage\.tokens"
        )
        yield Refusal(
            "a helper that is not there",
            lambda: configured({"credsStore": "absent"}),
            "docker-credential-absent",
            "Install",
        )
        nothing = f"oci://{address}/{self.name}@sha256:{'0' * 64}"
        sound = json.loads((self.folder / "docker" / "config.json").read_text())
        yield Refusal(
            "nothing there", lambda: configured(sound), "sha256:0+ is not there", "Register",
            reference=lambda ref: moved(ref, nothing), registers=False,
        )  # fmt: skip


GROUND = OciGround
