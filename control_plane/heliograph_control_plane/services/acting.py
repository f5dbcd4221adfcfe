"""Who may act as an agent: a lease belongs to the agent that took it, and an agent to whoever registered it.

An agent is a name and an owner: the principal of the token that registered it. Only a token of the owner, or an
administrator's (who could issue one for the owner), acts under the name, and only when it reaches all the projects that
the agent works for. What a lease allows (accept, renew, release, report) is then the named agent's alone.
"""

from __future__ import annotations

from heliograph.api.v1 import options_pb2
from heliograph.exceptions import NotFoundError, PermissionDeniedError
from heliograph_control_plane import calls
from heliograph_control_plane.store.records import Agent

from .backend import Backend


async def visible_agent(backend: Backend, name: str) -> Agent:
    """Returns the agent of that bare name. Not there and not for this caller are one answer.

    Raises:
        NotFoundError: No such agent for this caller.
    """
    scope = calls.principal().scope
    try:
        agent = await backend.store.get_agent(name)
    except NotFoundError:
        raise _no_agent() from None
    if scope is not None and agent.projects and not scope & set(agent.projects):
        raise _no_agent()
    return agent


def covers(agent: Agent) -> bool:
    """True when the caller reaches all the projects that the agent works for."""
    scope = calls.principal().scope
    return scope is None or bool(agent.projects and scope.issuperset(agent.projects))


def judge_agent(agent: Agent) -> None:
    """Refuses to act under the name of somebody else's agent.

    Raises:
        PermissionDeniedError: It is.
    """
    caller = calls.principal()
    owned = not agent.owner or agent.owner == caller.name or caller.has(options_pb2.ROLE_ADMIN)
    if not (owned and covers(agent)):
        raise PermissionDeniedError(
            "an agent of somebody else has this name", hint="Give this agent another name, or delete the other one."
        )


def _no_agent() -> NotFoundError:
    return NotFoundError("no such agent")
