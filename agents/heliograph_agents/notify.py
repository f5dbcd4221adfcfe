"""What systemd is told of an agent (`Type=notify`): that it is there, what it does, that its loop lives, that it ends.

Datagrams to the socket that `NOTIFY_SOCKET` names; without it nobody is told anything. Processes of runs do not get it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Protocol

STATUS_SECONDS = 10.0
"""How often the status is told where systemd wants no sign of life."""


class Told(Protocol):
    """What is asked of an agent."""

    opened: asyncio.Event
    draining: asyncio.Event

    def status(self) -> str:
        """What it does, in a line."""


class Notifier:
    """Tells systemd of one agent.

    Args:
        variables: Where the socket and the pace are named; they are taken out, so that no process of a run has them.
    """

    def __init__(self, variables: MutableMapping[str, str] | None = None) -> None:
        source = os.environ if variables is None else variables
        self._address = source.pop("NOTIFY_SOCKET", "")
        micros, pid = source.pop("WATCHDOG_USEC", ""), source.pop("WATCHDOG_PID", "")
        mine = not pid or pid == str(os.getpid())
        self._watched = bool(self._address) and mine and micros.isdecimal() and int(micros) > 0
        self._pause = int(micros) / 2e6 if self._watched else STATUS_SECONDS

    async def follow(self, agent: Told) -> None:
        """Tells of the agent until cancelled. An agent whose loop is stuck tells nothing: systemd restarts it."""
        if not self._address:
            return
        await agent.opened.wait()
        self._send("READY=1", f"STATUS={agent.status()}")
        while not agent.draining.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await agent.draining.wait()
            self._sign_of_life(agent)
        self._send("STOPPING=1", f"STATUS={agent.status()}")
        while True:
            await asyncio.sleep(self._pause)
            self._sign_of_life(agent)

    def _sign_of_life(self, agent: Told) -> None:
        self._send(*(["WATCHDOG=1"] if self._watched else []), f"STATUS={agent.status()}")

    def _send(self, *lines: str) -> None:
        """Sends one message. A socket that is gone is no reason to end."""
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), address)
