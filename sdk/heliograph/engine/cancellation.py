"""Cancellation of a flow run: one request, seen by everything that works on the run."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Cancellation:
    """A request to stop a run. Thread-safe; asked for once, it stays.

    Attributes:
        reason: Why, in words for people; empty before.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may ask while its own thread holds it
        self._asked = threading.Condition(self._lock)
        self._requested = False
        self._callbacks: list[Callable[[], None]] = []
        self.reason = ""

    @property
    def requested(self) -> bool:
        """True once somebody asked."""
        return self._requested

    def request(self, reason: str = "cancelled on request") -> None:
        """Asks the run to stop. Later requests change nothing. Calls the callbacks, in this thread."""
        with self._lock:
            if self._requested:
                return
            self.reason = reason
            self._requested = True
            self._asked.notify_all()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when the run is asked to stop; at once when it already was."""
        with self._lock:
            if not self._requested:
                self._callbacks.append(callback)
                return
        callback()

    def remove_callback(self, callback: Callable[[], None]) -> None:
        """Forgets `callback`, if it is known."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for a request, at most `timeout` seconds. Returns whether there is one."""
        with self._asked:
            return self._asked.wait_for(lambda: self._requested, timeout)
