"""The engine's only clock: what time it is, and how to wait for a time or an event, whichever comes first."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LONGEST_WAIT_SECONDS = 3600.0


class Clock(Protocol):
    """What the engine asks of a clock."""

    def now(self) -> int:
        """Returns the time in microseconds since 1970-01-01T00:00:00Z."""

    def wait(self, condition: threading.Condition, until: int | None) -> None:
        """Waits, with `condition` held, for a notification, at most until the time `until`."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> int:
        """Returns the time in microseconds since 1970-01-01T00:00:00Z."""
        return time.time_ns() // 1000

    def wait(self, condition: threading.Condition, until: int | None) -> None:
        """Waits, with `condition` held, for a notification, at most until the time `until`.

        Wakes at least hourly: a machine's clock may be set while a run waits for a date.
        """
        if until is None:
            condition.wait()
            return
        seconds = (until - self.now()) / 1e6
        if seconds > 0:
            condition.wait(min(seconds, _LONGEST_WAIT_SECONDS))


def to_micros(moment: datetime) -> int:
    """Returns a moment in microseconds since the epoch; a naive one is read as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def to_datetime(micros: int) -> datetime:
    """Returns the moment of a time in microseconds, aware, in UTC."""
    return _EPOCH + timedelta(microseconds=micros)
