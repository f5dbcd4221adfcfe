"""Folders: the ground of Local storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.contract.storages.ground import HoldingGround, Refusal

from heliograph.storage import Local

__all__: list[str] = []


class LocalGround(HoldingGround):
    """A folder."""

    kind = "local"

    @property
    def place(self) -> Path:
        """The folder."""
        return self.folder / "bundles-of-test"

    def storage(self) -> Local:
        """Returns the storage."""
        return Local(self.place)

    def objects(self) -> dict[str, bytes]:
        """Returns the files."""
        return {
            path.relative_to(self.place).as_posix(): path.read_bytes()
            for path in self.place.rglob("*")
            if path.is_file()
        }

    def snapshot(self) -> Mapping[str, object]:
        """Returns the files with inode and time."""
        return {
            key: (self.place.joinpath(key).stat().st_ino, self.place.joinpath(key).stat().st_mtime_ns)
            for key in self.objects()
        }

    def put(self, key: str, data: bytes) -> None:
        """Writes a file."""
        path = self.place / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def delete(self, key: str) -> None:
        """Removes a file."""
        (self.place / key).unlink()

    def refusals(self) -> Iterator[Refusal]:
        """A file in the folder's place, and a folder of another host."""

        @contextmanager
        def a_file() -> Iterator[None]:
            self.place.rename(self.place.with_name("aside"))
            self.place.write_text("")
            yield
            self.place.unlink()
            self.place.with_name("aside").rename(self.place)

        @contextmanager
        def no_folder() -> Iterator[None]:
            self.place.rename(self.place.with_name("aside"))
            yield
            self.place.with_name("aside").rename(self.place)

        yield Refusal("a file in its place", a_file, str(self.place), "folder")
        yield Refusal(
            "no folder", no_folder, f"{self.place}.* is not there", "folder it was registered with", registers=False
        )


GROUND = LocalGround
