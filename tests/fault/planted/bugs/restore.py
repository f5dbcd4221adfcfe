"""Mistakes after a control plane was restored from a backup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def remember_no_ends(ended: Any) -> None:
    """The agent does not know how its runs ended, and cannot tell it again."""
    ended.Ended.all = lambda _: []


def keep_the_old_token(performer: Any) -> None:
    """A run whose token a restored control plane does not know gets no other one."""

    async def nothing(self: Any, handle: Any) -> None:
        """Accepts nothing again."""

    performer.Performer._accept_again = nothing


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "keep_the_old_token": {"heliograph_agents.performer": keep_the_old_token},
    "remember_no_ends": {"heliograph_agents.ended": remember_no_ends},
}
