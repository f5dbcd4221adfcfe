"""An attempt is started once, whatever becomes of its agent, its pod or the answers in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
from tests.integration.kubernetes.conftest import Scene
from tests.support.figures import Figure

from heliograph_agents.launcher import ExitKind, Handle, LaunchError, Liveness
from heliograph_agents.launchers.kubernetes import offer
from heliograph_agents.launchers.kubernetes.launcher import KubernetesLauncher

STEPS = ("nothing is made", "the Job is made", "its pod is there", "the Secret is asked for", "the Secret is made")


async def die_at(scene: Scene, step: str) -> None:
    """Has an agent launch a run and die at that step; nothing that it asked for later is done."""
    server, controllers = scene.cluster.server, scene.cluster.controllers
    if step == "nothing is made":
        server.plant("POST", "/jobs", "before", 99)
    elif step == "the Job is made":
        controllers.hold_pods = True
        server.plant("POST", "/jobs", "after", 1)
        server.plant("GET", "/jobs/", "before", 99)
    elif step == "its pod is there":
        controllers.hold_pods = True
    elif step == "the Secret is asked for":
        server.plant("POST", "/secrets", "before", 99)
    else:
        server.plant("POST", "/secrets", "after", 99)
    agent = await scene.agent()
    work = asyncio.ensure_future(scene.launch(agent))
    if step == "its pod is there":
        await scene.until(lambda: scene.names("jobs"), "the Job is there")
    elif step == "the Secret is made":
        await scene.until(lambda: scene.names("secrets"), "the Secret is there")
    elif step == "the Secret is asked for":
        await scene.until(lambda: any(one[1].endswith("/secrets") for one in server.requests), "it was asked for")
    if "Secret" in step or "pod" in step:
        agent._closed.set()
        agent._view.wake()
    with contextlib.suppress(LaunchError):
        await work
    await scene.leave(agent)
    server.faults.clear()
    controllers.hold_pods = False


async def check(scene: Scene, step: str, disk: str) -> None:
    """Has an agent die at a step, and looks at what the next one of its name makes of it."""
    scene.cluster.kubelet.scripted, scene.cluster.kubelet.pretends = False, True
    await die_at(scene, step)
    agent = await scene.agent(disk=disk)
    left = await agent.list()
    if step == "nothing is made":
        assert left == []
        assert scene.names("jobs") == []
        return
    [handle] = left
    started = scene.cluster.kubelet.started
    if step == "the Secret is made":
        await scene.until(lambda: started, "the run begins")
        await agent.inspect(handle)
        [pod] = scene.cluster.pods()
        scene.cluster.container(pod, {"terminated": {"exitCode": 0, "message": '{"state": 10}'}}, phase="Succeeded")
        assert (await scene.exit_of(agent, handle)).kind is ExitKind.FINISHED
    else:
        assert (await scene.exit_of(agent, handle)).kind is ExitKind.NEVER_STARTED
        assert started == []
        await scene.until(lambda: not scene.names("jobs") + scene.names("pods"), "nothing is left")
        assert scene.names("secrets") == []
    assert len(started) <= 1


@pytest.mark.parametrize("disk", ["disk", "another disk"])
@pytest.mark.parametrize("step", STEPS)
async def test_an_agent_that_dies_between_two_steps_leaves_nothing_that_starts_or_stays(
    either: Scene, step: str, disk: str, figure: Figure
) -> None:
    await check(either, step, disk)
    if (step, disk) == (STEPS[-1], "disk"):
        steps, server = len(STEPS), either.cluster.server.version
        figure(f"{server}: an agent died at {steps} steps, with its disk and without: 0 began twice, 0 left behind")


async def test_an_agent_that_believes_every_offer_was_made_is_found(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted twin: a Job without an offer is taken for one that starts."""
    monkeypatch.setattr(offer, "withdraw", lambda *_: False)
    monkeypatch.setattr("tests.integration.kubernetes.conftest.WAIT_SECONDS", 2.0)
    with pytest.raises(AssertionError, match="did not end"):
        await check(scene, "its pod is there", "disk")


async def deleted_pod(scene: Scene) -> tuple[KubernetesLauncher, Handle]:
    """Deletes the pod of a run, which takes its time to end. Returns when the cluster has done what it does."""
    kubelet = scene.cluster.kubelet
    kubelet.scripted, kubelet.pretends, kubelet.lingers = False, True, True
    agent = await scene.agent()
    handle = await scene.launch(agent)
    await scene.until(lambda: kubelet.started, "the run begins")
    [pod] = scene.cluster.pods()
    scene.cluster.store.delete("pods", "flows", pod["metadata"]["name"], {})

    def settled() -> bool:
        return len(scene.cluster.pods()) == 2 and any(
            one["status"].get("phase") in ("Failed", "Running") and not one["metadata"].get("deletionTimestamp")
            for one in scene.cluster.pods()
        )

    if scene.cluster.controllers._old:
        await scene.until(settled, "the cluster makes another pod, which does what it does")
    assert isinstance(await agent.inspect(handle), Liveness), "the first pod still ends"
    return agent, handle


