"""The kind `local`: runs are processes of the agent's host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from heliograph_agents.launcher import Launcher
    from heliograph_agents.launchers.kinds import Ground

OPTIONS: Sequence[click.Option] = ()
SHARES_HOST = True


def make(ground: Ground) -> Launcher:
    """Makes the launcher."""
    from heliograph_agents.launchers.local.launcher import LocalLauncher

    return LocalLauncher(ground.settings, ground.places.runs)
