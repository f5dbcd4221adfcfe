"""Kinds of launchers: which there are, which options their agents take, and how one is made.

Each kind is a module with the members of `Kind`. It is imported when its options are asked for, and must be light: what
its launcher needs (an SDK of some infrastructure) is imported in `make`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import click

from heliograph.exceptions import InvalidArgumentError
from heliograph_agents.most import BOUNDLESS, Most

if TYPE_CHECKING:
    from heliograph_agents.host import Folders
    from heliograph_agents.launcher import Launcher
    from heliograph_agents.link import Link
    from heliograph_agents.run_directory import RunSettings

_MODULES = {
    "local": "heliograph_agents.launchers.local.kind",
    "docker": "heliograph_agents.launchers.docker.kind",
    "ecs": "heliograph_agents.launchers.ecs.kind",
    "kubernetes": "heliograph_agents.launchers.kubernetes.kind",
}

NAMES = tuple(_MODULES)
"""The kinds, in the order in which help shows them."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a launcher is made from.

    Attributes:
        settings: How flows are run, as on this host; launchers of containers change the paths.
        places: The agent's folders.
        options: Values of the kind's own options, by parameter name.
        link: The agent's connection to the control plane; None where nothing will be launched.
        start_timeout_seconds: How long a run's infrastructure may take to start, where its run config says nothing.
        most: What the agent's policy lets one run take.
    """

    settings: RunSettings
    places: Folders
    options: Mapping[str, Any]
    link: Link | None = None
    start_timeout_seconds: float = 900.0
    most: Most = BOUNDLESS


class Kind(Protocol):
    """One kind.

    Attributes:
        OPTIONS: The options of its agents besides those that all have.
        SHARES_HOST: True when its runs read this host's disk: bundles in `Local` storage are theirs then.
    """

    OPTIONS: Sequence[click.Option]
    SHARES_HOST: bool

    def make(self, ground: Ground) -> Launcher:
        """Makes its launcher.

        Raises:
            InvalidArgumentError: An option is not possible, or a package is not installed.
        """


def kind(name: str) -> Kind:
    """Returns the kind of that name.

    Raises:
        InvalidArgumentError: There is none.
    """
    if name not in _MODULES:
        raise InvalidArgumentError(f"agents of type {name!r} are not known; known: {', '.join(NAMES)}")
    return cast("Kind", importlib.import_module(_MODULES[name]))


def defaults(chosen: Kind) -> dict[str, Any]:
    """Returns the options of a kind as its command has them where nothing is given."""
    return click.Command("start", params=list(chosen.OPTIONS)).make_context("start", []).params
