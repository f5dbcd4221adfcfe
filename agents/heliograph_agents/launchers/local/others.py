"""The parents of supervisors in environments other than the agent's own: made when asked for, ended when idle.

Each keeps an interpreter with everything imported. Run configs may name any interpreter, so without an end there would
be as many as there were ever names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from heliograph_agents.launchers.local.environments import Environment, Found
from heliograph_agents.launchers.local.parents import SpawnParent, WarmParent
from heliograph_agents.run_directory import RunSettings

__all__ = ["Others"]


@dataclass(slots=True)
class _Other:
    """A parent, with how many launches use it, and since when none does."""

    parent: WarmParent | SpawnParent
    users: int = 0
    idle_since: float = 0.0


class Others:
    """The parents of one launcher, by their interpreters. Used by one event loop.

    Args:
        settings: How flows are run.
        warm: True for warm parents.
    """

    def __init__(self, settings: RunSettings, *, warm: bool) -> None:
        self._settings, self._warm = settings, warm
        self._by_python: dict[str, _Other] = {}

    @property
    def interpreters(self) -> tuple[str, ...]:
        """Those that have a parent now."""
        return tuple(self._by_python)

    @asynccontextmanager
    async def using(
        self, environment: Environment, found: Found, now: float
    ) -> AsyncIterator[WarmParent | SpawnParent]:
        """Gives the parent of an environment, which stays for as long as somebody uses it.

        Args:
            environment: Whose parent.
            found: What is in it.
            now: The time, as for `end_idle`.
        """
        other = self._by_python.get(environment.python)
        if other is None:
            settings = self._settings
            made = WarmParent(settings, environment, found.paths) if self._warm else SpawnParent(settings, environment)
            other = self._by_python[environment.python] = _Other(made)
        other.users += 1
        try:
            yield other.parent
        finally:
            other.users -= 1
            other.idle_since = now

    async def end_idle(self, now: float, idle_seconds: float) -> None:
        """Ends the parents that nobody has asked for in that time. What they started goes on."""
        for python, other in list(self._by_python.items()):
            if not other.users and now - other.idle_since >= idle_seconds:
                del self._by_python[python]  # a launch that comes meanwhile makes another
                await other.parent.stop()

    async def stop(self) -> None:
        """Ends all."""
        for other in self._by_python.values():
            await other.parent.stop()
