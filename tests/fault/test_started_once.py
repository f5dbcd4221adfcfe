"""Sixteen agents and thousands of runs: each is started once, though the control plane is killed and answers are lost.

The agents are real (poller, trackers, heartbeat, performer); only their launcher does not launch: it writes down that
it was told to, and leaves an outbox that tells of a run which succeeded.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support.control_plane import ControlPlaneProcess, control_plane_process
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.postgres import shared_cluster
from tests.support.scene import bundle, graph

from heliograph.api.v1 import (
    agent_service_pb2,
    flow_run_service_pb2,
    flow_run_service_pb2_grpc,
    flow_service_pb2,
    flow_service_pb2_grpc,
    project_service_pb2,
    project_service_pb2_grpc,
)
from heliograph.engine.codes import StateCode
from heliograph.exceptions import UnavailableError
from heliograph.reporting.events import flow_event
from heliograph.reporting.lanes import STATES, LaneWriter
from heliograph.storage import LaunchSettings
from heliograph_agents.agent import Agent, AgentOptions
from heliograph_agents.ended import Ended
from heliograph_agents.gate import Gate
from heliograph_agents.launcher import Credentials, ExitKind, Handle, InfraExit, Liveness, Plan, PlanFacts, RunSpec
from heliograph_agents.link import Link
from heliograph_agents.offers import Offers
from heliograph_agents.performer import Stub

PLANTED = Path(__file__).parent / "planted"
AGENTS = 16
LOST = 0.03
"""Part of the answers that agents never get."""


@dataclass(frozen=True, slots=True)
class _Plan:
    spec: RunSpec
    facts: PlanFacts = field(default_factory=PlanFacts)


class Witness:
    """A launcher that writes a line for each start into one file, and calls the run a success."""

    kind = "local"
    needs_settings = False

    def __init__(self, agent: str, file: Path, outboxes: Path) -> None:
        self._agent, self._file, self._outboxes = agent, file, outboxes
        self._ended: Callable[[Handle], None] = lambda _: None

    def plan(self, spec: RunSpec, settings: LaunchSettings | None) -> Plan:
        return _Plan(spec)

    async def open(self, ended: Callable[[Handle], None]) -> None:
        self._ended = ended

    async def launch(self, plan: Plan, credentials: Credentials) -> Handle:
        spec = plan.spec
        folder = self._outboxes / f"{spec.run_id}.{spec.epoch}"
        with self._file.open("a") as file:
            file.write(f"{spec.flow_run} {spec.epoch} {self._agent}\n")
        folder.mkdir(parents=True, exist_ok=True)
        lane = LaneWriter(folder, STATES)
        now = time.time_ns() // 1000
        lane.append([flow_event((StateCode.RUNNING, now, None)), flow_event((StateCode.SUCCESS, now, None))])
        lane.close()
        handle = Handle(spec.flow_run, spec.epoch, folder.name)
        asyncio.get_running_loop().call_soon(self._ended, handle)
        return handle

    async def inspect(self, handle: Handle) -> Liveness | InfraExit:
        return InfraExit(ExitKind.UNSHIPPED, exit_code=0)

    async def stop(self, handle: Handle, *, abandon: bool, told: bool = False) -> None:
        """Nothing runs."""

    async def list(self) -> list[Handle]:
        return []

    def waits_for(self, handle: Handle) -> None:
        """Nothing waits."""

    async def outbox(self, handle: Handle) -> Path | None:
        return self._outboxes / handle.infrastructure

    async def forget(self, handle: Handle) -> None:
        """Nothing is kept."""

    async def cleanup(self) -> None:
        """Nothing is left."""

    async def close(self) -> None:
        """Nothing is open."""


class LossyLink(Link):
    """A link that loses some answers on their way back."""

    lost = 0

    async def _noted(self, call: Awaitable[Any]) -> Any:
        answer = await super()._noted(call)
        if random.random() < LOST:
            LossyLink.lost += 1
            raise UnavailableError("the answer was lost on its way")
        return answer


class People:
    """Registers, creates and looks, over outages."""

    def __init__(self, plane: ControlPlaneProcess) -> None:
        self._link = Link(plane.address, plane.token, None, insecure=True)

    async def call(self, stub: Callable[[Any], Any], method: str, request: Any) -> Any:
        for _ in range(300):
            with suppress(UnavailableError):
                return await self._link.call(stub, method, request, 60)
            await asyncio.sleep(0.1)
        raise AssertionError(f"{method} was never answered")

    async def create(self, runs: int) -> list[str]:
        """Makes a flow and its runs; returns their names."""
        project = project_service_pb2.CreateProjectRequest(project_id="p")
        parent = (await self.call(project_service_pb2_grpc.ProjectServiceStub, "CreateProject", project)).name
        version = flow_service_pb2.RegisterFlowVersionRequest(
            parent=parent, flow_id="etl", graph=graph("only"), bundle=bundle()
        )
        await self.call(flow_service_pb2_grpc.FlowServiceStub, "RegisterFlowVersion", version)
        stub = flow_run_service_pb2_grpc.FlowRunServiceStub

        async def some(count: int) -> list[str]:
            names = []
            for _ in range(count):
                request = flow_run_service_pb2.CreateFlowRunRequest(
                    parent=parent, flow=f"{parent}/flows/etl", request_id=uuid.uuid4().hex
                )
                names.append((await self.call(stub, "CreateFlowRun", request)).name)
            return names

        made = await asyncio.gather(*(some(runs // 8) for _ in range(8)))
        return [name for names in made for name in names]

    async def runs(self) -> list[flow_run_service_pb2.FlowRun]:
        """Returns all runs."""
        found: list[flow_run_service_pb2.FlowRun] = []
        token = ""
        while True:
            request = flow_run_service_pb2.ListFlowRunsRequest(parent="projects/p", page_size=500, page_token=token)
            page = await self.call(flow_run_service_pb2_grpc.FlowRunServiceStub, "ListFlowRuns", request)
            found += page.flow_runs
            token = page.next_page_token
            if not token:
                return found

    async def close(self) -> None:
        await self._link.close()


async def storm(plane: ControlPlaneProcess, folder: Path, runs: int, kills: int) -> tuple[int, str]:
    """Has sixteen agents start all runs while the control plane is killed now and then; checks who started what."""
    people = People(plane)
    names = await people.create(runs)
    seen = folder / "witness"
    seen.touch()
    agents = []
    for number in range(AGENTS):
        name = f"agent-{number}"
        link = LossyLink(plane.address, plane.token, None, insecure=True)
        options = AgentOptions(name, (), 8, "")
        launcher = Witness(name, seen, folder / "outboxes")
        gate = Gate(folder / "cache", needs_settings=False)
        agents.append(Agent(options, link, launcher, Offers(folder / name), gate, Ended(folder / name / "ended")))
    LossyLink.lost = 0
    tasks = [asyncio.create_task(agent.run()) for agent in agents]
    try:
        for kill in range(1, kills + 1):
            await _until(lambda part=kill / (kills + 1): len(_started(seen)) >= runs * part, tasks)
            await asyncio.to_thread(plane.kill)
            await asyncio.to_thread(plane.start)
        await _until(lambda: len(_started(seen)) >= runs, tasks)
        await _until(lambda: not any(agent._trackers for agent in agents), tasks)
    finally:
        for agent in agents:
            agent.drain()  # nothing is left, or the test has failed: they leave at once
        await asyncio.gather(*tasks, return_exceptions=True)
    found = await people.runs()
    started = _started(seen)
    assert started == set(names), "every run was started"
    by_name = {run.name: run for run in found}
    for name, epoch, agent in _lines(seen):
        run = by_name[name]
        assert (run.agent, run.epoch) == (f"agents/{agent}", int(epoch)), "the holder is who started it"
        assert StateCode(run.state) is StateCode.SUCCESS, f"{name} is {StateCode(run.state).name}"
    for number in range(AGENTS):  # an agent that holds a lease cannot be deleted
        gone = agent_service_pb2.DeleteAgentRequest(name=f"agents/agent-{number}")
        await people.call(Stub, "DeleteAgent", gone)
    await people.close()
    return LossyLink.lost, f"{len(started):,} runs started once each by {AGENTS} agents"


async def _until(condition: Callable[[], bool], tasks: list[asyncio.Task[None]], seconds: float = 180) -> None:
    """Waits for what the witness tells; fails at once with an agent that fails."""
    limit = time.monotonic() + seconds
    while not condition():
        for task in tasks:
            assert not task.done(), f"an agent left: {task}"
        assert time.monotonic() < limit, "the runs were not started"
        await asyncio.sleep(0.05)


def _started(file: Path) -> set[str]:
    """Returns the runs that were started, each of them once."""
    started = Counter(line[0] for line in _lines(file))
    twice = {name: count for name, count in started.items() if count > 1}
    assert not twice, f"started more than once: {twice}"
    return set(started)


def _lines(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()]


def started_once(folder: Path, database: str, runs: int, kills: int) -> str:
    """One storm on one kind of database; returns its figures."""
    url = ["--database", shared_cluster().store_database()] if database == "postgresql" else []
    with control_plane_process(folder, *url) as plane:
        lost, told = asyncio.run(storm(plane, folder, runs, kills))
    return f"{database}: {told}; {kills} kills of the control plane, {lost:,} answers lost"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@forms("runs,kills", quick=(1_000, 2), full=(10_000, 12), seconds=5_400)
def test_every_run_is_started_once(tmp_path: Path, database: str, runs: int, kills: int, figure: Figure) -> None:
    figure(started_once(tmp_path, database, runs, kills))


def test_a_control_plane_that_gives_a_run_twice_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: claims look first and take later, and an acceptance is taken from anybody."""
    monkeypatch.setenv("PYTHONPATH", str(PLANTED))
    monkeypatch.setenv("HELIOGRAPH_PLANTED_BUG", "give_twice")
    with pytest.raises(AssertionError, match="more than once"):
        started_once(tmp_path, "sqlite", 400, 0)
