"""Supervisors that fail before the control plane hears of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LAST_WORDS = "42 wheels came off"


def die_unheard(supervisor: Any) -> None:
    """The supervisor fails as it opens its channel."""

    def fail(_: Any) -> None:
        raise RuntimeError(LAST_WORDS)

    supervisor._Supervisor._open_pumps = fail


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "die_unheard": {"heliograph_agents.supervisor": die_unheard},
}
