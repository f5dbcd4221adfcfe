"""What may be told of an exception: its class and where it was raised, never what it says.

Texts of exceptions, local variables and source lines carry users' values, so none of them is used here, except where
the user's side chose `failure_text = redacted | full`. Names are not trusted either: classes and functions can be made
at run time with a name made from data. A name is told only if it is where Python's own tables say that it is.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, TracebackType
from typing import Literal

from heliograph.engine.sink import FrameInfo

__all__ = [
    "DYNAMIC",
    "MAX_FRAMES",
    "Described",
    "FailureText",
    "chain",
    "class_name",
    "describe_exception",
    "exception_line",
    "frames_of",
    "plain_text",
    "safe_repr",
]

FailureText = Literal["local", "redacted", "full"]

MAX_FRAMES = 50
MAX_NAME_LENGTH = 200
MAX_TEXT_BYTES = 8192
MAX_CHAIN = 20
DYNAMIC = "<dynamic>"
"""Stands for a path or name that is not in a file: code made at run time, or typed at a prompt."""

_OUTERMOST_KEPT = 10
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_FUNCTION = re.compile(r"[A-Za-z_<][A-Za-z0-9_.<>]*")
_PATH = re.compile(r"[A-Za-z0-9_\-./+ ]+\.pyx?")


@dataclass(frozen=True, slots=True)
class Described:
    """What may be told: class, frames (outermost first), and a text only in modes other than `local`."""

    exception_class: str
    frames: tuple[FrameInfo, ...]
    text: str = ""


def describe_exception(
    error: BaseException, root: str | os.PathLike[str] | None = None, text_mode: FailureText = "local"
) -> Described:
    """Describes an exception. Never raises, whatever the exception's own methods do.

    Args:
        error: The exception.
        root: Folder of the bundle; paths are relative to it.
        text_mode: `local`: no text. `redacted`: its last line without known secrets. `full`: its traceback without
            known secrets.
    """
    text = ""
    if text_mode != "local":
        from heliograph.logging.scrubber import scrub

        raw = plain_text(error) if text_mode == "full" else f"{class_name(error)}: {exception_line(error)}"
        text = scrub(raw).encode("utf-8", "replace")[-MAX_TEXT_BYTES:].decode("utf-8", "ignore")
    return Described(class_name(error), frames_of(error, root), text)


def class_name(error: BaseException) -> str:
    """Returns the dotted name of the exception's class, or of its nearest base whose name can be trusted."""
    for kind in type.__dict__["__mro__"].__get__(type(error)):
        module = type.__dict__["__module__"].__get__(kind)
        name = type.__dict__["__qualname__"].__get__(kind)
        if isinstance(module, str) and isinstance(name, str) and _is_there(kind, module, name):
            dotted = f"{module}.{name}"
            if len(dotted) <= MAX_NAME_LENGTH and _NAME.fullmatch(dotted):
                return dotted
    return "builtins.BaseException"


def frames_of(error: BaseException, root: str | os.PathLike[str] | None = None) -> tuple[FrameInfo, ...]:
    """Returns the frames of an exception, outermost first; of many, the first ten and the innermost ones.

    Frames of this product before the user's first one are left out. A group is followed by its first member.
    """
    folder = os.path.realpath(root) if root is not None else None
    frames: list[FrameInfo] = []
    seen: set[int] = set()
    item: BaseException | None = error
    while item is not None and id(item) not in seen and len(seen) < MAX_CHAIN:
        seen.add(id(item))
        frames.extend(_walk(item.__traceback__, folder))
        if isinstance(item, SyntaxError) and isinstance(item.lineno, int) and isinstance(item.filename, str):
            frames.append(FrameInfo(_relative(item.filename, folder), max(item.lineno, 0), "<module>"))
        item = _first_member(item)
    first = next((at for at, frame in enumerate(frames) if not frame.path.startswith("heliograph")), 0)
    frames = frames[first:]
    if len(frames) > MAX_FRAMES:
        frames = frames[:_OUTERMOST_KEPT] + frames[_OUTERMOST_KEPT - MAX_FRAMES :]
    return tuple(frames)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception, its causes and contexts, and members of groups; each once, at most twenty."""
    waiting = [error]
    seen: set[int] = set()
    while waiting and len(seen) < MAX_CHAIN:
        item = waiting.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        waiting += [other for other in (item.__cause__, item.__context__) if other is not None]
        if isinstance(item, BaseExceptionGroup):
            waiting += item.exceptions


def exception_line(error: BaseException) -> str:
    """Returns what the exception says, for the user's own side. Never raises."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 (boundary: `__str__` is the user's code and may even raise SystemExit)
        return "(its text cannot be made: __str__ raised)"


