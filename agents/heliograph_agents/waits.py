"""What launched runs wait for before they begin: told once per change in the agent's log, and with every heartbeat.

The log has the infrastructure's own words. The control plane hears a code of a closed list alone.
"""

from __future__ import annotations

import logging

from heliograph.engine.codes import LaunchDelay
from heliograph_agents.launcher import Waiting
from heliograph_agents.tracker import Phase, Tracker

_log = logging.getLogger("heliograph.agent")

_Key = tuple[str, int]


class Waits:
    """What each of an agent's runs waits for, as it was last seen."""

    def __init__(self) -> None:
        self._known: dict[_Key, Waiting] = {}

    def note(self, key: _Key, found: Waiting | None) -> None:
        """Takes what a run waits for now; None when it waits for nothing that is known."""
        before = self._known.get(key)
        if found is None:
            self.forget(key)
            return
        self._known[key] = found
        if before is None or before.delay is not found.delay:
            level = logging.INFO if found.delay is LaunchDelay.PREPARING else logging.WARNING
            _log.log(level, "%s has not begun: %s", key[0], found.hint)

    def forget(self, key: _Key) -> None:
        """A run has begun, or is over."""
        self._known.pop(key, None)

    def of(self, key: _Key, tracker: Tracker) -> LaunchDelay | None:
        """Returns what to tell of a run; None for one that waits for nothing that is known."""
        if tracker.phase is Phase.LAUNCHING:
            return LaunchDelay.PREPARING
        known = self._known.get(key)
        return known.delay if known is not None and tracker.renew else None
