"""What an agent promises with every launcher: no lease is carried out twice, no slot leaks, no run is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.contract.launchers.agents import agent_on, brisk
from tests.contract.launchers.ground import Ground

from heliograph.api.v1 import agent_service_pb2 as pb
from heliograph.engine.codes import FailureCode, StateCode
from heliograph_agents import agent as agent_module
from heliograph_agents.launcher import Credentials, Handle, LaunchError, Liveness, Plan

__all__ = ["brisk"]

pytestmark = pytest.mark.usefixtures("brisk")


@pytest.fixture
async def ground(ground: Ground) -> AsyncIterator[Ground]:
    """One kind of launcher, not open: agents open it."""
    await ground.leave()
    ground.launcher = ground.make_launcher()
    yield ground
    ground.launcher = ground.make_launcher()
    await ground.open()


async def test_a_lease_that_is_delivered_twice_is_carried_out_once(ground: Ground) -> None:
    heard: list[pb.FlowRunLease] = []

    def double(method: str, _: Any, answer: Any) -> None:
        if method == "LeaseFlowRuns":
            heard.extend(answer.leases)
            answer.leases.extend(list(answer.leases))

    async with agent_on(ground) as running:
        running.link.listeners.append(double)
        run = ground.create_run("count")
        await ground.until(lambda: ground.state(run).is_finished and not running.held, "it is over, and reported")
        assert [lease.flow_run.name for lease in heard] == [run]
        running.agent._offer(heard[0])  # late, when everything is over
        assert running.held
        await ground.until(lambda: not running.held, "it is refused")
    assert ground.counted(run) == 1
    assert ground.state(run) is StateCode.SUCCESS


async def test_what_does_not_start_in_time_is_removed_before_it_is_called_failed(ground: Ground) -> None:
    """A run that is called failed and starts after all would be two when it is started again."""
    ground.address = "127.0.0.1:1"  # its supervisor is never heard of
    ground.launcher = ground.make_launcher()
    alive_when_reported: list[bool] = []

    async with agent_on(ground) as running:

        def listen(method: str, _: Any, __: Any) -> None:
            if method == "ReportFlowRunExit":
                alive_when_reported.append(ground.alive(ground.marked("hold")))

        running.link.listeners.append(listen)
        run = ground.create_run("hold")
        await ground.until(lambda: ground.marked("hold"), "the flow runs, unheard")
        running.agent._options = replace(running.agent._options, start_timeout_seconds=0.1)
        await ground.until(lambda: ground.state(run).is_finished and not running.held, "it is given up")
        told = ground.client.get_flow_run(run)
        assert (told.state, told.failure.reason) == (StateCode.CRASHED, FailureCode.START_TIMEOUT)
        assert alive_when_reported, "it is reported"
        assert not any(alive_when_reported)


async def test_no_slot_leaks_however_runs_end(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    capacity, most = 2, 0
    launch, refusals = ground.launcher.launch, [LaunchError("no room", retry_seconds=0.1)]

    async def counted(plan: Plan, credentials: Credentials) -> Handle:
        nonlocal most
        if refusals:
            raise refusals.pop()
        looks = [await ground.launcher.inspect(one) for one in await ground.launcher.list()]
        most = max(most, 1 + sum(isinstance(look, Liveness) for look in looks))
        return await launch(plan, credentials)

    monkeypatch.setattr(ground.launcher, "launch", counted)
    whats = ("pass", "exit", "fail", "hold", "fault", "pass")
    async with agent_on(ground, capacity=capacity) as running:
        runs = [ground.create_run(what) for what in whats]
        held = runs[whats.index("hold")]
        await ground.until(lambda: ground.marked("hold"), "the one to be killed runs")
        [victim] = [one for one in await ground.launcher.list() if one.flow_run == held]
        await ground.kill(victim)
        await ground.until(lambda: all(ground.state(run).is_finished for run in runs), "all are over")
        await ground.until(lambda: not running.held, "all slots are free")
        states = [ground.state(run).name for run in runs]
        assert states == ["SUCCESS", "CRASHED", "FAILED", "CRASHED", "CRASHED", "SUCCESS"]
        assert most <= capacity
        (ground.shared / "hold").unlink()
        again = [ground.create_run("hold") for _ in range(capacity)]
        await ground.until(
            lambda: all(ground.state(run) is StateCode.RUNNING for run in again), "every slot takes a run again"
        )
        ground.let_go()
        await ground.until(lambda: not running.held, "and they are over")


async def test_a_run_outlives_its_agent_and_the_next_version_adopts_it(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with agent_on(ground):
        run = ground.create_run("hold")
        await ground.until(lambda: ground.state(run) is StateCode.RUNNING, "the run is heard of")
        await ground.until(lambda: ground.marked("hold"), "the flow runs")
    flow = ground.marked("hold")
    assert ground.alive(flow), "it goes on without its agent"
    monkeypatch.setattr(agent_module, "__version__", "99.0")
    ground.launcher = ground.make_launcher()
    async with agent_on(ground) as running:
        await ground.until(lambda: _version(ground) == "99.0", "the new agent is registered")
        assert running.held == 1
        assert ground.marked("hold") == flow, "nothing was started again"
        ground.let_go()
        await ground.until(lambda: ground.state(run).is_finished and not running.held, "it ends, and is reported")
        assert ground.state(run) is StateCode.SUCCESS


async def test_a_cancelled_run_ends_and_gives_its_slot_back(ground: Ground) -> None:
    async with agent_on(ground, capacity=1) as running:
        run = ground.create_run("stubborn")
        await ground.until(lambda: ground.marked("ignoring"), "the flow ignores SIGTERM")
        ground.client.cancel_flow_run(run)
        await ground.until(lambda: ground.state(run).is_finished and not running.held, "it ends all the same")
        assert ground.state(run) is StateCode.CANCELLED
        assert not ground.alive(ground.marked("stubborn"))


async def test_a_run_is_cancelled_through_another_agent_of_its_name_wherever_that_is(ground: Ground) -> None:
    """The run itself hears of nothing: what ends it is the agent, which need not have the first one's disk."""
    ground.address = "127.0.0.1:1"
    ground.launcher = first = ground.make_launcher()
    async with agent_on(ground):
        run = ground.create_run("stubborn")
        await ground.until(lambda: ground.marked("ignoring"), "the flow ignores SIGTERM")
        [handle] = await first.list()
    flow = ground.marked("stubborn")
    ground.launcher = second = ground.make_launcher(disk="elsewhere")
    async with agent_on(ground) as running:
        await running.agent.opened.wait()
        ground.client.cancel_flow_run(run)
        if ground.seen_from_everywhere:
            await ground.until(lambda: ground.state(run).is_finished and not running.held, "it is ended, and told")
            assert ground.state(run) is StateCode.CANCELLED
            assert not ground.alive(flow)
            return
        assert await second.list() == [], "it claims nothing that it cannot see"
        await second.stop(handle, abandon=False)
        await running.heartbeats(2)
        assert running.held == 0
        assert ground.alive(flow)
        assert ground.state(run) is StateCode.CANCELLING, "nobody says that it has ended"
    ground.launcher = ground.make_launcher()
    async with agent_on(ground):
        await ground.until(lambda: not ground.alive(flow), "the agent of its own host ends it")


def _version(ground: Ground) -> str:
    answer = ground.client.call(ground.client.services.agents.ListAgents, pb.ListAgentsRequest())
    return next((str(one.version) for one in answer.agents if one.name == f"agents/{ground.agent}"), "")
