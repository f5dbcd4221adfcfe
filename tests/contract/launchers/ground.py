"""The ground on which launchers are tested: real infrastructure, a control plane, and leases as an agent has them.

Flows and tests talk through files in `Ground.shared`, which every kind of infrastructure shows to its runs at the same
path. A kind of launcher joins the suite with a subclass of `Ground` and a line in `conftest.py`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import textwrap
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from google.protobuf.duration_pb2 import Duration
from tests.support.control_plane import ControlPlaneProcess

from heliograph.api.v1 import agent_service_pb2 as pb
from heliograph.client.client import Client
from heliograph.core.flow import Flow
from heliograph.engine.codes import StateCode
from heliograph.run_configs import RunConfig
from heliograph.storage import LaunchSettings, Storage
from heliograph.storage.load import load_flows
from heliograph_agents.bundles import settings_of
from heliograph_agents.launcher import Credentials, Handle, InfraExit, Launcher, RunSpec
from heliograph_agents.performer import spec_of

WAIT_SECONDS = 240.0
"""Longest wait for anything: other work shares the machine. Every wait ends with its event."""

FLOWS = """
    import os, pathlib, signal, subprocess, sys, time
    from heliograph import Flow, Parameter, task

    SHARED = pathlib.Path({shared!r})

    def mark(name):
        path = SHARED / name
        path.with_suffix(".part").write_text(str(os.getpid()))
        path.with_suffix(".part").rename(path)

    @task
    def act(what):
        print("the flow begins")
        mark(what)
        if what == "hold":
            while not (SHARED / "open").exists():
                time.sleep(0.01)
        elif what == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            mark("ignoring")
            while True:
                try:
                    time.sleep(600)
                except BaseException:
                    pass
        elif what == "count":
            with (SHARED / "counted").open("a") as file:
                file.write(os.environ["HELIOGRAPH_FLOW_RUN"] + "\\n")
        elif what == "eat":
            food = []
            while True:
                food.append(b"x" * 2**24)
        elif what == "exit":
            os._exit(3)
        elif what == "fault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif what == "fail":
            raise ValueError("no such customer")

    with Flow({name!r}) as flow:
        act(Parameter("what"))
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A leased and accepted attempt."""

    spec: RunSpec
    credentials: Credentials
    settings: LaunchSettings

    @property
    def run(self) -> str:
        """The run's name."""
        return self.spec.flow_run


class AgentDiesError(BaseException):
    """The agent is killed here."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a launch: a function of the launcher before and after which its agent may be killed."""

    owner: Any
    name: str

    def kill_agent(self, patched: pytest.MonkeyPatch, *, after: bool) -> None:
        """Has the agent die at this step."""
        whole = getattr(self.owner, self.name)

        async def dying_later(*arguments: Any, **named: Any) -> Any:
            if after:
                await whole(*arguments, **named)
            raise AgentDiesError

        def dying(*arguments: Any, **named: Any) -> Any:
            if after:
                whole(*arguments, **named)
            raise AgentDiesError

        patched.setattr(self.owner, self.name, dying_later if inspect.iscoroutinefunction(whole) else dying)


