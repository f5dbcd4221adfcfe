"""A Gantt chart as lines of text: one bar a row on a common scale of seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heliograph.cli.text import clean, pad, paint, shorten, width
from heliograph.cli.times import duration

MAX_LABEL = 32
STEPS = (1, 2, 5)
EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        label: Its name.
        start: When it began, in seconds on any clock; None when it never did.
        end: When it ended; None when it goes on.
        color: Its colour for people.
        note: What stands behind it.
    """

    label: str
    start: float | None
    end: float | None
    color: str | None = None
    note: str = ""


def render_gantt(
    bars: Sequence[Bar], *, columns: int = 100, color: bool = False, now: float | None = None, ascii_only: bool = False
) -> list[str]:
    """Renders bars over a scale that begins at the earliest start.

    Args:
        bars: The bars, in the order of the rows.
        columns: Width of the picture.
        color: True to colour.
        now: Where bars without an end stop; the latest time seen by default.
        ascii_only: Draws with `#` where the output cannot take block characters.
    """
    times = [time for bar in bars for time in (bar.start, bar.end) if time is not None]
    if not times:
        return []
    begin = min(times)
    goes_on = any(bar.start is not None and bar.end is None for bar in bars)
    end = max([*times, now] if goes_on and now is not None else times)
    span = max(end - begin, 1e-3)
    labels = [shorten(clean(bar.label), MAX_LABEL) for bar in bars]
    label_width = max(width(label) for label in labels)
    note_width = max(width(bar.note) for bar in bars)
    room = max(10, columns - label_width - 2 - (note_width + 2 if note_width else 0))
    lines = [pad("", label_width) + "  " + _scale(span, room)]
    for bar, label in zip(bars, labels, strict=True):
        picture, used = "", 0
        if bar.start is not None:
            left = (bar.start - begin) / span * room
            right = ((bar.end if bar.end is not None else end) - begin) / span * room
            picture, used = _bar(left, right, room, ascii_only)
        blank, shape = picture[: len(picture) - len(picture.lstrip())], picture.lstrip()
        line = pad(label, label_width) + "  " + blank + paint(shape, bar.color, color)
        if bar.note:
            line += " " * (room - used) + "  " + bar.note
        lines.append(line.rstrip())
    return lines


def _bar(left: float, right: float, room: int, ascii_only: bool) -> tuple[str, int]:
    """Draws one bar and returns it with the columns it takes. A bar is never invisible, however short."""
    first = min(int(left), room - 1)
    if ascii_only:
        length = max(1, min(round(right), room) - first)
        return " " * first + "#" * length, first + length
    eighths = max(1, round((min(right, room) - first) * 8))
    full, rest = divmod(eighths, 8)
    shape = EIGHTHS[8] * full + (EIGHTHS[rest] if rest else "")
    return " " * first + shape, first + len(shape)


def _scale(span: float, room: int) -> str:
    """Draws the scale: round numbers of seconds, minutes or hours, as many as have room."""
    step = _step(span, max(2, room // 12))
    line, at = "", 0.0
    while at <= span * 1.0001:
        column = int(at / span * room)
        text = "0" if at == 0 else duration(at)
        if column + width(text) > room + 8:
            break
        if column >= width(line) + (2 if line else 0):
            line = pad(line, column) + text
        at += step
    return line


def _step(span: float, ticks: int) -> float:
    """Returns the smallest round step that gives at most `ticks` ticks."""
    units = [10.0**power for power in range(-3, 2)]
    candidates = [unit * step for unit in units for step in STEPS if unit * step < 60]
    candidates += [60.0 * m for m in (1, 2, 5, 10, 20, 30)] + [3600.0 * h for h in (1, 2, 6, 12, 24, 48, 168)]
    return next((step for step in candidates if span / step <= ticks), span)
