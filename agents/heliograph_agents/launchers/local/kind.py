"""The kind `local`: runs are processes of the agent's host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from heliograph_agents.launchers.local.options import CRASH_LINES, KEEP_FAILED, KEEP_HOURS, KEEP_SIZE, LocalOptions

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
    click.Option(["--cpus"], type=click.FloatRange(0, min_open=True), help="Processors of runs that say nothing."),
    click.Option(["--memory"], default="", metavar="SIZE", help="Memory of runs that say nothing, as 512m or 2g."),
    click.Option(
        ["--processes"], type=click.IntRange(1), help="Processes and threads of runs that say nothing. [default: any]"
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
    click.Option(
        ["--keep-size"],
        default=KEEP_SIZE,
        show_default=True,
        metavar="SIZE",
        help="How large those that are kept may be together.",
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
    from heliograph.exceptions import InvalidArgumentError
    from heliograph.run_configs.docker import size_in_bytes
    from heliograph_agents.control_groups import Limits
    from heliograph_agents.launchers.local.environments import read_environments

    try:
        memory = size_in_bytes(given["memory"]) if given.get("memory") else 0
        keep_bytes = size_in_bytes(given.get("keep_size") or KEEP_SIZE)
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from error
    return LocalOptions(
        environments=read_environments((*config().agent.environments, *(given.get("environments") or ()))),
        limits=Limits(round(1000 * (given.get("cpus") or 0)), memory, given.get("processes") or 0),
        crash_lines=given.get("crash_lines", CRASH_LINES),
        keep_failed=given.get("keep_failed", KEEP_FAILED),
        keep_seconds=3600.0 * given.get("keep_hours", KEEP_HOURS),
        keep_bytes=keep_bytes,
    )
