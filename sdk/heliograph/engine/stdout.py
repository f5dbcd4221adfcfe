"""Turns what a task prints into log lines, for `log_stdout=True`: in its own thread only."""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_target: contextvars.ContextVar[_Lines | None] = contextvars.ContextVar("heliograph_stdout", default=None)
_lock = threading.Lock()
_users = 0


class _Lines:
    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.rest = ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self._log(line)
        return len(text)

    def close(self) -> None:
        if self.rest:
            self._log(self.rest)
            self.rest = ""

    def _log(self, line: str) -> None:
        token = _target.set(None)  # a log handler that prints must not come back here
        try:
            self.logger.info("%s", line)
        finally:
            _target.reset(token)


class _Split:
    """Stands in for `sys.stdout`: threads of such tasks log, all others print."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        lines = _target.get()
        return self.stream.write(text) if lines is None else lines.write(text)

    def flush(self) -> None:
        if _target.get() is None:
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def printed_lines_to(logger: logging.Logger) -> Iterator[None]:
    """Logs what this thread prints in the block, line by line, at INFO."""
    global _users
    lines = _Lines(logger)
    with _lock:
        _users += 1
        if not isinstance(sys.stdout, _Split):
            sys.stdout = _Split(sys.stdout)
    token = _target.set(lines)
    try:
        yield
    finally:
        _target.reset(token)
        lines.close()
        with _lock:
            _users -= 1
            if not _users and isinstance(sys.stdout, _Split):
                sys.stdout = sys.stdout.stream
