"""Mistakes about networks; and what makes deadlines, leases and keepalive so short that a test can wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# --- no bugs: the same rules on a quicker clock -----------------------------------------------------------------------


def short_calls(link: Any) -> None:
    """An agent's call has a deadline of 1.5 s."""
    link.CALL_SECONDS = 1.5
    link.Link.call.__defaults__ = (1.5,)


def short_acks(shipping: Any) -> None:
    """An acknowledgement may take 1.5 s."""
    shipping.ACK_SECONDS = 1.5


def short_checks(supervisor: Any) -> None:
    """Overdue acknowledgements are looked at five times a second."""
    supervisor.CHECK_SECONDS = 0.2


def short_accepts(performer: Any) -> None:
    """An accept is tried for 6 s; a run that is given back waits for a second."""
    performer.ACCEPT_SECONDS, performer.RELEASE_BACK_OFF_SECONDS = 6.0, 1.0


def short_keepalive(channel: Any) -> None:
    """A quiet connection is tried every 2 s, and has 1 s to answer."""
    channel.KEEPALIVE_SECONDS, channel.KEEPALIVE_ANSWER_SECONDS = 2, 1


def allow_short_keepalive(limits: Any) -> None:
    """The control plane puts up with that, and does the same."""
    short = {
        "grpc.keepalive_time_ms": 2_000,
        "grpc.keepalive_timeout_ms": 1_000,
        "grpc.http2.ping_timeout_ms": 1_000,
        "grpc.http2.min_recv_ping_interval_without_data_ms": 500,
        "grpc.http2.min_ping_interval_without_data_ms": 500,
    }
    options = limits.channel_options
    limits.channel_options = lambda: tuple((key, short.get(key, value)) for key, value in options())


def short_leases(runs: Any) -> None:
    """A lease lives 1.5 s, renewed every half; a run that nobody vouches for is given up after 3 s."""
    runs.RUN_LEASE, runs.RENEW_EVERY, runs.LOST_AFTER = (n * runs.SECOND // 2 for n in (3, 1, 6))
    runs.UNFINISHED = {
        key: replace(found, within=runs.LOST_AFTER if key[1] is runs.Phase.HELD else found.within)
        for key, found in runs.UNFINISHED.items()
    }
    runs.start_up_grace = lambda *_: runs.RUN_LEASE


def short_heartbeats(agents: Any) -> None:
    """Agents are asked for a heartbeat every second."""
    agents.NEXT_HEARTBEAT = agents.convert.duration(agents.convert.MICROS)


def short_watch(watchdog: Any) -> None:
    """The watchdog looks twice a second, and waits 4 s."""
    watchdog.CHECK_SECONDS, watchdog.MISSED_CHECKS = 0.5, 8


def stuck_on_signal(agent: Any) -> None:
    """No bug, but its consequence: SIGUSR2 has the agent's event loop wait for something that never comes."""
    handle_signals = agent.Agent.handle_signals

    def and_wait(self: Any) -> None:
        handle_signals(self)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, time.sleep, 3600)

    agent.Agent.handle_signals = and_wait


# --- bugs -------------------------------------------------------------------------------------------------------------


def number_anew(shipping: Any) -> None:
    """What is sent again gets new sequence numbers: the writer counts what it sent, not what is acknowledged."""
    send = shipping.StatePump._send

    def counting(self: Any, exchange: Any, chunk: Any) -> None:
        first = getattr(self, "counted", 0) + 1
        self.counted = first - 1 + len(chunk.payloads)
        send(self, exchange, replace(chunk, first_sequence=first))

    shipping.StatePump._send = counting


def new_request_ids(link: Any) -> None:
    """An agent that asks again asks as if for the first time."""
    call = link.Link.call

    async def as_if_new(self: Any, stub: Any, method: str, request: Any, *rest: Any) -> Any:
        if method == "LeaseFlowRuns":
            request.request_id = str(uuid.uuid4())
        return await call(self, stub, method, request, *rest)

    link.Link.call = as_if_new


def forget_empty_polls(agent: Any) -> None:
    """A poll that was answered with nothing is taken for done: the next one is another request."""
    lease = agent.Link.call

    async def done_with(self: Any, stub: Any, method: str, *rest: Any) -> Any:
        answer = await lease(self, stub, method, *rest)
        if method == "LeaseFlowRuns":
            answer.spent = True
        return answer

    agent.Link.call = done_with


def new_client_request_ids(connection: Any) -> None:
    """A client that asks again asks as if for the first time."""
    call = connection.Connection.call

    def as_if_new(self: Any, method: Any, request: Any, **options: Any) -> Any:
        def fresh(request: Any, **given: Any) -> Any:
            if "request_id" in request.DESCRIPTOR.fields_by_name:
                request.request_id = str(uuid.uuid4())
            return method(request, **given)

        return call(self, fresh, request, **options)

    connection.Connection.call = as_if_new


def no_deadlines(link: Any) -> None:
    """Calls of the agent wait as long as the control plane allows."""
    call = link.Link.call

    async def patient(self: Any, stub: Any, method: str, request: Any, *_: Any) -> Any:
        return await call(self, stub, method, request, 110.0)

    link.Link.call = patient


