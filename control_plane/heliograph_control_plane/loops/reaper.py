"""The reaper: offers that nobody accepted go back to the queue, runs that nobody vouches for become Crashed.

What is due is decided by `domain.runs`; the store does it row by row under the condition that nothing changed since.
After a start of the control plane it waits, so that writers that could not reach it can report first.
"""

from __future__ import annotations

import asyncio

import structlog

from heliograph_control_plane.store.interface import Store

PAUSE_SECONDS = 2.0

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
        self._not_before = not_before_micros
        self.wake = asyncio.Event()

    async def once(self) -> float:
        """Does what is due; returns the pause in seconds."""
        left = self._not_before - self._store.now()
        if left > 0:
            return left / 1e6
        reaped = await self._store.reap()
        if reaped.requeued or reaped.crashed:
            _log.info("reaped", requeued=len(reaped.requeued), crashed=len(reaped.crashed))
        return 0.0 if reaped.more else PAUSE_SECONDS
