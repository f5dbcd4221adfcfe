"""Bundles in a folder of one host."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from heliograph.config import config, home
from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.base import ObjectMissingError, Storage
from heliograph.storage.compat import accept_common, pickled
from heliograph.utilities.files import create_atomically, write_atomically

__all__ = ["Local"]


class Local(Storage):
    """Bundles in a folder. Only agents on `host` can run the flow, which matching, `runs why` and errors say.

    Args:
        directory: The folder; by default the setting `storage.dir`, then `$HELIOGRAPH_HOME/storage`.
        validate: Not needed: the folder is made when something is stored.
        path: The file that has the flow; found when not given.
        stored_as_script: False to load a pickle of the flow, as `pickle=True`.
        project_root: Folder that goes into the bundle; found from the flow's file when not given.
        pickle: True to load a pickle of the flow instead of its file.
        host: Name of the host that has the folder; this host by default. Give an empty text when the folder is
            mounted wherever agents run.
        add_default_labels: Prefect 1's word: False says that the folder is mounted wherever agents run.
    """

    kind: ClassVar[str] = "local"

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        validate: bool = True,
        path: str | os.PathLike[str] | None = None,
        stored_as_script: bool | None = None,
        *,
        project_root: str | os.PathLike[str] | None = None,
        pickle: bool = False,
        host: str | None = None,
        add_default_labels: bool | None = None,
        **prefect: Any,
    ) -> None:
        del validate
        accept_common("Local", prefect)
        as_pickle = pickled("Local", stored_as_script, pickle)
        super().__init__(project_root=project_root, pickle=as_pickle, flow_file=_script(path, as_pickle))
        if add_default_labels is False and host is None:
            host = ""  # Prefect 1's way to say that the folder is on every host
        folder = directory if directory is not None else config().storage.dir or home() / "storage"
        full = Path(folder).expanduser().absolute()
        # One spelling for one folder: what a policy compares. Links stay as they are, unless `..` follows one.
        self.directory = full.resolve() if ".." in full.parts else full
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
            if not replace:
                return create_atomically(path, data, 0o600)
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


def _script(path: str | os.PathLike[str] | None, as_pickle: bool) -> Path | None:
    """Reads Prefect 1's `path`."""
    if path is None:
        return None
    if as_pickle:
        raise InvalidArgumentError(
            f"Local: path={os.fspath(path)!r} of a pickle: objects are named by what they hold",
            hint="Say in which folder they are: directory=…",
        )
    file = Path(path).expanduser()
    if file.suffix != ".py":
        raise InvalidArgumentError(
            f"Local: path={os.fspath(path)!r} is no file of Python",
            hint="Give the file; for a module that agents have installed, use Module storage.",
        )
    return file