def no_ack_deadline(shipping: Any) -> None:
    """The supervisor waits for an acknowledgement for ever."""
    shipping.StatePump.check = lambda _: None


def no_keepalive(channel: Any) -> None:
    """Quiet connections are taken for live ones."""
    channel.KEEPALIVE_SECONDS = 7200


def replace_the_token(agents: Any) -> None:
    """Each acceptance makes another run token, also one that the network delivered twice."""
    agents.repeatable_secret = lambda *_: agents.repeatable_secret_of_once()
    from heliograph_control_plane.principals import make_secret

    agents.repeatable_secret_of_once = make_secret


def believe_the_balancer(link: Any) -> None:
    """Whatever answers is taken for the control plane."""
    from heliograph.client import errors

    del link
    errors.is_from_control_plane = lambda _: True


def give_up(link: Any) -> None:
    """The agent leaves after three failures in a row."""
    failed = link.Link._failed

    async def fed_up(self: Any, error: Any) -> Any:
        found = await failed(self, error)
        return link.AgentRefusedError("enough") if self._failures >= 3 else found

    link.Link._failed = fed_up


def kill_when_away(supervisor: Any) -> None:
    """The supervisor ends the flow when the control plane stays away."""
    turn = supervisor._Supervisor._turn

    def impatient(self: Any) -> None:
        turn(self)
        if self._link._failures >= 3:
            self._kill()

    supervisor._Supervisor._turn = impatient


def restart_what_is_lost(runs: Any) -> None:
    """A run that nobody vouches for is taken for dead and put into the queue again."""
    held = [key for key in runs.UNFINISHED if key[1] is runs.Phase.HELD]
    again = runs.UNFINISHED[runs.StateCode.SCHEDULED, runs.Phase.OFFERED]
    for key in held:
        runs.UNFINISHED[key] = replace(again, within=runs.LOST_AFTER)


def blind_watchdog(watchdog: Any) -> None:
    """The watchdog sees that the loop is stuck and lets it be."""
    watchdog._leave = lambda: None


def heartbeat_in_the_flow(shipping: Any) -> None:
    """Leases are renewed by whoever runs the flow: when that process stands still, nobody does."""
    send = shipping.StatePump._send

    def only_beside_a_live_flow(self: Any, exchange: Any, chunk: Any) -> None:
        children = [pid for pid in _children() if _stands_still(pid)]
        if children and not chunk.payloads:
            self._link.failed(shipping.UnavailableError("the flow does not answer"))
            raise shipping.UnavailableError("the flow does not answer")
        send(self, exchange, chunk)

    shipping.StatePump._send = only_beside_a_live_flow


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


def _stands_still(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def ask_only(supervisor: Any) -> None:
    """A cancelled flow is asked to end, and not made to."""
    supervisor._Supervisor._terminate = lambda _: None


def short_polls(agent: Any) -> None:
    """A poll waits 2 s for work."""
    agent.POLL_SECONDS = 2.0


_SHORT: dict[str, Callable[[Any], None]] = {
    "heliograph_agents.agent": short_polls,
    "heliograph_agents.link": short_calls,
    "heliograph_agents.log_shipping": short_acks,
    "heliograph_agents.shipping": short_acks,
    "heliograph_agents.supervisor": short_checks,
    "heliograph_control_plane.services.agents": short_heartbeats,
}

BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "ask_only": {"heliograph_agents.supervisor": ask_only},
    "believe_the_balancer": {"heliograph_agents.link": believe_the_balancer},
    "blind_watchdog": {"heliograph_agents.watchdog": blind_watchdog},
    "forget_empty_polls": {"heliograph_agents.agent": forget_empty_polls},
    "give_up": {"heliograph_agents.link": give_up},
    "heartbeat_in_the_flow": {"heliograph_agents.shipping": heartbeat_in_the_flow},
    "kill_when_away": {"heliograph_agents.supervisor": kill_when_away},
    "new_client_request_ids": {"heliograph.client.connection": new_client_request_ids},
    "new_request_ids": {"heliograph_agents.link": new_request_ids},
    "no_ack_deadline": {"heliograph_agents.shipping": no_ack_deadline},
    "no_deadlines": {"heliograph_agents.link": no_deadlines},
    "no_keepalive": {"heliograph.client.channel": no_keepalive},
    "number_anew": {"heliograph_agents.shipping": number_anew},
    "replace_the_token": {"heliograph_control_plane.services.agents": replace_the_token},
    "restart_what_is_lost": {"heliograph_control_plane.domain.runs": restart_what_is_lost},
    "short_accepts": {"heliograph_agents.performer": short_accepts},
    "short_deadlines": _SHORT,
    "short_heartbeats": {"heliograph_control_plane.services.agents": short_heartbeats},
    "short_keepalive": {
        "heliograph.client.channel": short_keepalive,
        "heliograph_control_plane.limits": allow_short_keepalive,
    },
    "short_leases": {
        "heliograph_control_plane.domain.runs": short_leases,
        "heliograph_control_plane.services.agents": short_heartbeats,
    },
    "short_watch": {"heliograph_agents.watchdog": short_watch},
    "stuck_on_signal": {"heliograph_agents.agent": stuck_on_signal},
}
