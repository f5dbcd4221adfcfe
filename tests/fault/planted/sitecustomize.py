"""Bugs to plant into every process of a stack, one at a time: `HELIOGRAPH_PLANTED_BUG` names it.

Python imports this file at start-up when its folder is on PYTHONPATH. Each bug is a mistake that could be made; the
test that guards against it must fail when it is there.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def trim_before_ack(shipping: Any) -> None:
    """The outbox forgets events when they were sent, not when they were acknowledged."""
    send, seek = shipping.StatePump._send, shipping.LaneReader.seek

    def careless(self: Any, exchange: Any, chunk: Any) -> None:
        send(self, exchange, chunk)
        if chunk.payloads:
            self._reader.forgotten = chunk.first_sequence + len(chunk.payloads) - 1

    def seek_what_is_left(self: Any, sequence: int) -> Any:
        return seek(self, max(sequence, getattr(self, "forgotten", 0) + 1))

    shipping.StatePump._send = careless
    shipping.LaneReader.seek = seek_what_is_left


def adopt_nothing(launcher: Any) -> None:
    """A restarted agent does not look for the runs that it had."""

    async def forgetful(self: Any) -> list[Any]:
        return []

    launcher.LocalLauncher.list = forgetful


def every_end_is_success(supervisor: Any) -> None:
    """The supervisor takes every end of the flow process for a good one."""
    supervisor._Supervisor._verdict = lambda _: (supervisor.StateCode.SUCCESS, None)


def leave_the_outbox(performer: Any) -> None:
    """The agent reports a dead supervisor without shipping what it left behind."""

    async def nothing(self: Any, handle: Any) -> None:
        """Ships nothing."""

    performer.Performer._ship = nothing


def outlive_the_supervisor(processes: Any) -> None:
    """The kernel is not asked to end the flow with its supervisor, and the agent does not make sure of its end."""
    processes.die_with_parent = lambda _: None
    processes.members = lambda *_: []
    processes.signal_group = lambda *_: None


def deaf_to_the_end(control: Any) -> None:
    """The flow process does not notice that its supervisor is gone."""
    messages = control.ControlSocket.messages

    def endless(self: Any) -> Any:
        yield from messages(self)
        threading.Event().wait()

    control.ControlSocket.messages = endless


def cut_the_lifeline(main: Any) -> None:
    """Parts of one command do not notice that it ended: their thread waits for something else."""
    lifeline: Any = sys.modules.get("__main__")
    if lifeline is not None and hasattr(lifeline, "_watch"):
        lifeline._watch = lambda _: None


def give_up_when_refused(performer: Any) -> None:
    """The agent takes a refused token for an answer about the run."""
    performer._worth_another_try = lambda error: error.retryable


def trust_the_descriptor(lanes: Any) -> None:
    """The outbox writes to whatever has its number."""
    lanes._identity = lambda _: (0, 0)


def go_on_after_a_fork(writer: Any) -> None:
    """A copy of the flow process does not know that it is one."""
    writer._note_fork = lambda _: None


def spare_the_tree(processes: Any) -> None:
    """The supervisor ends the flow process and nothing that it started."""
    processes.kill_descendants = lambda *_: {}


# --- deaths: no bugs, but the moments at which a process is killed ---------------------------------------------------


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
    """Not a bug: an accept is tried for a moment only, as after an outage of half a minute."""
    performer.ACCEPT_SECONDS = 0.5


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
    "adopt_nothing": {"heliograph_agents.launchers.local.launcher": adopt_nothing},
    "cut_the_lifeline": {"heliograph.cli.main": cut_the_lifeline},
    "die_accepted": {"heliograph_agents.performer": die_accepted},
    "die_asked": {"heliograph_agents.launchers.local.parents": die_asked},
    "die_asking": {"heliograph_agents.launchers.local.parents": die_asking},
    "die_committed": {"heliograph_control_plane.services.agents": die_committed},
    "die_launched": {"heliograph_agents.launchers.local.launcher": die_launched},
    "die_leased": {"heliograph_agents.performer": die_leased},
    "die_reported": {"heliograph_agents.performer": die_reported},
    "die_writing": {"heliograph_agents.launchers.local.run_directory": die_writing},
    "every_end_is_success": {"heliograph_agents.supervisor": every_end_is_success},
    "forget_offers": {"heliograph_agents.offers": forget_offers},
    "give_up_when_refused": {"heliograph_agents.performer": give_up_when_refused},
    "impatient": {"heliograph_agents.performer": impatient},
    "impatient_and_careless": {"heliograph_agents.performer": impatient_and_careless},
    "leave_the_outbox": {"heliograph_agents.performer": leave_the_outbox},
    "outlive_the_supervisor": {
        "heliograph_agents.processes": outlive_the_supervisor,
        "heliograph_agents.control": deaf_to_the_end,
    },
    "go_on_after_a_fork": {"heliograph.reporting.writer": go_on_after_a_fork},
    "spare_the_tree": {"heliograph_agents.processes": spare_the_tree},
    "trust_the_descriptor": {"heliograph.reporting.lanes": trust_the_descriptor},
    "trim_before_ack": {"heliograph_agents.shipping": trim_before_ack},
}


class _Planter(importlib.abc.MetaPathFinder):
    """Applies each part of a bug right after its module was imported."""

    def __init__(self, parts: dict[str, Callable[[Any], None]]) -> None:
        self._parts = dict(parts)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._parts:
            return None
        plant = self._parts.pop(fullname)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def and_plant(module: ModuleType) -> None:
            execute(module)
            plant(module)

        spec.loader.exec_module = and_plant  # type: ignore[method-assign]
        return spec


if name := os.environ.get("HELIOGRAPH_PLANTED_BUG", ""):
    sys.meta_path.insert(0, _Planter(BUGS[name]))
