"""Text for terminals: cleaned of control characters, measured in columns, coloured when a person looks."""

from __future__ import annotations

import os
import sys
import unicodedata
from typing import TextIO

_BIDI = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
_COLORS = {"green": "32", "red": "31", "yellow": "33", "blue": "34", "cyan": "36", "dim": "2", "bold": "1"}


def clean(text: str, *, keep_lines: bool = False) -> str:
    """Removes what could act on a terminal or reorder a line: control, escape and bidi characters.

    Args:
        text: Text from elsewhere: a name, a log line, an error.
        keep_lines: Keeps newlines and tabs.
    """
    kept = []
    for char in text.translate(_BIDI):
        if char in "\n\t":
            kept.append(char if keep_lines else " ")
        elif unicodedata.category(char) not in ("Cc", "Cs"):
            kept.append(char)
        elif char == "\x1b":
            kept.append("␛")
    return "".join(kept)


def width(text: str) -> int:
    """Number of terminal columns that a cleaned text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Fills a text with spaces up to `columns`; `right` aligns it at the right."""
    space = " " * max(0, columns - width(text))
    return space + text if right else text + space


def shorten(text: str, columns: int) -> str:
    """Cuts a text to `columns`, with an ellipsis as the last one."""
    if width(text) <= columns:
        return text
    kept, used = [], 0
    for char in text:
        used += width(char)
        if used > columns - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"


def use_color(mode: str, stream: TextIO) -> bool:
    """Decides on colour: the flag, then `NO_COLOR`, `CLICOLOR_FORCE`, `TERM=dumb`, then whether a person looks."""
    if mode != "auto":
        return mode == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") != "0":
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, color: str | None, on: bool) -> str:
    """Colours a text when `on`."""
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m" if on and color else text


def terminal_columns(stream: TextIO | None = None, default: int = 100) -> int:
    """Width of the terminal, or `default` where there is none."""
    stream = stream or sys.stdout
    try:
        return os.get_terminal_size(stream.fileno()).columns or default
    except (OSError, ValueError):
        return default