async def test_a_second_pod_of_a_job_does_not_begin_the_run_again(either: Scene, figure: Figure) -> None:
    """A cluster of 1.20 makes another pod while the one that was deleted still ends."""
    agent, handle = await deleted_pod(either)
    either.cluster.kubelet.lingers = False
    found = await either.exit_of(agent, handle)
    assert found.kind is ExitKind.DIED
    assert "deleted its pod" in found.hint
    assert len(either.cluster.kubelet.started) == 1
    figure(f"{either.cluster.server.version}: one pod was deleted while it ran, 1 began")


async def test_a_secret_for_any_pod_is_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: the offer names no pod, and two copies of the run live at once."""
    make = offer.make

    def for_anybody(api: Any, job: Mapping[str, Any], files: Mapping[str, bytes]) -> bool:
        return make(api, job, {name: data for name, data in files.items() if name != "holder"})

    monkeypatch.setattr(offer, "make", for_anybody)
    scene = Scene(tmp_path, old=True)
    try:
        await deleted_pod(scene)
        assert len(scene.cluster.kubelet.started) == 2
    finally:
        await scene.close()


@pytest.mark.parametrize("path", ["/jobs", "/secrets"])
async def test_a_lost_answer_makes_nothing_twice(scene: Scene, path: str) -> None:
    scene.cluster.server.plant("POST", path, "after", 2)
    agent = await scene.agent()
    handle = await scene.launch(agent)
    await scene.pod(handle)
    assert len(scene.names("jobs")) == len(scene.names("pods")) == len(scene.names("secrets")) == 1


async def test_a_job_of_somebody_else_is_left_alone(scene: Scene) -> None:
    agent = await scene.agent()
    plan = agent.plan(*await _asked())
    foreign = {**plan.job, "metadata": {**plan.job["metadata"], "labels": {}, "annotations": {}}}
    scene.cluster.store.create("jobs", "flows", foreign)
    with pytest.raises(LaunchError, match="none of this agent's"):
        await scene.launch(agent)
    assert scene.names("secrets") == []


async def _asked() -> tuple[Any, Any]:
    from tests.integration.kubernetes.conftest import spec_of

    from heliograph.run_configs import KubernetesRun

    return spec_of(), KubernetesRun(image="flows:1").launch_settings()


async def test_another_agent_of_the_name_ends_what_the_first_one_started(scene: Scene) -> None:
    """Which need not have its disk: a run is cancelled from wherever its agent is now."""
    scene.cluster.kubelet.scripted, scene.cluster.kubelet.pretends = False, True
    first = await scene.agent()
    handle = await scene.launch(first)
    await scene.until(lambda: scene.cluster.kubelet.started, "the run begins")
    second: KubernetesLauncher = await scene.agent(disk="elsewhere")
    assert await second.list() == [handle]
    await second.stop(handle, abandon=False)
    assert (await scene.exit_of(second, handle)).kind is ExitKind.DIED
    assert (await scene.exit_of(first, handle)).kind is ExitKind.DIED
    assert scene.names("jobs") == []


async def test_agents_of_two_names_share_a_namespace_and_see_nothing_of_each_other(scene: Scene) -> None:
    one, other = await scene.agent("one", disk="1"), await scene.agent("other", disk="2")
    first, second = await scene.launch(one, 1), await scene.launch(other, 2)
    assert await one.list() == [first]
    assert await other.list() == [second]


async def test_nothing_secret_is_in_the_job_or_in_a_variable(scene: Scene) -> None:
    agent = await scene.agent()
    await scene.pod(await scene.launch(agent))
    shown = str(scene.cluster.store.all("jobs") + scene.cluster.store.all("pods") + scene.cluster.store.all("events"))
    for secret in ("nobody-may-see", "also-secret"):
        assert secret not in shown
    [found] = scene.cluster.store.all("secrets")
    assert found["metadata"]["ownerReferences"][0]["kind"] == "Job"
    assert "token" in found["data"]
    sent = [body for method, path, _, body in scene.cluster.server.requests if method == "POST"]
    assert len(sent) == 2, "one Job and one Secret, and nothing else was sent"
