"""Bundles in a folder of one host."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar

from heliograph.config import config, home
from heliograph.exceptions import StorageError
from heliograph.storage.base import ObjectMissingError, Storage
from heliograph.utilities.files import write_atomically

__all__ = ["Local"]


class Local(Storage):
    """Bundles in a folder. Only agents on `host` can run the flow, which matching, `runs why` and errors say.

    Args:
        directory: The folder; by default the setting `storage.dir`, then `$HELIOGRAPH_HOME/storage`.
        project_root: Folder that goes into the bundle; found from the flow's file when not given.
        pickle: True to load a pickle of the flow instead of its file.
        host: Name of the host that has the folder; this host by default. Give an empty text when the folder is
            mounted wherever agents run.
    """

    kind: ClassVar[str] = "local"

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        project_root: str | os.PathLike[str] | None = None,
        pickle: bool = False,
        host: str | None = None,
    ) -> None:
        super().__init__(project_root=project_root, pickle=pickle)
        folder = directory if directory is not None else config().storage.dir or home() / "storage"
        path = Path(folder).expanduser().absolute()
        # One spelling for one folder: what a policy compares. Links stay as they are, unless `..` follows one.
        self.directory = path.resolve() if ".." in path.parts else path
        self._host = socket.gethostname() if host is None else host

    @classmethod
    def at(cls, location: str, host: str = "") -> Local:
        """Returns the storage of a folder."""
        if not Path(location).is_absolute():
            raise StorageError(f"{location!r} is no location of Local storage: an absolute folder is expected")
        return cls(location, host=host)

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.directory)

    @property
    def host(self) -> str:
        """The host that has the folder."""
        return self._host

    def written(self) -> Sequence[Path]:
        """Returns what lies below the folder: the folder itself may be the project's."""
        return [self.directory / name for name in ("bundles/sha256", "launch/sha256", "launch/salt")]

    def _put(self, key: str, data: bytes, *, replace: bool = True) -> bool:
        path = self.directory / key
        try:
            if path.exists() and (not replace or path.read_bytes() == data):
                return False
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data, 0o600)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error}", hint=self._advice(error)) from error
        return True

    def _open(self, key: str) -> BinaryIO:
        path = self.directory / key
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            here = socket.gethostname()
            hint = (
                f"The files are on host {self._host}, here is {here}: start an agent there, or use shared storage."
                if self._host and self._host != here
                else "Register the flow again, or give the agent the folder it was registered with."
            )
            raise ObjectMissingError(f"{path} is not there", hint=hint) from error
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error}", hint=self._advice(error)) from error

    def _advice(self, error: OSError) -> str:
        if isinstance(error, PermissionError):
            return f"Give this user the right to {self.directory}: agents read it, registrations write it."
        if isinstance(error, NotADirectoryError | FileExistsError):
            return f"{self.directory} must be a folder that is there or can be made."
        return f"Look at the disk of {self.directory}, or give another folder."
