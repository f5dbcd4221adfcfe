"""The kind `local`: runs are processes of the agent's host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from heliograph_agents.launchers.local.options import CRASH_LINES, KEEP_FAILED, KEEP_HOURS, LocalOptions

if TYPE_CHECKING:
    from heliograph_agents.launcher import Launcher
    from heliograph_agents.launchers.kinds import Ground

OPTIONS: Sequence[click.Option] = (
    click.Option(
        ["--environment", "environments"],
        multiple=True,
        metavar="NAME=PATH",
        help="A Python environment that runs may ask for: a venv, a conda environment, a uv project, an interpreter. "
        "May be repeated. [default: those of the setting agent.environments]",
    ),
    click.Option(
        ["--crash-lines"],
        type=click.IntRange(0, 10_000),
        default=CRASH_LINES,
        show_default=True,
        help="Lines of what a run left in this agent's log when it died before it was heard of; 0 for none.",
    ),
    click.Option(
        ["--keep-failed"],
        type=click.IntRange(0),
        default=KEEP_FAILED,
        show_default=True,
        help="How many run directories of failed runs are kept.",
    ),
    click.Option(
        ["--keep-hours"],
        type=click.FloatRange(0),
        default=KEEP_HOURS,
        show_default=True,
        help="How long any run directory is kept.",
    ),
)
SHARES_HOST = True


def make(ground: Ground) -> Launcher:
    """Makes the launcher."""
    from heliograph_agents.launchers.local.launcher import LocalLauncher

    return LocalLauncher(ground.settings, ground.places.runs, read_options(ground.options))


def read_options(given: Mapping[str, Any]) -> LocalOptions:
    """Reads the options of the command.

    Raises:
        InvalidArgumentError: One is not possible.
    """
    from heliograph.config import config
    from heliograph_agents.launchers.local.environments import read_environments

    return LocalOptions(
        environments=read_environments((*config().agent.environments, *(given.get("environments") or ()))),
        crash_lines=given.get("crash_lines", CRASH_LINES),
        keep_failed=given.get("keep_failed", KEEP_FAILED),
        keep_seconds=3600.0 * given.get("keep_hours", KEEP_HOURS),
    )
