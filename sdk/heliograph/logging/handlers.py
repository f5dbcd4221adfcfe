"""The product's loggers and their handlers."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any, TextIO, cast

from heliograph.config import config
from heliograph.context import current_task
from heliograph.exceptions import ConfigurationError

__all__ = ["ROOT", "ConsoleHandler", "attach_sink", "child_logger", "configure", "detach_sink", "get_logger"]

ROOT = "heliograph"

_lock = threading.RLock()
_console: ConsoleHandler | None = None


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Writes lines to standard output as it is when the line comes."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    @property
    def stream(self) -> TextIO:
        """The real standard output, also while a task's prints are turned into lines: no line becomes a print again."""
        stream: Any = sys.stdout
        if type(stream).__module__ == "heliograph.engine.stdout":
            stream = stream.stream
        return cast("TextIO", stream)

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Ignores what the base class sets."""


class _ContextFilter(logging.Filter):
    """Puts `task_index` and `map_index` of the running task on a record, from the thread that logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "task_index"):
            task = current_task()
            record.task_index = task.task_index if task is not None else None
            record.map_index = task.map_index if task is not None else None
        return True


def get_logger(name: str | None = None) -> logging.Logger:
    """Returns a logger of the product, set up as the settings say.

    Args:
        name: Name below `heliograph`; None means `heliograph` itself.
    """
    if _console is None:
        configure()
    return logging.getLogger(ROOT if not name or name == ROOT else f"{ROOT}.{name.removeprefix(f'{ROOT}.')}")


def child_logger(name: str, index: int) -> logging.Logger:
    """Returns a logger for one child of a mapped task.

    It is not registered: registered loggers live as long as the process, and a map may have many children.

    Args:
        name: Name of the task.
        index: Index of the child.
    """
    parent = get_logger(name)
    logger = logging.Logger(f"{parent.name}[{index}]")  # noqa: LOG001 - see above
    logger.parent = parent
    return logger


def configure(level: str | None = None) -> None:
    """Sets level and console handler of the product's loggers and the setting's `extra_loggers`. Safe to call again.

    Raises:
        ConfigurationError: If the format is malformed.
    """
    global _console
    settings = config().logging
    try:
        formatter = logging.Formatter(settings.format, settings.datefmt)
    except ValueError as error:
        raise ConfigurationError(f"logging.format cannot be used: {error}") from error
    with _lock:
        if _console is None:
            _console = ConsoleHandler()
            _console.addFilter(_ContextFilter())
        _console.setFormatter(formatter)
        for name in (ROOT, *settings.extra_loggers):
            logger = logging.getLogger(name)
            logger.setLevel(level or settings.level)
            if _console not in logger.handlers:
                logger.addHandler(_console)


def attach_sink(handler: logging.Handler) -> None:
    """Gives every line of the product's loggers and `extra_loggers` to `handler` too, with the task's indices on it."""
    if _console is None:
        configure()
    handler.addFilter(_ContextFilter())
    with _lock:
        for name in (ROOT, *config().logging.extra_loggers):
            logging.getLogger(name).addHandler(handler)


def detach_sink(handler: logging.Handler) -> None:
    """Takes a handler away again."""
    with _lock:
        for name in (ROOT, *config().logging.extra_loggers):
            logging.getLogger(name).removeHandler(handler)
