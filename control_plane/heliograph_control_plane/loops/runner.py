"""Runs the loops while this control plane is the leader.

A loop that fails is logged and tried again after a growing pause; it never ends, and never takes another with it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from heliograph_control_plane.errors import describe_fault
from heliograph_control_plane.store.interface import Store
from heliograph_control_plane.waiting import wait_until

LEADERSHIP = "loops"
TTL_MICROS = 15 * 1_000_000
RENEW_SECONDS = 5.0
MAX_PAUSE_SECONDS = 60.0

_log = structlog.get_logger("heliograph.loops")


class Loop(Protocol):
    """One loop."""

    @property
    def name(self) -> str:
        """Its name in the log."""

    @property
    def wake(self) -> asyncio.Event:
        """Set to make it run before its pause is over."""

    async def once(self) -> float:
        """Does what is due; returns the pause until the next time, in seconds."""


class LoopRunner:
    """Holds the leadership and runs the loops under it."""

    def __init__(self, store: Store, loops: Sequence[Loop]) -> None:
        self._store = store
        self._loops = loops
        self._holder = uuid.uuid4().hex
        self.leading = asyncio.Event()

    async def run(self) -> None:
        """Runs until cancelled, then gives the leadership up."""
        tasks: list[asyncio.Task[None]] = []
        try:
            while True:
                leads = await self._acquire()
                if leads and not tasks:
                    tasks = [asyncio.create_task(keep_going(loop), name=f"loop-{loop.name}") for loop in self._loops]
                    self.leading.set()
                elif not leads and tasks:
                    await _cancel(tasks)
                    tasks = []
                    self.leading.clear()
                await asyncio.sleep(RENEW_SECONDS)
        finally:
            await _cancel(tasks)
            with suppress(Exception):
                await self._store.release_leadership(LEADERSHIP, self._holder)

    async def _acquire(self) -> bool:
        try:
            return await self._store.acquire_leadership(LEADERSHIP, self._holder, TTL_MICROS) is not None
        except Exception as error:  # noqa: BLE001  # boundary: without the store nobody leads, and the loop goes on
            _log.warning("leadership cannot be renewed", **describe_fault(error))
            return False


async def keep_going(loop: Loop) -> None:
    """Runs one loop until cancelled, whatever its data does to it."""
    failures = 0
    while True:
        loop.wake.clear()
        try:
            pause = await loop.once()
            failures = 0
        except Exception as error:  # noqa: BLE001  # boundary: a loop never dies from data
            failures += 1
            pause = min(2.0**failures, MAX_PAUSE_SECONDS)
            _log.error("loop failed", loop=loop.name, failures=failures, **describe_fault(error))
        await wait_until(loop.wake, pause)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
