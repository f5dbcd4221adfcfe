"""What an agent has under way on infrastructure whose calls block: in threads, and once for each attempt.

Whoever asks for a launch that is under way gets its outcome. An attempt is looked at by one at a time, so that its end
is found once. One that is asked to stop is being stopped until it has, however often it is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from heliograph_agents.exits import exit_of
from heliograph_agents.launcher import Handle, InfraExit, Liveness
from heliograph_agents.launchers.records import Records

_log = logging.getLogger("heliograph.agent")

STOP_PAUSE_SECONDS = 2.0

T = TypeVar("T")


class UnderWay:
    """The work of one launcher.

    Args:
        kind: Name of the launcher's kind, for its threads.
        records: The folders of its attempts.
        threads: How many calls at once.
        launches: How many calls of launches at once, beside those: the others wait their turn.
    """

    def __init__(self, kind: str, records: Records, threads: int, launches: int) -> None:
        self._records = records
        self._threads = ThreadPoolExecutor(threads, f"heliograph-{kind}")
        self._launch_threads = ThreadPoolExecutor(launches, f"heliograph-{kind}-launch")
        self._launching: dict[str, asyncio.Task[Handle]] = {}
        self._looking: dict[str, asyncio.Lock] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}

    @property
    def launching(self) -> set[str]:
        """Names of the attempts that are being launched."""
        return set(self._launching)

    async def do(self, work: Callable[..., T], *arguments: Any) -> T:
        """Does what blocks in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def do_launch(self, work: Callable[..., T], *arguments: Any) -> T:
        """Does what blocks of a launch in a thread of its own kind."""
        return await asyncio.get_running_loop().run_in_executor(self._launch_threads, work, *arguments)

    async def launch(self, name: str, begin: Callable[[], Coroutine[Any, Any, Handle]]) -> Handle:
        """Launches an attempt, or waits for the launch that is under way. Goes on when whoever asked has left."""
        under_way = self._launching.get(name)
        if under_way is None:
            under_way = self._launching[name] = asyncio.get_running_loop().create_task(begin())
            under_way.add_done_callback(lambda done: self._launched(name, done))
        return await asyncio.shield(under_way)

    def _launched(self, name: str, done: asyncio.Task[Handle]) -> None:
        self._launching.pop(name, None)
        if not done.cancelled():
            done.exception()  # whoever asked may have left

    async def inspect(self, handle: Handle, look: Callable[[Handle], Liveness | InfraExit]) -> Liveness | InfraExit:
        """Returns what is known of an attempt's end; else what `look` finds, which blocks."""
        known = self._records.folder(handle).exit()
        if known is not None:
            return exit_of(known)
        name = handle.infrastructure
        if name in self._launching:
            return Liveness.STARTING
        async with self._looking.setdefault(name, asyncio.Lock()):
            found = await self.do(look, handle)
        if isinstance(found, InfraExit):
            self._looking.pop(name, None)
        return found

    def stop(self, name: str, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begins to stop an attempt, unless that is under way."""
        if name not in self._stopping:
            task = self._stopping[name] = asyncio.get_running_loop().create_task(begin())
            task.add_done_callback(lambda _: self._stopping.pop(name, None))

    async def insist(
        self, handle: Handle, look: Callable[[Handle], Liveness | InfraExit], end: Callable[[], object]
    ) -> bool:
        """Has an attempt that lives end: calls `end`, which blocks, until that is taken.

        Returns:
            False when it had ended.
        """
        while True:
            try:
                if isinstance(await self.inspect(handle, look), InfraExit):
                    return False
                await self.do(end)
            except OSError as error:
                _log.warning("%s cannot be stopped, trying again: %s", handle.infrastructure, error)
                await asyncio.sleep(STOP_PAUSE_SECONDS)
            else:
                return True

    def forget(self, name: str) -> None:
        """Nobody asks for that attempt any more."""
        self._looking.pop(name, None)

    def leave(self) -> None:
        """Stops no more attempts. What is being launched goes on."""
        for task in [*self._stopping.values()]:
            task.cancel()

    def close(self) -> None:
        """Lets go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._launch_threads.shutdown(wait=False, cancel_futures=True)
