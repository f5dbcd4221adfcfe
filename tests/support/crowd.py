"""A crowd of idle agents in one process: `python -m tests.support.crowd ADDRESS --agents N`.

Each is the product's own `Agent` with a channel, a connection and a name of its own; only what would be launched is
left out: every attempt has died at once. A thousand processes would measure this machine's memory, a thousand polls
over one connection would not measure what a server holds for a thousand agents.

Reads the token, then commands, from standard input; answers each with a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tests.support.control_plane import ControlPlaneProcess

from heliograph.storage import LaunchSettings
from heliograph_agents.agent import Agent, AgentOptions
from heliograph_agents.ended import Ended
from heliograph_agents.gate import Gate
from heliograph_agents.launcher import Credentials, ExitKind, Handle, InfraExit, Liveness, Plan, PlanFacts, RunSpec
from heliograph_agents.link import Link
from heliograph_agents.offers import Offers


@dataclass(frozen=True, slots=True)
class NothingPlan:
    """The plan of an attempt that is nowhere."""

    spec: RunSpec
    facts: PlanFacts = field(default_factory=PlanFacts)


class NothingLauncher:
    """Launches nothing, and says when it was asked to."""

    kind = "local"
    needs_settings = False

    def __init__(self, launched: list[tuple[str, int]]) -> None:
        self._launched = launched

    def plan(self, spec: RunSpec, settings: LaunchSettings | None) -> Plan:
        return NothingPlan(spec)

    async def open(self, ended: Callable[[Handle], None]) -> None:
        """Nothing to prepare."""

    async def launch(self, plan: Plan, credentials: Credentials) -> Handle:
        self._launched.append((plan.spec.run_id, time.time_ns() // 1000))
        return Handle(plan.spec.flow_run, plan.spec.epoch, "nowhere")

    async def inspect(self, handle: Handle) -> Liveness | InfraExit:
        return InfraExit(ExitKind.DIED)

    async def stop(self, handle: Handle, *, abandon: bool, told: bool = False) -> None:
        """Nothing runs."""

    async def list(self) -> list[Handle]:
        return []

    def waits_for(self, handle: Handle) -> None:
        """Nothing waits."""

    async def outbox(self, handle: Handle) -> Path | None:
        return None

    async def forget(self, handle: Handle) -> None:
        """Nothing is kept."""

    async def cleanup(self) -> None:
        """Nothing is old."""

    async def close(self) -> None:
        """Nothing is open."""


class OwnLink(Link):
    """A link that shares its connection with nobody, and notes its calls.

    Attributes:
        calls: Method, start and end of each call, `time.monotonic()`; the end is 0.0 before it and -1.0 when it failed.
    """

    def __init__(self, address: str, token: str) -> None:
        super().__init__(address, token, None, insecure=False)
        self.calls: list[list[Any]] = []
        self._metadata = (("authorization", f"Bearer {token}"),)

    def channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            options += [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 5_000)]
            self._channel = grpc.aio.insecure_channel(self.address, options=options)
        return self._channel

    async def call(self, stub: Callable[[Any], Any], method: str, request: Any, timeout_seconds: float = 15.0) -> Any:
        """See `Link.call`."""
        noted = [method, time.monotonic(), 0.0]
        self.calls.append(noted)
        made: Awaitable[Any] = getattr(stub(self.channel()), method)(
            request, timeout=timeout_seconds, metadata=self._metadata
        )
        try:
            answer = await self._noted(made)
        except BaseException:
            noted[2] = -1.0
            raise
        noted[2] = time.monotonic()
        return answer


class Crowd:
    """The agents, what they were asked to launch, and their calls."""

    def __init__(self, address: str, token: str, count: int, folder: Path, spread_seconds: float) -> None:
        self.launched: list[tuple[str, int]] = []
        self.links = [OwnLink(address, token) for _ in range(count)]
        self._spread_seconds = spread_seconds
        self.agents = [
            Agent(
                AgentOptions(name=f"crowd-{number}", labels=("crowd",), capacity=4, host=""),
                link,
                NothingLauncher(self.launched),
                Offers(folder / str(number) / "offers"),
                Gate(folder / "cache", needs_settings=False),
                Ended(folder / str(number) / "ended"),
            )
            for number, link in enumerate(self.links)
        ]

    async def start(self) -> None:
        """Starts the agents, spread over some seconds as on a thousand hosts; returns when all of them poll."""

        async def one(number: int, agent: Agent) -> None:
            await asyncio.sleep(number / len(self.agents) * self._spread_seconds)
            await agent.run()

        self.running = [asyncio.create_task(one(number, agent)) for number, agent in enumerate(self.agents)]
        while not all(self.polls(link) for link in self.links):
            await asyncio.sleep(0.1)
            for task in self.running:
                if task.done():
                    task.result()

    @staticmethod
    def polls(link: OwnLink) -> bool:
        """True when a poll of this link was answered or waits as polls do, and a heartbeat was answered."""
        calls = link.calls[-20:]
        return any(method == "LeaseFlowRuns" and end >= 0.0 for method, _, end in calls) and any(
            method == "HeartbeatAgent" and end > 0.0 for method, _, end in calls
        )

    @staticmethod
    def last_heartbeat(link: OwnLink) -> float:
        """Returns when the newest heartbeat was begun that was answered."""
        return max((begun for kind, begun, end in link.calls if kind == "HeartbeatAgent" and end > 0.0), default=0.0)

    def obey(self, command: str) -> dict[str, Any]:
        """Carries out a command: `mark` forgets earlier calls and launches; any tells what was since."""
        # Answered, or still waiting as polls do: calls that the server has seen.
        answered = [[begun for _, begun, end in link.calls if end >= 0.0] for link in self.links]
        told = {
            "launched": self.launched[:],
            "answered": answered,
            "back": sum(self.polls(link) for link in self.links),
            "now": time.monotonic(),
            "heard_after": min(self.last_heartbeat(link) for link in self.links),
        }
        if command == "mark":
            self.launched.clear()
            for link in self.links:
                link.calls[:] = [call for call in link.calls if call[2] == 0.0]
        return told


@dataclass(frozen=True)
class Returned:
    """How a crowd came back.

    Attributes:
        seconds: After which time all of its polls and heartbeats were back.
        most_agents: Most agents that came back within one second.
        most_calls: Most calls that came within one second.
    """

    seconds: float
    most_agents: int
    most_calls: int


class CrowdProcess:
    """The process with the agents, seen from a test."""

    def __init__(self, process: subprocess.Popen[str], agents: int) -> None:
        self._process, self._agents = process, agents

    def ask(self, command: str) -> dict[str, Any]:
        """Has a command carried out: see `Crowd.obey`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def return_to(self, server: ControlPlaneProcess, away_seconds: float) -> Returned:
        """Kills the server, starts it again after a while, and watches the agents come back."""
        server.kill()
        time.sleep(away_seconds)  # as long as it is away
        self.ask("mark")
        server.start()
        back_at = time.monotonic()
        while self.ask("tell")["back"] < self._agents:
            assert time.monotonic() < back_at + 120, "all agents come back"
            time.sleep(0.2)
        found = self.ask("tell")
        return Returned(
            found["now"] - back_at,
            most_within([min(moments) for moments in found["answered"] if moments]),
            most_within([moment for moments in found["answered"] for moment in moments]),
        )


def most_within(times: list[float], seconds: float = 1.0) -> int:
    """The most of `times` that lie within any window of that length."""
    times, first, most = sorted(times), 0, 0
    for last, moment in enumerate(times):
        while moment - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


@contextmanager
def crowd(server: ControlPlaneProcess, agents: int, spread_seconds: float) -> Iterator[CrowdProcess]:
    """Runs a crowd that is started over `spread_seconds`; all of it polls when this returns."""
    command = [sys.executable, "-m", "tests.support.crowd", server.address, "--agents", str(agents)]
    command += ["--spread-seconds", str(spread_seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(server.token + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == {"ready": agents}
            yield CrowdProcess(process, agents)
        finally:
            process.kill()


async def main() -> None:
    """Runs the crowd until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--agents", type=int, required=True)
    parser.add_argument("--spread-seconds", type=float, default=10.0)
    options = parser.parse_args()
    logging.getLogger("heliograph.agent").setLevel(logging.CRITICAL)
    token = sys.stdin.readline().strip()
    with tempfile.TemporaryDirectory() as folder:
        crowd = Crowd(options.address, token, options.agents, Path(folder), options.spread_seconds)
        await crowd.start()
        print(json.dumps({"ready": len(crowd.agents)}), flush=True)
        while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
            print(json.dumps(crowd.obey(command)), flush=True)
        for task in crowd.running:
            task.cancel()
        await asyncio.gather(*crowd.running, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
