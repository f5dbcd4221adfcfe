"""Runs whose limits are not set, and a system that has no control groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def no_control_groups(control_groups: Any) -> None:
    """Not a bug: a user who may make none."""
    control_groups._bases = dict


def limits_not_set(confinement: Any) -> None:
    """The limits of a run are read, and nobody sets them."""
    confinement.confine = lambda *_: confinement.Confinement()


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "limits_not_set": {"heliograph_agents.confinement": limits_not_set},
    "no_control_groups": {"heliograph_agents.control_groups": no_control_groups},
}
