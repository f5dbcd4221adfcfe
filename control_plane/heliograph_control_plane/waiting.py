"""Waiting for an event, but not for ever."""

from __future__ import annotations

import asyncio
from contextlib import suppress


async def wait_until(event: asyncio.Event, seconds: float) -> None:
    """Returns when `event` is set or `seconds` have passed.

    Not `asyncio.wait_for`, which in Python 3.11 swallows a cancellation that comes together with the event: a task that
    waits in a loop would never end.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
