"""Counters of the server, kept in memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Metrics:
    """What was counted since the start. All changes happen on the event loop's thread.

    Attributes:
        calls: Finished calls by (method, status code name).
        seconds: Sum of their durations in seconds, by method.
        active: Calls in progress, by method.
        events: Run events that came in, those that the store knew or refused among them.
        wakeups: Long polls that were woken by a signal.
    """

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    active: Counter[str] = field(default_factory=Counter)
    events: int = 0
    wakeups: int = 0

    def started(self, method: str) -> None:
        """A call began."""
        self.active[method] += 1

    def finished(self, method: str, code: str, seconds: float) -> None:
        """A call ended with `code`."""
        self.active[method] -= 1
        self.calls[method, code] += 1
        self.seconds[method] += seconds  # type: ignore[assignment]  # a Counter sums floats as well