def safe_repr(error: BaseException) -> str:
    """Returns the exception's repr, for the user's own side. Never raises."""
    try:
        return repr(error)
    except BaseException:  # noqa: BLE001 (boundary: `__repr__` is the user's code)
        return f"{type(error).__name__}(…)"


def plain_text(error: BaseException) -> str:
    """Returns the whole traceback as text, for the user's own side: the ledger and standard error. Never raises."""
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except BaseException:  # noqa: BLE001 (boundary: formatting calls the user's own code)
        return f"{class_name(error)}: {exception_line(error)}"


def _first_member(error: BaseException) -> BaseException | None:
    return error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None


def _walk(trace: TracebackType | None, root: str | None) -> Iterator[FrameInfo]:
    head = list(itertools.islice(_tracebacks(trace), 100_000))
    if len(head) > 2 * MAX_FRAMES:  # a recursion: the middle tells nothing
        head = head[:MAX_FRAMES] + head[-MAX_FRAMES:]
    for item in head:
        code = item.tb_frame.f_code
        path = _relative(code.co_filename, root)
        yield FrameInfo(path, item.tb_lineno or 0, DYNAMIC if path == DYNAMIC else _function(code))


def _tracebacks(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _function(code: CodeType) -> str:
    name = code.co_qualname if sys.version_info >= (3, 11) else code.co_name
    return name if len(name) <= MAX_NAME_LENGTH and _FUNCTION.fullmatch(name) else DYNAMIC


def _is_there(kind: type, module: str, qualname: str) -> bool:
    """True when the class is found under its name, as a class statement at a module's top level leaves it."""
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        if found is None:
            return False
        # `__dict__`, not getattr: attribute access could run code of the user's.
        try:
            found = vars(found).get(part)
        except TypeError:
            return False
    return found is kind


@lru_cache(maxsize=4096)
def _relative(filename: str, root: str | None) -> str:
    """Returns a path that says nothing of the machine: below the bundle, or from the package on; else `<dynamic>`."""
    if filename.startswith("<frozen "):
        return "<frozen>"
    real = os.path.realpath(filename)
    if not os.path.isabs(filename) or not Path(real).is_file():  # noqa: PTH117
        return _moved(filename, root)
    candidates = [root] if root is not None else []
    product = Path(__file__).parents[1]
    candidates += [sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")]
    candidates += [str(product), *sorted(filter(None, sys.path), key=len, reverse=True)]
    for candidate in candidates:
        base = os.path.realpath(candidate)
        if real.startswith(base + os.sep):
            return _checked(Path(real).relative_to(base).as_posix())
    return _checked(Path(real).name)


def _moved(filename: str, root: str | None) -> str:
    """A pickle's code names files of the machine that made it: finds them in the bundle by the end of their path."""
    if root is None or not filename.endswith(".py"):
        return DYNAMIC
    parts = Path(filename).parts
    for start in range(1, len(parts)):
        ending = Path(*parts[start:])
        if ".." not in parts[start:] and (Path(root) / ending).is_file():
            return _checked(ending.as_posix())
    return DYNAMIC


def _checked(path: str) -> str:
    return path if len(path) <= MAX_NAME_LENGTH * 2 and _PATH.fullmatch(path) else DYNAMIC
