"""What a container is given and what is taken from it, as archives: its offer, its exit, its outbox.

Everything is copied, so the engine may be another host's and the container's root may be read-only. What comes back
was written by the flow and is not believed: plain files of known names alone, up to a size.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heliograph.reporting.lanes import LOGS, STATES
from heliograph_agents.launchers.docker.engine import archive_reader, reading

MAX_FILE_BYTES = 1024 * 1024
"""Most that a small file, `exit.json` or a list of users, may have."""

MAX_OUTBOX_BYTES = STATES.cap_bytes + LOGS.cap_bytes + 64 * 1024 * 1024

FOLDERS = ("offer", "runs", "home", "cache")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose files they are in the container."""

    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """What is laid into the attempt's volume.

    Attributes:
        launch: Text of `launch.json`.
        token: The run token.
        files: More files beside them, by name: certificates.
    """

    launch: str = field(repr=False)
    token: str = field(repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def archive(self, owner: Owner) -> bytes:
        """Returns the archive to unpack in the volume: for its owner alone."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in FOLDERS:
                archive.addfile(entry_of(name, owner, tarfile.DIRTYPE))
            contents = {"launch.json": self.launch.encode(), "token": self.token.encode(), **self.files}
            for name, data in contents.items():
                entry = entry_of(f"offer/{name}", owner, tarfile.REGTYPE)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return stream.getvalue()


def blank(names: tuple[str, ...]) -> bytes:
    """Returns an archive that leaves nothing in these files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            archive.addfile(entry_of(name, Owner(), tarfile.REGTYPE))
    return stream.getvalue()


def entry_of(name: str, owner: Owner, kind: bytes) -> tarfile.TarInfo:
    """Returns the entry of an archive: for its owner alone."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mtime = kind, int(time.time())
    entry.uid, entry.gid = owner.uid, owner.gid
    entry.mode = 0o700 if kind == tarfile.DIRTYPE else 0o600
    return entry


def owner_of(user: str, read: Callable[[str], str]) -> Owner:
    """Returns the numbers of a container's user.

    Args:
        user: `USER[:GROUP]`, names or numbers; empty means root.
        read: Returns the text of a file in the container; empty when there is none.

    Raises:
        ValueError: The image has no such user or group.
    """
    name, _, group = user.partition(":")
    uid, gid = 0, 0
    if name and name.isdecimal():
        uid = int(name)
        gid = next((int(row[3]) for row in _rows(read("/etc/passwd"), 4) if row[2] == name), 0) if not group else 0
    elif name:
        row = next((row for row in _rows(read("/etc/passwd"), 4) if row[0] == name), None)
        if row is None:
            raise ValueError(f"the image has no user {name!r}")
        uid, gid = int(row[2]), int(row[3])
    if group.isdecimal():
        gid = int(group)
    elif group:
        found = next((row for row in _rows(read("/etc/group"), 3) if row[0] == group), None)
        if found is None:
            raise ValueError(f"the image has no group {group!r}")
        gid = int(found[2])
    return Owner(uid, gid)


def _rows(text: str, least: int) -> list[list[str]]:
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= least and row[2].isdecimal() and (least < 4 or row[3].isdecimal())]


def one_file(pieces: Iterator[bytes] | None) -> str:
    """Returns the text of the one file in an archive; empty when there is none, or it is no plain small file."""
    if pieces is None:
        return ""
    try:
        with tarfile.open(fileobj=archive_reader(pieces, MAX_FILE_BYTES)) as archive:
            for entry in archive:
                file = archive.extractfile(entry) if entry.isreg() else None
                return file.read().decode("utf-8", "replace") if file is not None else ""
    except (ValueError, tarfile.TarError):
        pass
    return ""


def unpack_outbox(pieces: Iterator[bytes], folder: Path) -> None:
    """Writes the segments of an outbox's archive into a folder; whatever else is in it is left out.

    Raises:
        OSError: The engine or the disk fails.
        ValueError: It is larger than an outbox can be.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    left = MAX_OUTBOX_BYTES
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Stream(reading(pieces)), 1024 * 1024), mode="r|") as archive:
            for entry in archive:
                name = entry.name.rpartition("/")[2]
                if not entry.isreg() or not name.endswith(".seg") or not name.startswith((STATES.name, LOGS.name)):
                    continue
                left -= entry.size
                if left < 0:
                    raise ValueError(f"an outbox of more than {MAX_OUTBOX_BYTES:,} bytes")
                file = archive.extractfile(entry)
                assert file is not None
                with (folder / name).open("wb") as target:
                    while data := file.read(1024 * 1024):
                        target.write(data)
    except tarfile.TarError as error:
        raise ValueError(f"the outbox's archive is damaged: {error}") from error


class _Stream(io.RawIOBase):
    """Pieces as a file to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Gives what there is of the current piece."""
        while not self._rest:
            try:
                self._rest = memoryview(next(self._pieces))
            except StopIteration:
                return 0
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
