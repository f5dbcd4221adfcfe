"""What of a log line may leave the user's side, in each mode. Decided once, before a line is kept for shipping."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Literal

from heliograph.failures import chain, class_name, exception_line, frames_of, plain_text
from heliograph.logging.scrubber import scrub

__all__ = ["MAX_MESSAGE_BYTES", "LogMode", "crossing_record"]

LogMode = Literal["local", "redacted", "full"]

MAX_MESSAGE_BYTES = 8192
MAX_LOGGER_BYTES = 200
_PRINTED = str(Path("heliograph", "engine", "stdout.py"))
_CUT = " … (cut)"
_LOGGER_NAME = re.compile(r"[^\w.\- ]")


def crossing_record(record: logging.LogRecord, mode: LogMode, root: str | None = None) -> tuple[int, str, str] | None:
    """Returns level, logger's name and message as they may cross; None for a line that stays altogether.

    Args:
        record: The line. Its attribute `stays_local` marks what holds a text that no user sent: it crosses in mode
            `full` alone, as does what a task printed rather than logged.
        mode: `local`: level alone. `redacted`: what was said through a logger, without secrets, without texts of
            exceptions, without printed lines. `full`: everything but secrets.
        root: Folder of the bundle, for paths of frames.

    Never raises: a line whose arguments do not fit its format is told by its format alone.
    """
    if mode == "local":
        return record.levelno, "", ""
    if mode == "redacted" and (getattr(record, "stays_local", False) or record.pathname.endswith(_PRINTED)):
        return None
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 (boundary: formatting calls the user's own __str__)
        message = str(record.msg) if isinstance(record.msg, str) else type(record.msg).__name__
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        message = f"{message}\n{plain_text(error)}" if mode == "full" else _without_text(message, error, root)
    if record.stack_info and mode == "full":
        message = f"{message}\n{record.stack_info}"
    return record.levelno, _name(record.name), _cut(scrub(message), MAX_MESSAGE_BYTES)


def _without_text(message: str, error: BaseException, root: str | None) -> str:
    """Replaces texts of the exception in the message, and adds its class and frames."""
    for item in chain(error):
        text = exception_line(item)
        if len(text) >= 4:
            message = message.replace(text, "***")
    frames = [f"  {frame.path}:{frame.line} in {frame.function}" for frame in frames_of(error, root)]
    return "\n".join([message, *frames, class_name(error)])


def _name(name: str) -> str:
    return _cut(_LOGGER_NAME.sub("_", name), MAX_LOGGER_BYTES)


def _cut(text: str, limit: int) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT
