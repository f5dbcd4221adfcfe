"""A whole agent on a ground's launcher, in the test's own event loop, and a link that its test can listen to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.contract.launchers.ground import WAIT_SECONDS, Ground

from heliograph.api.v1.options_pb2 import ROLE_AGENT
from heliograph.signing import TrustStore
from heliograph_agents import agent as agent_module
from heliograph_agents import door
from heliograph_agents.agent import Agent, AgentOptions
from heliograph_agents.ended import Ended
from heliograph_agents.gate import Gate
from heliograph_agents.link import Link
from heliograph_agents.offers import Offers

Listener = Callable[[str, Any, Any], None]
"""Hears method, request and answer of a call."""


class HeardLink(Link):
    """A link whose answered calls a test hears of before the agent does."""

    def __init__(self, ground: Ground, token: str) -> None:
        super().__init__(ground.plane.address, token, None, insecure=False)
        self.listeners: list[Listener] = []

    async def call(self, stub: Any, method: str, request: Any, *more: Any) -> Any:
        answer = await super().call(stub, method, request, *more)
        for listener in self.listeners:
            listener(method, request, answer)
        return answer


class RunningAgent:
    """An agent that runs."""

    def __init__(self, agent: Agent, link: HeardLink) -> None:
        self.agent, self.link = agent, link

    @property
    def held(self) -> int:
        """How many of its slots are taken."""
        return len(self.agent._trackers)

    async def heartbeats(self, more: int) -> None:
        """Waits for that many answered heartbeats from now."""
        heard = asyncio.Semaphore(0)

        def listen(method: str, _: Any, __: Any) -> None:
            if method == "HeartbeatAgent":
                heard.release()

        self.link.listeners.append(listen)
        async with asyncio.timeout(WAIT_SECONDS):
            for _ in range(more):
                await heard.acquire()


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes agents look around and call often."""
    monkeypatch.setattr(agent_module, "RECONCILE_SECONDS", (0.2, 0.4))
    monkeypatch.setattr(door, "heartbeat_seconds", lambda *_: 0.3)


@asynccontextmanager
async def agent_on(ground: Ground, *, capacity: int = 4) -> AsyncIterator[RunningAgent]:
    """Runs an agent that has the ground's launcher for its own; at the end it leaves at once, and its runs go on."""
    token = ground.client.create_token("services/agent", [ROLE_AGENT], projects=[ground.project]).secret
    link, launcher = HeardLink(ground, token), ground.launcher
    folder = ground.folder / "agent"
    gate = Gate(
        ground.folder / "agent-cache",
        needs_settings=launcher.needs_settings,
        trust=TrustStore(ground.folder / "trusted"),
    )
    host = os.uname().nodename if ground.kind == "local" else ""
    options = AgentOptions(name=ground.agent, labels=(), capacity=capacity, host=host)
    agent = Agent(options, link, launcher, Offers(folder / "offers"), gate, Ended(folder / "ended"))
    running = asyncio.create_task(agent.run())
    try:
        yield RunningAgent(agent, link)
    finally:
        agent.drain()
        agent.drain()
        await running
