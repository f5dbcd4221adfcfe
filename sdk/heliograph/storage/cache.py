"""Fetched bundles on this machine: one read-only folder per digest, shared by all runs, checked at every use.

Layout below the cache: `bundles/<hex>/` (the files), `bundles/<hex>.json` (the manifest), `bundles/<hex>.lock`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from heliograph.config import config
from heliograph.exceptions import DiskError, StorageError
from heliograph.storage.archive import extract, verify_folder
from heliograph.storage.manifest import Manifest, digest_hex
from heliograph.utilities.files import disk_failed, write_atomically

__all__ = ["fetch_into", "locked", "manifest_of", "prune", "prune_mirrors"]

_KEEP_SECONDS = 24 * 3600
"""A folder used within this time is never removed: a run that lasts long may still import from it."""
_MIRROR_SECONDS = 30 * 24 * 3600


def manifest_of(folder: Path) -> Manifest:
    """Returns the manifest of a folder that `fetch` returned, checked against the digest in the folder's name.

    Raises:
        StorageError: If it is not there, malformed, or of another digest.
    """
    path = folder.with_name(f"{folder.name}.json")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    return Manifest.from_json(data, f"sha256:{folder.name}")


def fetch_into(
    cache_dir: Path,
    digest: str,
    fetch_manifest: Callable[[], Manifest],
    open_archive: Callable[[Manifest], BinaryIO],
) -> Path:
    """Returns the folder of a bundle, extracted now unless it is there and right."""
    folder = cache_dir.absolute() / "bundles" / digest_hex(digest)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder.with_name(f"{folder.name}.lock")):
            if not _is_right(folder):
                _extract(folder, fetch_manifest(), open_archive)
                prune(cache_dir, keep=folder)
    except OSError as error:
        kind = DiskError if disk_failed(error) else StorageError
        raise kind(f"the bundle cannot be kept in {cache_dir}: {error}") from error
    return folder


def prune(cache_dir: Path, keep: Path | None = None) -> list[Path]:
    """Removes the bundles unused longest until the cache fits `storage.cache_limit_bytes`; returns what it removed."""
    parent = cache_dir.absolute() / "bundles"
    entries = []
    for lock in parent.glob("*.lock"):
        folder = lock.with_suffix("")
        if folder.is_dir():
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            entries.append((lock.stat().st_mtime, size, folder))
    for rest in parent.glob(".*"):  # of a process that was killed while it extracted
        if rest.is_dir() and time.time() - rest.stat().st_mtime > _KEEP_SECONDS:
            _remove(rest)
    total = sum(size for _, size, _ in entries)
    removed = []
    for used, size, folder in sorted(entries):
        if total <= config().storage.cache_limit_bytes:
            break
        if folder == keep or time.time() - used < _KEEP_SECONDS:
            continue
        _remove(folder)
        total -= size
        removed.append(folder)
    return removed


def prune_mirrors(cache_dir: Path) -> None:
    """Removes mirrors of repositories that were unused for a month: they can be fetched again."""
    for lock in (cache_dir.absolute() / "git").glob("*.lock"):
        if time.time() - lock.stat().st_mtime > _MIRROR_SECONDS:
            _remove(lock.with_suffix(""))


def _is_right(folder: Path) -> bool:
    """True when the cache has the bundle. A changed one is set aside, so that a sound copy takes its place."""
    if not folder.is_dir():
        return False
    try:
        verify_folder(folder, manifest_of(folder))
    except StorageError:  # changed, or the manifest beside it is gone
        _remove(folder)
        return False
    return True


def _extract(folder: Path, manifest: Manifest, open_archive: Callable[[Manifest], BinaryIO]) -> None:
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    part.mkdir(mode=0o700)
    try:
        with closing(open_archive(manifest)) as stream:
            extract(stream, manifest, part)
        write_atomically(folder.with_name(f"{folder.name}.json"), manifest.to_json(), 0o600)
        part.rename(folder)
    except BaseException:
        _remove(part)
        raise


def _remove(folder: Path) -> None:
    """Takes a folder away in one step, then deletes it: a run that reads from it sees all of it or a new one."""
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
    with suppress(FileNotFoundError):
        folder.rename(aside)
        for parent, _, _ in os.walk(aside):
            Path(parent).chmod(0o700)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that other processes see; it ends with the process, and its time says when the bundle was used."""
    with path.open("a+b") as stream:
        if sys.platform == "win32":
            import msvcrt

            stream.seek(0)
            msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        os.utime(path)
        try:
            yield
        finally:
            if sys.platform == "win32":
                stream.seek(0)
                msvcrt.locking(stream.fileno(), msvcrt.LK_UNLCK, 1)
