"""What people are told of a run that an agent took and that has not begun: put back, or launched and waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.contract.launchers.agents import agent_on, brisk
from tests.contract.launchers.ground import Ground
from tests.contract.launchers.kubernetes_ground import KubernetesGround
from tests.contract.launchers.local_ground import LocalGround
from tests.support.control_plane import ControlPlaneProcess, control_plane_process

from heliograph.api.v1 import flow_run_service_pb2 as runs_pb
from heliograph.cli.why import explanation_lines
from heliograph.engine.codes import LaunchDelay, StateCode
from heliograph_agents.launcher import Credentials, Handle, LaunchError, Plan

__all__ = ["brisk"]

pytestmark = pytest.mark.usefixtures("brisk")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlaneProcess]:
    """A control plane."""
    with control_plane_process(tmp_path_factory.mktemp("plane")) as process:
        yield process


@pytest.fixture
async def local(request: pytest.FixtureRequest, tmp_path: Path, plane: ControlPlaneProcess) -> AsyncIterator[Ground]:
    """Processes of this host; agents open the launcher."""
    async for ground in _given(LocalGround(tmp_path, plane, request)):
        yield ground


@pytest.fixture
async def cluster(
    request: pytest.FixtureRequest, tmp_path: Path, plane: ControlPlaneProcess
) -> AsyncIterator[KubernetesGround]:
    """A cluster whose pods do what the test says; agents open the launcher."""
    made = KubernetesGround(tmp_path, plane, request)
    made.cluster.kubelet.scripted = True
    async for _ in _given(made):
        yield made


async def _given(ground: Ground) -> AsyncIterator[Ground]:
    try:
        yield ground
    finally:
        ground.launcher = ground.make_launcher()
        await ground.open()
        await ground.close()


def explained(ground: Ground, run: str) -> runs_pb.ExplainFlowRunResponse:
    return ground.client.explain_flow_run(run)


async def test_a_run_that_its_launcher_puts_back_says_so_until_it_starts(
    local: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = local.launcher.launch
    refusals = [
        LaunchError("full", retry_seconds=900.0, no_room=True, delay=LaunchDelay.NO_ROOM),
        LaunchError("slow down", retry_seconds=0.05, no_room=True, delay=LaunchDelay.THROTTLED),
    ]

    async def refused(plan: Plan, credentials: Credentials) -> Handle:
        if refusals:
            raise refusals.pop()
        return await launch(plan, credentials)

    monkeypatch.setattr(local.launcher, "launch", refused)
    async with agent_on(local) as running:
        run = local.create_run("pass")
        await local.until(lambda: explained(local, run).put_back_count == 2, "it was put back twice")
        await local.until(lambda: not running.held, "the agent has let go of it")
        told = explained(local, run)
        assert (told.situation, told.launch_delay) == (runs_pb.SITUATION_PUT_BACK, LaunchDelay.NO_ROOM)
        words = "\n".join(explanation_lines(told))
        assert f"{local.agent} put it back twice: the infrastructure has no free place that fits it." in words
        assert "It is given out again in " in words
        assert "full" not in str(told), "the infrastructure's words stay with the agent"

        other = local.create_run("pass")
        await local.until(lambda: local.state(other).is_finished, "another run finds its place")
        assert local.state(other) is StateCode.SUCCESS
        assert explained(local, other).put_back_count == 0


async def test_a_pod_that_waits_says_what_for(cluster: KubernetesGround, caplog: pytest.LogCaptureFixture) -> None:
    fake, message = cluster.cluster, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
    caplog.set_level(logging.INFO, "heliograph.agent")

    def logged(words: str) -> int:
        return sum("has not begun" in line and words in line for line in caplog.messages)

    async with agent_on(cluster):
        run = cluster.create_run("pass")
        pod = await asyncio.to_thread(fake.pod)

        async def told(delay: LaunchDelay) -> str:
            await cluster.until(lambda: explained(cluster, run).launch_delay == delay, f"it waits for {delay.name}")
            answer = explained(cluster, run)
            assert answer.situation == runs_pb.SITUATION_LAUNCHING
            return "\n".join(explanation_lines(answer))

        assert "its place is being made ready" in await told(LaunchDelay.PREPARING)
        unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        fake.set_status(pod, conditions=[unscheduled])
        words = await told(LaunchDelay.NO_ROOM)
        assert f"was taken by {cluster.agent}, and has not begun." in words
        assert "It waits: the infrastructure has no free place that fits it." in words
        assert "nvidia" not in words, "the cluster's words stay with the agent"
        fake.container(pod, {"waiting": {"reason": "ImagePullBackOff", "message": "not there"}}, conditions=[])
        assert "its image cannot be fetched" in await told(LaunchDelay.IMAGE)
        assert (logged(message), logged("not there")) == (1, 1), "each once"
        fake.container(pod, {"running": {}}, phase="Running")
        await cluster.until(lambda: not explained(cluster, run).launch_delay, "it waits no more")
