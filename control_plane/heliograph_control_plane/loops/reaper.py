"""The reaper: offers that nobody accepted go back to the queue, runs that nobody vouches for become Crashed.

What is due is decided by `domain.runs`; the store does it row by row under the condition that nothing changed since.
After a start of the control plane it waits, so that writers that could not reach it can report first. So it does
when time jumped: the machine slept, the process was frozen, somebody set the clock.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from heliograph_control_plane.domain.runs import start_up_grace
from heliograph_control_plane.store.interface import Store

PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 10.0
GAP_SECONDS = 60.0
"""Time between two turns after which nobody can be blamed for silence: a run's lease."""

_log = structlog.get_logger("heliograph.loops")


class Reaper:
    """The loop.

    Args:
        store: Where the deadlines are.
        not_before_micros: End of the start-up grace, by the store's clock.
    """

    name = "reaper"

    def __init__(self, store: Store, not_before_micros: int) -> None:
        self._store = store
        self._not_before = time.monotonic() + (not_before_micros - store.now()) / 1e6
        self._last = (store.now() / 1e6, time.monotonic())
        self.wake = asyncio.Event()

    async def once(self) -> float:
        """Does what is due; returns the pause in seconds."""
        now = (self._store.now() / 1e6, time.monotonic())
        gap = max(now[0] - self._last[0], now[1] - self._last[1])
        self._last = now
        if gap > GAP_SECONDS:
            grace_seconds = start_up_grace() / 1e6
            _log.warning("time jumped; nothing is reaped for a while", seconds=round(gap), grace_seconds=grace_seconds)
            self._not_before = max(self._not_before, now[1] + grace_seconds)
        left = self._not_before - now[1]
        if left > 0:
            return min(left, LONGEST_PAUSE_SECONDS)
        reaped = await self._store.reap()
        if reaped.requeued or reaped.crashed:
            _log.info("reaped", requeued=len(reaped.requeued), crashed=len(reaped.crashed))
        return 0.0 if reaped.more else PAUSE_SECONDS
