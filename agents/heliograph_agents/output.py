"""The flow process's standard output and error, in a file of limited size, and on the agent's own output if wanted."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

CAP_BYTES = 16 * 1024 * 1024
"""Most bytes kept: when the file has half of it, it becomes `output.log.1`, and a new one is started."""

TAIL_BYTES = 64 * 1024
"""Most that `tail` reads."""


def tail(path: Path, lines: int) -> str:
    """Returns the last lines of a file; nothing when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
    return "".join(text.splitlines(keepends=True)[-lines:])


def repeat(pieces: Iterable[bytes]) -> None:
    """Repeats what a container prints on this process's own output, until it ends, or nobody listens."""
    with contextlib.suppress(OSError, ValueError):
        for data in pieces:
            os.write(sys.stdout.fileno(), data)


def log_to(logger: logging.Logger, path: Path) -> None:
    """Has a logger write to a file, and nowhere else."""
    path.touch(mode=0o600)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)


class OutputFile:
    """Appends what the flow writes. Never raises: a full disk must not stop a flow that only wants to print.

    Args:
        path: The file; the older half is beside it with `.1` added.
        echo: True to repeat everything on this process's standard output.
        cap_bytes: Most bytes kept in both files.
    """

    def __init__(self, path: Path, *, echo: bool, cap_bytes: int = CAP_BYTES) -> None:
        self._path, self._echo, self._half_bytes = path, echo, cap_bytes // 2
        self._descriptor = -1
        self._size = 0
        self._open()

    def write(self, data: bytes) -> None:
        """Appends."""
        if self._echo:
            try:
                os.write(1, data)
            except OSError:  # the agent that listened is gone
                self._echo = False
        if self._size >= self._half_bytes:
            with contextlib.suppress(OSError):
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self.close()
            self._open()
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._size += os.write(self._descriptor, data)

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        self._size = 0
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
            self._size = os.fstat(self._descriptor).st_size
