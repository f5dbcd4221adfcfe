"""The engine's only clock: what time it is, and how to wait for a time or an event, whichever comes first."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_WAIT_SECONDS = 1.0
_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def _passed_nanos() -> int:
    """Returns the time since some moment: with the time that the machine slept, where there is such a clock."""
    return time.clock_gettime_ns(_CLOCK) if _CLOCK is not None else time.monotonic_ns()


class Clock(Protocol):
    """What the engine asks of a clock."""

    def now(self) -> int:
        """Returns the time in microseconds since 1970-01-01T00:00:00Z."""

    def wait(self, condition: threading.Condition, until: int | None) -> None:
        """Waits, with `condition` held, for a notification, at most until the time `until`."""


class SystemClock:
    """The machine's time when this was made, and what has passed since: setting the machine's clock changes nothing.

    A retry in ten seconds comes in ten seconds, and the states of a run are in order, whatever happens to the clock.
    """

    def __init__(self) -> None:
        self._start_nanos = time.time_ns() - _passed_nanos()

    def now(self) -> int:
        """Returns the time in microseconds since 1970-01-01T00:00:00Z."""
        return (self._start_nanos + _passed_nanos()) // 1000

    def wait(self, condition: threading.Condition, until: int | None) -> None:
        """Waits, with `condition` held, for a notification, at most until the time `until`.

        May return earlier: callers look again. It wakes every second, because a signal that arrives just before the
        main thread begins to wait does not wake it, and because a machine may have slept.
        """
        seconds = _LONGEST_WAIT_SECONDS if until is None else (until - self.now()) / 1e6
        if seconds > 0:
            condition.wait(min(seconds, _LONGEST_WAIT_SECONDS))


def to_micros(moment: datetime) -> int:
    """Returns a moment in microseconds since the epoch; a naive one is read as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def to_datetime(micros: int) -> datetime:
    """Returns the moment of a time in microseconds, aware, in UTC."""
    return _EPOCH + timedelta(microseconds=micros)
