"""A folder as the file system of an image, with what the image's last layer would have: the ground of Docker storage.

Images that an engine builds and a registry keeps are in `tests/integration/docker`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.contract.storages.ground import Damage, Ground, Refusal

from heliograph.core.flow import Flow
from heliograph.exceptions import BundleChangedError, StorageError
from heliograph.run_configs import UniversalRun
from heliograph.storage import BundleRef, Docker, Storage, docker, launch_settings

__all__: list[str] = []


class DockerGround(Ground):
    """The inside of a container."""

    kind = "docker"

    @property
    def place(self) -> Path:
        """Where the image has its bundles."""
        return self.folder / "image"

    def open(self) -> None:
        """Makes this machine the container."""
        patch: pytest.MonkeyPatch = self.request.getfixturevalue("monkeypatch")
        patch.setattr(docker, "PLACE", str(self.place))

    def storage(self) -> Docker:
        """Returns the storage."""
        return Docker("registry.test/team", image_name="flows", base_image="base", bake=True)

    def register(
        self, flow: Flow, storage: Storage | None = None, *, env: Mapping[str, str] | None = None
    ) -> BundleRef:
        """Registers, and copies what the image's layer has where the bytes are others: an engine has layers once."""
        kept = storage if storage is not None else self.storage()
        if env:
            flow.run_config = UniversalRun(env=env)
        bundle = kept.make_bundle(flow)
        ref = kept.put_bundle(bundle, launch_settings(flow, kept))
        for name, (data, _) in docker._baked("base", bundle).files.items():
            path = self.place / name.partition("/")[2]
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_bytes() != data:
                path.write_bytes(data)
        return ref

    def snapshot(self) -> Mapping[str, object]:
        """Returns the files with inode and time."""
        files = (path for path in self.place.rglob("*") if path.is_file())
        return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}

    def vanish(self) -> None:
        """Leaves the container."""
        shutil.rmtree(self.place)

    def damages(self, ref: BundleRef) -> Iterator[Damage]:
        """Yields what may happen to the two files of a bundle in an image of the same name."""

        def write(path: Path, data: bytes) -> Callable[[], None]:
            return lambda: path.write_bytes(data) and None

        other = self.register(self.flow("another"))
        mine, theirs = self._files(ref), self._files(other)
        whole, strange = [path.read_bytes() for path in mine], [path.read_bytes() for path in theirs]

        def put(contents: list[bytes]) -> None:
            for path, data in zip(mine, contents, strict=True):
                path.write_bytes(data)

        yield Damage("another bundle", lambda: put(strange), BundleChangedError, lambda: put(whole))
        for path in mine:
            data = path.read_bytes()
            at = data.index(b"WORD = " if path.suffix == ".tar" else b'"sha256": "') + 12
            changes = {
                "cut short": data[:at],
                "with a letter changed": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :],
                "emptied": b"",
                "another's": strange[mine.index(path)],
            }
            for how, changed in changes.items():
                yield Damage(f"{path.name} {how}", write(path, changed), BundleChangedError, write(path, data))
            yield Damage(f"{path.name} gone", path.unlink, StorageError, write(path, data))

    def _files(self, ref: BundleRef) -> list[Path]:
        return sorted(self.place.rglob(f"{ref.digest.removeprefix('sha256:')}/*"))

    def refusals(self) -> Iterator[Refusal]:
        """No container of the image."""

        @contextmanager
        def elsewhere() -> Iterator[None]:
            self.place.rename(self.folder / "aside")
            yield
            (self.folder / "aside").rename(self.place)

        yield Refusal("no container of it", elsewhere, "this is no container of it", "DockerRun", registers=False)


GROUND = DockerGround
