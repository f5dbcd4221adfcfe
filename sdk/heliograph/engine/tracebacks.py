"""What a terminal shows of an exception: the part of its traceback that the user wrote.

A traceback begins where the user's code does. What the product itself refuses (a value that cannot be pickled, a result
that cannot be mapped over) has no such part, and is told by its message alone.
"""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

from heliograph.failures import chain, class_name, exception_line

_PRODUCT = str(Path(__file__).parents[1])
_NOBODY = tuple({_PRODUCT, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))})
"""Folders of code that the user did not write."""


def from_user_code(error: BaseException) -> BaseException:
    """Cuts the product's own frames off the beginning of the traceback; leaves one that has no others."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PRODUCT):
        trace = trace.tb_next
    return error if trace is None else error.with_traceback(trace)


def has_user_code(error: BaseException) -> bool:
    """Tells whether code of the user is in the traceback of the exception, or of what it came from."""
    return any(_is_users(item.__traceback__) for item in chain(error))


def last_line(error: BaseException) -> str:
    """Returns class, text and notes of an exception as a traceback ends with them. Never raises."""
    try:
        return "".join(traceback.format_exception_only(error)).rstrip()
    except BaseException:  # noqa: BLE001 - formatting calls the user's own code
        return f"{class_name(error)}: {exception_line(error)}"


def _is_users(trace: TracebackType | None) -> bool:
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_NOBODY):
            return True
        trace = trace.tb_next
    return False
