"""Bundles as tar files: the same bytes for the same content, and an extraction that trusts nothing but the manifest."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from heliograph.exceptions import BundleChangedError, StorageError
from heliograph.storage.manifest import FileEntry, Manifest

__all__ = ["changed", "extract", "pack", "verify_folder"]

_BLOCK = 1 << 20


def pack(files: Iterable[tuple[FileEntry, bytes]]) -> bytes:
    """Returns a tar with the files in order of path and with no time, owner or machine in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry, data in sorted(files, key=lambda item: item[0].path):
            member = tarfile.TarInfo(entry.path)
            member.size = len(data)
            member.mode = 0o755 if entry.executable else 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def extract(stream: BinaryIO, manifest: Manifest, target: Path) -> None:
    """Writes the files of the archive into the empty folder `target`, read-only, each checked against the manifest.

    Only plain files that the manifest names are accepted: no link, no device, no second copy, no other size.

    Raises:
        BundleChangedError: If the archive holds anything else than what the manifest says.
        OSError: If the disk says so.
    """
    wanted = dict(manifest.by_path)
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                entry = wanted.pop(member.name, None)
                if entry is None or not member.isreg() or member.size != entry.size:
                    raise changed(manifest, member.name)
                source = archive.extractfile(member)
                assert source is not None  # it is a regular file
                _write_checked(source, entry, target / entry.path, manifest)
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise BundleChangedError(f"the archive of {manifest.flow} is damaged: {error}", hint=_HINT) from error
    if wanted:
        raise changed(manifest, min(wanted))
    for folder, _, _ in os.walk(target, topdown=False):
        Path(folder).chmod(0o555)


def verify_folder(folder: Path, manifest: Manifest) -> None:
    """Checks that a folder holds exactly the manifest's files: what an extraction left, and nothing more.

    Raises:
        BundleChangedError: If a file is missing, added or changed.
    """
    found: set[str] = set()
    for parent, folders, names in os.walk(folder):
        relative = Path(parent).relative_to(folder).as_posix()
        for name in names + [name for name in folders if (Path(parent) / name).is_symlink()]:
            path = name if relative == "." else f"{relative}/{name}"
            entry = manifest.by_path.get(path)
            file = folder / path
            if entry is None or file.is_symlink() or _hash(file) != entry.sha256:
                raise changed(manifest, path)
            found.add(path)
    missing = manifest.by_path.keys() - found
    if missing:
        raise changed(manifest, min(missing))


_HINT = (
    "Somebody changed the storage or the cache after registration. Register the flow again, from the original source."
)


def changed(manifest: Manifest, path: str) -> BundleChangedError:
    """Returns the error for a file that is not what was registered."""
    entry = manifest.by_path.get(path)
    what = f"{path} is not the file that was registered" if entry else f"{path!r} is not among its registered files"
    return BundleChangedError(f"the bundle of {manifest.flow} changed ({manifest.digest}): {what}", hint=_HINT)


def _write_checked(source: object, entry: FileEntry, path: Path, manifest: Manifest) -> None:
    hasher = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o555 if entry.executable else 0o444)
    with os.fdopen(descriptor, "wb") as stream:
        while block := source.read(_BLOCK):  # type: ignore[attr-defined]
            hasher.update(block)
            stream.write(block)
    if hasher.hexdigest() != entry.sha256:
        raise changed(manifest, entry.path)


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
