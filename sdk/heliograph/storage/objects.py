"""What storages in clouds' object stores have in common: written with conditions, read whole, named by a prefix."""

from __future__ import annotations

import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterable
from typing import IO, Any, BinaryIO, cast

from heliograph.config import config
from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.base import ObjectMissingError, Storage
from heliograph.storage.places import is_plain
from heliograph.utilities.objects import ObjectGoneError, Objects

__all__ = ["ObjectStorage", "checked_prefix"]

_MAX_MEMORY_BYTES = 8 * 1024 * 1024
_MAX_OVERHEAD_BYTES = 64 * 1024 * 1024  # of an archive over its files: up to 20,000 headers with long names


def checked_prefix(prefix: str) -> str:
    """Returns a prefix in its one spelling.

    Raises:
        InvalidArgumentError: It has more than one.
    """
    plain = prefix.strip("/")
    if plain and (not is_plain(plain) or "\\" in plain):
        raise InvalidArgumentError(f"{prefix!r} is no prefix: nothing like . and .., double slashes, %2e or %2f")
    return plain


class ObjectStorage(Storage):
    """Bundles below a prefix of a bucket or container.

    Args:
        prefix: What all keys begin with.
        project_root: Folder that goes into the bundle; found from the flow's file when not given.
        pickle: True to load a pickle of the flow instead of its file.
        flow_file: The file that has the flow; found when not given.
    """

    def __init__(
        self,
        prefix: str,
        *,
        project_root: str | os.PathLike[str] | None = None,
        pickle: bool = False,
        flow_file: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(project_root=project_root, pickle=pickle, flow_file=flow_file)
        self.prefix = checked_prefix(prefix)
        self._opened: Objects | None = None

    @abstractmethod
    def _open_objects(self) -> Objects:
        """Opens the bucket."""

    @property
    def objects(self) -> Objects:
        """The bucket, opened at first use and never pickled."""
        if self._opened is None:
            self._opened = self._open_objects()
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _put(self, key: str, data: bytes, *, replace: bool = True) -> bool:
        full, objects = self._key(key), self.objects
        with objects.errors(StorageError, f"{objects.address(full)} cannot be written"):
            head = objects.head(full)
            if head is not None and (not replace or head.holds(data)):
                return False
            # Other bytes are damage. They are replaced as they were seen, so that a sound copy is never undone.
            if objects.write(full, data, over=head.version if head is not None else ""):
                return True
            head = objects.head(full)
            if head is not None and (not replace or head.holds(data)):
                return False  # another registration was quicker
            return objects.write(full, data, over=None)

    def _open(self, key: str) -> BinaryIO:
        full, objects = self._key(key), self.objects
        limit = config().storage.hard_limit_bytes + _MAX_OVERHEAD_BYTES
        spool = tempfile.SpooledTemporaryFile(max_size=_MAX_MEMORY_BYTES)  # noqa: SIM115 (the caller closes it)
        try:
            with objects.errors(StorageError, f"{objects.address(full)} cannot be read"):
                # All of it is read here, where a connection that breaks is an error of the storage.
                objects.read(full, cast("IO[bytes]", _Limited(spool, limit, objects.address(full))))
        except ObjectGoneError as error:
            spool.close()
            raise ObjectMissingError(
                f"{objects.address(full)} is not there", hint="Register the flow again."
            ) from error
        except BaseException:
            spool.close()
            raise
        spool.seek(0)
        return cast("BinaryIO", spool)


class _Limited:
    """A file that takes so many bytes and no more."""

    def __init__(self, stream: Any, limit: int, name: str) -> None:
        self._stream = stream
        self._limit = limit
        self._name = name

    def write(self, data: bytes) -> int:
        """Writes, up to the limit."""
        if self._stream.tell() + len(data) > self._limit:
            raise StorageError(f"{self._name} is larger than {self._limit:,} bytes")
        return int(self._stream.write(data))

    def writelines(self, lines: Iterable[bytes]) -> None:
        """Writes several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
