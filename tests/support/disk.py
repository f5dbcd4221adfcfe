"""Disks that fail when a test says so, and that write down what was done to them.

`faultfs.c`, compiled once and preloaded into real processes, stands between them and the kernel. Nothing in the product
knows of it.
"""

from __future__ import annotations

import errno
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

import pytest

_HEADER = struct.Struct("<BHqq")

SHORT = 0
"""In place of an errno: writes take half of what they were given."""


class Kind(IntEnum):
    """What was done to a file."""

    WRITE = 1
    SYNC = 2
    TRUNCATE = 3
    UNLINK = 4
    FAILED_SYNC = 5


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one file.

    Attributes:
        kind: What it was.
        file: The file's name, without its folder.
        offset: Where it was written.
        length: How much; the new length of a truncated file.
        data: What was written.
    """

    kind: Kind
    file: str
    offset: int
    length: int
    data: bytes


def read_record(path: Path) -> list[Change]:
    """Reads what a process did, in order."""
    data, changes, at = path.read_bytes(), [], 0
    while at < len(data):
        kind, name_length, offset, length = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        name, at = data[at : at + name_length].decode(), at + name_length
        body = data[at : at + length] if kind == Kind.WRITE else b""
        at += len(body)
        changes.append(Change(Kind(kind), name, offset, length, body))
    return changes


@lru_cache
def library(name: str = "faultfs") -> Path:
    """Compiles a library of this folder, once a process."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux"):
        pytest.skip("libraries are preloaded, which needs Linux and glibc")
    assert compiler, "the tests of failing disks and wrong clocks need a C compiler: `tools/install.sh system`"
    made = Path(tempfile.mkdtemp(prefix=f"{name}-")) / f"{name}.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(Path(__file__).with_name(f"{name}.c")), "-ldl"],
        check=True,
    )
    return made


class Disk:
    """The failing disk of some processes.

    Args:
        folder: Where its rules and its record are.
        watch: Paths that contain this are on it.
        recording: Whether it writes down what is done to it.
    """

    def __init__(self, folder: Path, watch: str, *, recording: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._rules = folder / "rules"
        self.record = folder / "record"
        self.environment = {
            "LD_PRELOAD": str(library()),
            "FAULTFS_WATCH": watch,
            "FAULTFS_RULES": str(self._rules),
            **({"FAULTFS_RECORD": str(self.record)} if recording else {}),
        }

    def fail(self, operations: str, number: int, *, path: str = "*", skip: int = 0, times: int = 0) -> None:
        """Has `write`, `sync`, `truncate` or `create` (several with commas) fail with an errno, or `SHORT`."""
        half = self._rules.with_name("rules.half")
        half.write_text(f"{operations} {number} {path} {skip} {times}")
        half.replace(self._rules)

    def fill(self, path: str = "*") -> None:
        """Lets nothing be written and no file be made any more: the disk is full."""
        self.fail("write,create", errno.ENOSPC, path=path)

    def mend(self) -> None:
        """Has everything work again."""
        self._rules.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mounts a tmpfs of a size, as root may."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.fail(f"no file system can be mounted here: {done.stderr.decode().strip()}", pytrace=False)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
