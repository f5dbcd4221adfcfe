"""The pruner: records of requests older than a day, and hashes of ended run tokens, are deleted piece by piece."""

from __future__ import annotations

import asyncio

from heliograph_control_plane.store.interface import Store

PAUSE_SECONDS = 600.0
AT_ONCE = 1_000


class Pruner:
    """The loop."""

    name = "pruner"

    def __init__(self, store: Store) -> None:
        self._store = store
        self.wake = asyncio.Event()

    async def once(self) -> float:
        """Deletes one piece; returns the pause in seconds."""
        return 0.1 if await self._store.prune(AT_ONCE) >= AT_ONCE else PAUSE_SECONDS
