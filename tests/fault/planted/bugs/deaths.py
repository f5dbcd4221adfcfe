"""No bugs, but the moments at which a process is killed, and what makes those deaths matter."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def _die(*_: Any) -> None:
    """Ends the process as SIGKILL does."""
    os._exit(137)


def die_leased(performer: Any) -> None:
    """The agent dies when it has a lease and has not said so."""
    performer.Performer._accept = _die


def die_accepted(performer: Any) -> None:
    """The agent dies when the control plane has taken its word, before anything is written."""
    accept = performer.Performer._accept

    async def last_word(self: Any, spec: Any) -> None:
        await accept(self, spec)
        _die()

    performer.Performer._accept = last_word


def die_committed(agents: Any) -> None:
    """The control plane dies when an acceptance is committed, before it answers."""
    agents.run_token_id = _die


def impatient(performer: Any) -> None:
    """Not a bug: an accept is tried for a moment only, as after an outage of half a minute; as brief is the rest."""
    performer.ACCEPT_SECONDS = performer.RELEASE_BACK_OFF_SECONDS = 0.5


def impatient_and_careless(performer: Any) -> None:
    """The agent drops a lease when its acceptance stays without an answer."""
    impatient(performer)
    performer.Unlaunched = lambda **_: performer.Refused()


def die_writing(run_directory: Any) -> None:
    """The agent dies while it writes the run directory."""
    write = run_directory._write

    def half(path: Any, text: str) -> None:
        write(path, text)
        if path.name == "launch.json":
            _die()

    run_directory._write = half


def die_asking(parents: Any) -> None:
    """The agent dies when the run directory is there, before anything is started."""
    parents.WarmParent._ask = _die


def die_asked(parents: Any) -> None:
    """The agent dies when it has asked for a supervisor, before it hears of it."""
    ask = parents.WarmParent._ask

    def last_wish(self: Any, request: str) -> None:
        ask(self, request)
        _die()

    parents.WarmParent._ask = last_wish


def die_launched(launcher: Any) -> None:
    """The agent dies when the supervisor is forked, before it knows what it is doing."""
    launcher.LocalLauncher._watch = _die


def die_reported(performer: Any) -> None:
    """The agent dies when it has reported the end, before it has noted that."""
    report = performer.Performer._report

    async def last_word(self: Any, tracker: Any, found: Any) -> None:
        await report(self, tracker, found)
        _die()

    performer.Performer._report = last_word


def forget_offers(offers: Any) -> None:
    """A restarted agent does not know which leases it had taken and not launched."""
    offers.Offers.left = lambda _: []


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "die_accepted": {"heliograph_agents.performer": die_accepted},
    "die_asked": {"heliograph_agents.launchers.local.parents": die_asked},
    "die_asking": {"heliograph_agents.launchers.local.parents": die_asking},
    "die_committed": {"heliograph_control_plane.services.agents": die_committed},
    "die_launched": {"heliograph_agents.launchers.local.launcher": die_launched},
    "die_leased": {"heliograph_agents.performer": die_leased},
    "die_reported": {"heliograph_agents.performer": die_reported},
    "die_writing": {"heliograph_agents.run_directory": die_writing},
    "forget_offers": {"heliograph_agents.offers": forget_offers},
    "impatient": {"heliograph_agents.performer": impatient},
    "impatient_and_careless": {"heliograph_agents.performer": impatient_and_careless},
}
