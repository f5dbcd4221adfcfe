"""Agents that look for nothing when they start again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def adopt_no_containers(launcher: Any) -> None:
    """A restarted agent does not ask the engine, or its folder, what it had started."""
    launcher.DockerLauncher._left = lambda _: {}


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "adopt_no_containers": {"heliograph_agents.launchers.docker.launcher": adopt_no_containers},
}
