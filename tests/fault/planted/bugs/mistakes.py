"""Mistakes of agent, supervisor and flow process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
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
    performer.worth_another_try = lambda error: error.retryable


def _refused_often(link: Any) -> None:
    """No bug: the agent does not leave before it has come to all that it would do."""
    link.REFUSALS = 15


def trust_the_descriptor(lanes: Any) -> None:
    """The outbox writes to whatever has its number."""
    lanes.identity_of = lambda _: (0, 0)


def go_on_after_a_fork(writer: Any) -> None:
    """A copy of the flow process does not know that it is one."""
    writer._note_fork = lambda _: None


def spare_the_tree(processes: Any) -> None:
    """The supervisor ends the flow process and nothing that it started."""
    processes.kill_descendants = lambda *_: {}


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "adopt_nothing": {"heliograph_agents.launchers.local.launcher": adopt_nothing},
    "cut_the_lifeline": {"heliograph.cli.main": cut_the_lifeline},
    "every_end_is_success": {"heliograph_agents.supervisor": every_end_is_success},
    "give_up_when_refused": {
        "heliograph_agents.performer": give_up_when_refused,
        "heliograph_agents.link": _refused_often,
    },
    "go_on_after_a_fork": {"heliograph.reporting.writer": go_on_after_a_fork},
    "leave_the_outbox": {"heliograph_agents.performer": leave_the_outbox},
    "outlive_the_supervisor": {
        "heliograph_agents.processes": outlive_the_supervisor,
        "heliograph_agents.control": deaf_to_the_end,
    },
    "spare_the_tree": {"heliograph_agents.processes": spare_the_tree},
    "trim_before_ack": {"heliograph_agents.shipping": trim_before_ack},
    "trust_the_descriptor": {"heliograph.reporting.lanes": trust_the_descriptor},
}
