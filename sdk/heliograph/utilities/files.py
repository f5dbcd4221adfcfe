"""Writing files so that readers and power failures see the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

__all__ = ["create_atomically", "disk_failed", "once_the_disk_takes_it", "write_atomically"]

_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})


def disk_failed(error: BaseException) -> bool:
    """True when the error says that a disk is full, broken or read-only: it is nobody's fault who wanted to write."""
    return isinstance(error, OSError) and error.errno in _DISK_ERRORS


def once_the_disk_takes_it(write: Callable[[], None], log: logging.Logger, seconds: float = 600.0) -> None:
    """Calls `write`, again each second while the disk is full, broken or read-only.

    Raises:
        OSError: It took it not within `seconds`, or something else is wrong.
    """
    limit, said = time.monotonic() + seconds, False
    while True:
        try:
            write()
        except OSError as error:
            if not disk_failed(error) or time.monotonic() > limit:
                raise
            if not said:
                log.error("the disk does not take this now, trying again: %s", error)  # noqa: TRY400 (no fault of ours)
            said = True
            time.sleep(1.0)
        else:
            return


def create_atomically(path: Path, data: bytes, mode: int = 0o666) -> bool:
    """Writes a file whole, as `write_atomically` does, unless there is one: of several writers one wins.

    Returns:
        True when this call wrote it.

    Raises:
        OSError: If the disk says so; nothing is there then that was not before.
    """
    temporary = path.with_name(f".{path.name[:64]}.{uuid.uuid4().hex}.new")
    try:
        write_atomically(temporary, data, mode)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links; two writers in the same instant are two files there
            if path.exists():
                return False
            temporary.replace(path)
        _sync_folder(path.parent)
        return True
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Writes `data` to a file beside `path`, syncs it, and renames it to `path`.

    Args:
        path: The file; its folder must exist. An existing file is replaced.
        data: All of its content.
        mode: Permission bits of a new file, before the umask.

    Raises:
        OSError: If the disk says so; `path` is untouched then.
    """
    temporary = path.with_name(f".{path.name[:64]}.{uuid.uuid4().hex}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power failure. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse to sync a folder; the file itself is safe
        pass
    finally:
        os.close(descriptor)
