"""The answer of the store to one call: waited for by threads, awaited by coroutines.

A call is answered by the writer or a reader thread. Answers to coroutines of one event loop that come with one commit
wake the loop once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final, Generic, TypeVar, cast

T = TypeVar("T")

_log = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 30.0
"""How long a store that closes waits for its threads: they end soon, unless the database is silent."""


class Pending(Generic[T]):
    """An answer that is, or will be, there. `await` it in a coroutine, or call `result()` in a thread."""

    __slots__ = ("_callback", "_done", "_error", "_event", "_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event: threading.Event | None = None
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callback: tuple[asyncio.AbstractEventLoop, Callable[[], None]] | None = None

    @property
    def done(self) -> bool:
        """True when the answer is there."""
        return self._done

    def result(self, timeout_seconds: float | None = None) -> T:
        """Waits for the answer in a thread that is not an event loop's.

        Raises:
            TimeoutError: There is no answer yet. The call goes on.
        """
        with self._lock:
            if not self._done and self._event is None:
                self._event = threading.Event()
        if not self._done:
            assert self._event is not None
            if not self._event.wait(timeout_seconds):
                raise TimeoutError("the store has not answered yet")
        return self._outcome()

    def __await__(self) -> Generator[object, None, T]:
        """Waits in a coroutine. A cancelled waiter does not cancel the call."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        with self._lock:
            if not self._done:
                self._callback = (loop, wake)
        if not self._done:
            yield from waiter
        return self._outcome()

    def _outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def settle(self, value: T) -> tuple[asyncio.AbstractEventLoop, Callable[[], None]] | None:
        """Sets the answer. Returns whom to wake (`wake_all`), if a coroutine waits."""
        return self._finish(value, None)

    def fail(self, error: BaseException) -> tuple[asyncio.AbstractEventLoop, Callable[[], None]] | None:
        """Sets the error. Returns whom to wake, as `settle` does."""
        return self._finish(None, error)

    def _finish(
        self, value: T | None, error: BaseException | None
    ) -> tuple[asyncio.AbstractEventLoop, Callable[[], None]] | None:
        with self._lock:
            self._value, self._error = value, error
            self._done = True
            if self._event is not None:
                self._event.set()
            return self._callback


def wake_all(waiters: list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]]) -> None:
    """Wakes coroutines: one hop into each event loop, however many of its coroutines wait."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
    for loop, wake in waiters:
        by_loop.setdefault(loop, []).append(wake)
    for loop, wakes in by_loop.items():
        try:
            loop.call_soon_threadsafe(_run, wakes)
        except RuntimeError:  # the loop was closed while the call was under way: nobody waits any more
            continue


def join_threads(threads: Sequence[threading.Thread]) -> bool:
    """Waits until threads that answer have ended; leaves those that a silent database holds. True when none is left."""
    limit = time.monotonic() + CLOSE_SECONDS
    for thread in threads:
        thread.join(max(0.0, limit - time.monotonic()))
    left = [thread.name for thread in threads if thread.is_alive()]
    if left:
        _log.error("the store closes although its database is silent: still at work: %s", ", ".join(left))
    return not left


def _run(wakes: list[Callable[[], None]]) -> None:
    for wake in wakes:
        wake()
