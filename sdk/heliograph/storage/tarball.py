"""Archives that servers make of commits: read from a stream, within bounds, and never unpacked onto the disk.

Whoever writes to a repository chooses what its archive holds. Only plain files are looked at; what they are called is
checked by those who take them.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from heliograph.config import config
from heliograph.exceptions import StorageError
from heliograph.storage.manifest import MAX_FILES

__all__ = ["DamagedError", "Member", "read_archive"]

_MAX_HEADER_BYTES = 1024 * 1024
_EXTENSIONS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_BLOCK = 1 << 20


class DamagedError(StorageError):
    """An archive is incomplete or malformed: worth another try."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive: git's mode (`100644`, `100755`, `120000` for a link) and the bytes of a plain file."""

    mode: str
    data: bytes = field(default=b"", repr=False)


def read_archive(stream: BinaryIO, wanted: Callable[[str], bool], *, top: bool, name: str) -> dict[str, Member]:
    """Returns the files of a `.tar.gz` by their paths.

    Args:
        stream: The archive.
        wanted: Says of a path whether its bytes are kept; the others are only passed over.
        top: True when all is in one folder, whose name is not part of the paths.
        name: What it is, for messages.

    Raises:
        DamagedError: If it is incomplete, or no archive.
        StorageError: If it is larger than the settings allow, or holds what no archive of a commit does.
    """
    bounded = _Bounded(gzip.GzipFile(fileobj=stream, mode="rb"), config().storage.archive_limit_bytes, name)
    found: dict[str, Member] = {}
    kept = 0
    try:
        with tarfile.open(fileobj=bounded, mode="r|", tarinfo=_Info) as archive:
            for member in archive:
                path = member.name.partition("/")[2] if top else member.name
                if member.isdir():
                    continue
                if member.issparse() or not (member.isreg() or member.issym()) or path in found or not _is_inside(path):
                    raise StorageError(
                        f"{name} is none of a commit: {member.name[:100]!r} should not be in it",
                        hint="Somebody on the way changed it, or the server is broken.",
                    )
                if len(found) >= MAX_FILES * 10:
                    raise StorageError(
                        f"{name} has more than {MAX_FILES * 10:,} files", hint="Use Git storage, with subdir=…."
                    )
                if not member.isreg():
                    found[path] = Member("120000")
                    continue
                mode = "100755" if member.mode & 0o100 else "100644"
                if not wanted(path):
                    found[path] = Member(mode)
                    continue
                kept += member.size
                if kept > config().storage.hard_limit_bytes:
                    raise StorageError(
                        f"the files of {name} are larger than {config().storage.hard_limit_bytes:,} bytes",
                        hint="Give a folder of it: subdir=…, or raise the setting storage.hard_limit_bytes.",
                    )
                source = archive.extractfile(member)
                assert source is not None  # it is a regular file
                found[path] = Member(mode, source.read())
        while bounded.read(_BLOCK):  # up to the end, where the checksum is
            pass
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise DamagedError(
            f"{name} is damaged or incomplete: {type(error).__name__}", hint="Try again; the way there loses something."
        ) from None
    return found


def _is_inside(path: str) -> bool:
    return all(part not in ("", ".", "..") for part in path.split("/"))


class _Bounded(io.RawIOBase):
    """What comes out of a compressed stream, up to a limit: a small archive can be endless."""

    def __init__(self, source: gzip.GzipFile, limit: int, name: str) -> None:
        self._source = source
        self._left = limit
        self._limit = limit
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(min(len(buffer), self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise StorageError(
                f"{self._name} unpacks to more than {self._limit:,} bytes",
                hint="If that is its true size: raise the setting storage.archive_limit_bytes, or use Git storage.",
            )
        buffer[: len(data)] = data
        return len(data)


class _Info(tarfile.TarInfo):
    """A header that does not ask for more memory than a name needs."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Info:
        made = super().frombuf(buf, encoding, errors)
        if made.type in _EXTENSIONS and made.size > _MAX_HEADER_BYTES:
            raise StorageError("the archive of a commit has a name or a remark of more than a megabyte")
        return made