class Ground(ABC):
    """One kind of launcher on its infrastructure.

    Args:
        folder: Folder of this test.
        plane: The control plane; its address is reachable from runs.
        request: For fixtures that the kind needs, asked for when it is tested.

    Attributes:
        address: Where runs look for the control plane.
        early_lines: Lines of what a run printed before it was heard of that launchers show in the agent's log.
    """

    kind: ClassVar[str]
    tells_how_it_ended: ClassVar[bool] = True
    """False where nothing comes back from a run that ended in order: the control plane alone knows how."""
    kills_silently: ClassVar[bool] = True
    """False where the infrastructure can only ask: what is abandoned may still say that its place was taken away."""
    seen_from_everywhere: ClassVar[bool] = True
    """False where runs are seen from one host alone, and from its disk."""

    def __init__(self, folder: Path, plane: ControlPlaneProcess, request: pytest.FixtureRequest) -> None:
        self.folder, self.plane = folder, plane
        self.address, self.early_lines = plane.address, 200
        self.shared = folder / "shared"
        self.shared.mkdir()
        self.shared.chmod(0o777)
        self.client = Client(plane.address, plane.token)
        self.project = f"p{uuid.uuid4().hex[:12]}"
        self.client.create_project(self.project)
        self.agent = f"agent-{self.project}"
        self.hints: list[Handle] = []
        self.launcher: Launcher = self.make_launcher()

    # --- by kinds ------------------------------------------------------------------------------------------------

    @abstractmethod
    def make_launcher(self, agent: str = "", disk: str = "runs") -> Launcher:
        """Returns a launcher as the agent of that name has it after a restart; by default `self.agent`.

        Args:
            agent: The agent's name.
            disk: Where it keeps its attempts: another one is that of an agent on another host.
        """

    @abstractmethod
    def storage(self) -> Storage:
        """Returns a storage that agent and runs reach."""

    @abstractmethod
    def run_config(self) -> RunConfig | None:
        """Returns what flows ask for; None for nothing."""

    @abstractmethod
    async def kill(self, handle: Handle) -> None:
        """Kills the infrastructure of an attempt from outside, with all that runs in it, as a lack of memory does."""

    @abstractmethod
    async def vanish(self, handle: Handle) -> None:
        """Removes the infrastructure of an attempt with all that is known of it there, behind its agent's back."""

    @abstractmethod
    async def launch_dead(self) -> tuple[Attempt, Handle, str]:
        """Launches an attempt that dies before it is heard of. Returns also what it prints before."""

    @abstractmethod
    def steps(self) -> list[Step]:
        """Returns the steps of a launch, in order."""

    @abstractmethod
    async def remains(self, handle: Handle) -> list[str]:
        """Names what is left of an attempt in the infrastructure: processes, containers, pods, secrets."""

    # --- leases --------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens the launcher."""
        await self.launcher.open(self.hints.append)

    async def leave(self) -> None:
        """Lets go of the launcher, as an agent that stops; runs go on."""
        await self.launcher.close()

    async def restart(self) -> None:
        """Replaces the launcher, as when its agent was stopped and started again."""
        await self.leave()
        self.launcher = self.make_launcher()
        await self.launcher.open(self.hints.append)

    async def close(self) -> None:
        """Ends all attempts that are left."""
        for handle in await self.launcher.list():
            await self.launcher.stop(handle, abandon=True)
            await self.exit_of(handle)
            await self.launcher.forget(handle)
        await self.launcher.cleanup()
        await self.launcher.close()
        self.client.close()

    def flow(self, **changes: Any) -> Flow:
        """Returns the flow of this ground. `changes`: attributes of its run config."""
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        (source / "flow.py").write_text(textwrap.dedent(FLOWS.format(shared=str(self.shared), name="act")))
        [flow] = load_flows(source / "flow.py")
        flow.storage, flow.run_config = self.storage(), self.run_config()
        for name, value in changes.items():
            setattr(flow.run_config, name, value)
        return flow

    def attempt(self, what: str, **changes: Any) -> Attempt:
        """Registers the flow, creates a run that does `what`, leases and accepts it."""
        self.create_run(what, **changes)
        host = os.uname().nodename
        register = pb.RegisterAgentRequest(agent_id=self.agent, launcher=self.kind, host=host, capacity=10)
        self.client.call(self.client.services.agents.RegisterAgent, register)
        return self._lease()

    def create_run(self, what: str, **changes: Any) -> str:
        """Registers the flow and creates a run that does `what`. Returns the run's name."""
        flow_id = self.client.register(self.flow(**changes), self.project)
        run_id = self.client.create_flow_run(flow_id, parameters={"what": what})
        return f"projects/{self.project}/flowRuns/{run_id}"

    def attempt_again(self, attempt: Attempt) -> Attempt:
        """Gives an attempt back and leases its run again, as after a launch that came to nothing."""
        agents, agent = self.client.services.agents, f"agents/{self.agent}"
        release = pb.ReleaseFlowRunRequest(agent=agent, flow_run=attempt.run, epoch=attempt.spec.epoch)
        self.client.call(agents.ReleaseFlowRun, release)
        return self._lease()

    def _lease(self) -> Attempt:
        agents = self.client.services.agents
        request = pb.LeaseFlowRunsRequest(
            agent=f"agents/{self.agent}", request_id=uuid.uuid4().hex, max_runs=1, wait=Duration(seconds=10)
        )
        [lease] = self.client.call(agents.LeaseFlowRuns, request).leases
        accept = pb.AcceptFlowRunRequest(agent=f"agents/{self.agent}", flow_run=lease.flow_run.name, epoch=lease.epoch)
        answer = self.client.call(agents.AcceptFlowRun, accept)
        spec = spec_of(lease)
        settings = settings_of(spec.bundle, self.folder / "agent-cache")
        return Attempt(spec, Credentials(answer.run_token, answer.incarnation, 1.0), settings)

    async def launch(self, attempt: Attempt, **changes: Any) -> Handle:
        """Launches an attempt. `changes`: fields of its spec."""
        spec = replace(attempt.spec, **changes)
        return await self.launcher.launch(self.launcher.plan(spec, attempt.settings), attempt.credentials)

    # --- what became of it -----------------------------------------------------------------------------------------

    def marked(self, name: str) -> int:
        """Returns the pid that a flow left under that name; 0 while there is none."""
        path = self.shared / name
        return int(path.read_text()) if path.exists() else 0

    def alive(self, pid: int) -> bool:
        """True while the process runs whose pid a flow left."""
        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def counted(self, run: str) -> int:
        """Returns how often the flow of a run that counts has run."""
        path = self.shared / "counted"
        return path.read_text().split().count(run) if path.exists() else 0

    def let_go(self) -> None:
        """Lets held flows end."""
        (self.shared / "open").touch()

    def state(self, run: str) -> StateCode:
        """Returns a run's state."""
        return StateCode(self.client.get_flow_run(run).state)

    async def until(self, look: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Waits for a fact about other processes, which set no events."""
        try:
            async with asyncio.timeout(seconds):
                while not await asyncio.to_thread(look):  # noqa: ASYNC110 (as said)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"not within {seconds:.0f} s: {what}") from None

    async def exit_of(self, handle: Handle, seconds: float = WAIT_SECONDS) -> InfraExit:
        """Waits until the infrastructure is proven gone."""
        try:
            async with asyncio.timeout(seconds):
                while not isinstance(found := await self.launcher.inspect(handle), InfraExit):  # noqa: ASYNC110 (as above)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{handle} did not end") from None
        return found
