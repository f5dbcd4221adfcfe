"""Times and sizes as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """Returns `850 ms`, `4.2 s`, `2 min 05 s`, `1 h 03 min` or `3 d 04 h`."""
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        text = f"{seconds:.1f}"
        return f"{text.removesuffix('.0')} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s" if whole % 60 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min" if whole % 3600 >= 60 else f"{whole // 3600} h"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def ago(time: datetime | None, now: datetime | None = None) -> str:
    """Returns `4 s ago`, `in 2 min`, or an empty text when there is no time. Coarse: one unit."""
    if time is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - time).total_seconds()
    text = _coarse(seconds) if seconds > 0 else _nearest(-seconds)
    if text == "0 s":
        return "now"
    return f"{text} ago" if seconds > 0 else f"in {text}"


def _coarse(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _nearest(seconds: float) -> str:
    # What lies ahead is rounded to the nearest: a token made a moment ago for 90 days has them.
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size * 0.99:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds)} s"


def local(time: datetime | None) -> str:
    """Returns a local time with its zone, `2026-09-07 13:00:05 CEST`, or an empty text."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z").strip() if time else ""


def clock(time: datetime) -> str:
    """Returns the local time of day with milliseconds, `13:00:05.123`."""
    moment = time.astimezone()
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"


def size(count: int) -> str:
    """Returns `812 B`, `24.9 MB`: decimal units, three digits."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.95 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
