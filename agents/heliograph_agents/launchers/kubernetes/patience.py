"""How long the troubles of what waits have lasted, by this process's own clock: no other clock says the same."""

from __future__ import annotations

import time

from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.launchers.kubernetes.phases import Patience, Trouble


class Patients:
    """The attempts in trouble. Threads may share it, one to an attempt.

    Args:
        options: How long each trouble may last.
    """

    def __init__(self, options: KubernetesOptions) -> None:
        self._limits = {
            Patience.NONE: 0.0,
            Patience.CONFIG: options.config_grace_seconds,
            Patience.IMAGE: options.image_grace_seconds,
            Patience.START: float("inf"),  # the agent's own start timeout ends it
        }
        self._since: dict[str, tuple[Patience, float]] = {}

    def is_hopeless(self, name: str, trouble: Trouble | None) -> bool:
        """Takes the present trouble of an attempt. Returns True when it has lasted too long."""
        if trouble is None:
            self.better(name)
            return False
        now = time.monotonic()
        kind, since = self._since.get(name, (trouble.patience, now))
        if kind is not trouble.patience:
            kind, since = trouble.patience, now
        self._since[name] = kind, since
        return now - since >= self._limits[kind]

    def better(self, name: str) -> None:
        """Takes note that an attempt is in no trouble."""
        self._since.pop(name, None)
