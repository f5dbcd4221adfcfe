"""What a cluster says of pods that do not start, or do not live, and what a run's owner is told of it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.kubernetes.conftest import Scene

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph_agents.launcher import ExitKind, LaunchError, Liveness

D = LaunchDelay

WAITING = [
    ("ErrImagePull", FailureCode.IMAGE_UNAVAILABLE),
    ("ImagePullBackOff", FailureCode.IMAGE_UNAVAILABLE),
    ("ErrImageNeverPull", FailureCode.IMAGE_UNAVAILABLE),
    ("InvalidImageName", FailureCode.IMAGE_UNAVAILABLE),
    ("CreateContainerConfigError", FailureCode.LAUNCH_SETTINGS),
    ("RunContainerError", FailureCode.LAUNCH_SETTINGS),
]


@pytest.mark.parametrize(("reason", "failure"), WAITING)
async def test_what_cannot_start_is_removed_and_says_why(scene: Scene, reason: str, failure: FailureCode) -> None:
    agent = await scene.agent()
    handle = await scene.launch(agent)
    pod = await scene.pod(handle)
    scene.cluster.container(pod, {"waiting": {"reason": reason, "message": "what the kubelet says"}})
    found = await scene.exit_of(agent, handle)
    assert (found.kind, found.reason) == (ExitKind.DIED, failure)
    assert "what the kubelet says" in found.hint
    await scene.until(lambda: not scene.names("jobs") + scene.names("secrets"), "nothing is left")


async def test_what_the_cluster_does_not_remove_at_once_is_removed_by_the_next_look(scene: Scene) -> None:
    agent = await scene.agent()
    handle = await scene.launch(agent)
    pod = await scene.pod(handle)
    scene.cluster.server.plant("DELETE", "/jobs/", 403)
    scene.cluster.container(pod, {"waiting": {"reason": "InvalidImageName"}})
    await scene.until(
        lambda: "InvalidImageName" in str(agent._view.seen(handle.infrastructure)), "the agent has seen it"
    )
    with pytest.raises(OSError, match="planted"):
        await agent.inspect(handle)
    assert (await scene.exit_of(agent, handle)).reason is FailureCode.IMAGE_UNAVAILABLE
    await scene.until(lambda: not scene.names("jobs"), "nothing is left")


async def test_an_attempt_whose_secret_is_refused_ends_though_its_job_cannot_be_removed_now(scene: Scene) -> None:
    agent = await scene.agent()
    scene.cluster.server.plant("POST", "/secrets", 403)
    scene.cluster.server.plant("DELETE", "/jobs/", 403)
    handle = await scene.launch(agent)
    found = await scene.exit_of(agent, handle)
    assert (found.kind, found.reason) == (ExitKind.NEVER_STARTED, FailureCode.LAUNCH_FAILED)
    assert "planted" in found.hint
    await scene.until(lambda: not scene.names("jobs") + scene.names("pods"), "nothing is left")


async def test_an_image_has_its_grace_and_may_still_come(scene: Scene) -> None:
    agent = await scene.agent(image_grace_seconds=3600.0)
    handle = await scene.launch(agent)
    pod = await scene.pod(handle)
    for reason in ("ErrImagePull", "ImagePullBackOff"):
        scene.cluster.container(pod, {"waiting": {"reason": reason}})
        await scene.until(lambda r=reason: r in str(agent._view.seen(handle.infrastructure)), "the agent has seen it")
        assert isinstance(await agent.inspect(handle), Liveness)
        waiting = agent.waits_for(handle)
        assert waiting is not None
        assert waiting.delay is D.IMAGE
    scene.cluster.container(pod, {"running": {}}, phase="Running")
    assert isinstance(await agent.inspect(handle), Liveness)
    assert scene.names("jobs")


async def test_what_no_node_takes_waits_until_the_agent_gives_up_and_then_says_why(scene: Scene) -> None:
    agent = await scene.agent()
    handle = await scene.launch(agent, start_timeout_seconds=7)
    assert handle.start_timeout_seconds == 7
    pod = await scene.pod(handle)
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
    scene.cluster.set_status(pod, conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                                               "message": message}])  # fmt: skip
    await scene.until(lambda: "nvidia" in str(agent._view.seen(handle.infrastructure)), "the agent has seen it")
    assert isinstance(await agent.inspect(handle), Liveness), "it may be taken later"
    waiting = agent.waits_for(handle)
    assert waiting is not None
    assert waiting.delay is D.NO_ROOM
    assert message in waiting.hint
    await agent.stop(handle, abandon=True)
    found = await scene.exit_of(agent, handle)
    assert found.reason is FailureCode.NO_CAPACITY
    assert message in found.hint


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ('pods "x" is forbidden: exceeded quota: q, requested: cpu=4, used: cpu=8, limited: cpu=10', None),
        ('pods "x" is forbidden: no PriorityClass with name urgent was found', FailureCode.LAUNCH_SETTINGS),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', FailureCode.LAUNCH_SETTINGS),
        ('pods "x" is forbidden: error looking up service account flows/etl: not found', FailureCode.LAUNCH_SETTINGS),
    ],
)
async def test_a_job_without_a_pod_says_why_by_its_events(
    scene: Scene, said: str, failure: FailureCode | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliograph_agents.launchers.kubernetes.offering.OFFER_SECONDS", 0.2)
    scene.cluster.controllers.refuse_pods = said
    agent = await scene.agent()
    handle = await scene.launch(agent)
    await scene.until(lambda: scene.names("events"), "the cluster has said so")
    if failure is None:
        assert isinstance(await agent.inspect(handle), Liveness), "there may be room later"
        waiting = agent.waits_for(handle)
        assert waiting is not None
        assert waiting.delay is D.QUOTA
        await agent.stop(handle, abandon=True)
        failure = FailureCode.NO_CAPACITY
    found = await scene.exit_of(agent, handle)
    assert found.reason is failure
    assert said in found.hint
    assert scene.names("secrets") == [], "no token was given out for nothing"


async def test_without_the_right_to_read_events_an_agent_goes_on_and_tells_less(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliograph_agents.launchers.kubernetes.offering.OFFER_SECONDS", 0.2)
    scene.cluster.allow(least=True)
    scene.cluster.controllers.refuse_pods = "pods is forbidden: no PriorityClass with name urgent was found"
    agent = await scene.agent()
    handle = await scene.launch(agent)
    await scene.until(lambda: scene.names("events"), "the cluster has said so")
    assert isinstance(await agent.inspect(handle), Liveness)
    await agent.stop(handle, abandon=True)
    assert (await scene.exit_of(agent, handle)).kind is not ExitKind.FINISHED


def ended(code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
    """Returns the state of a container that has ended."""
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": "2026-01-01T00:00:00Z", **more}}


def disrupted(reason: str) -> list[dict[str, str]]:
    """Returns the condition of a pod that the cluster disrupts."""
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "as the cluster says"}]


ENDS = [
    (ended(137, "OOMKilled"), {}, FailureCode.OUT_OF_MEMORY),
    (ended(137, "ContainerStatusUnknown"), {}, FailureCode.NODE_LOST),
    (ended(128, "StartError"), {}, FailureCode.LAUNCH_SETTINGS),
    (ended(127, "ContainerCannotRun"), {}, FailureCode.LAUNCH_SETTINGS),
    (ended(143, "DeadlineExceeded"), {}, FailureCode.TIMEOUT),
    (ended(139), {}, FailureCode.SIGNAL),
    (ended(3), {}, FailureCode.EXIT_CODE),
    (ended(137), {"conditions": disrupted("EvictionByEvictionAPI")}, FailureCode.EVICTED),
    (ended(137), {"conditions": disrupted("PreemptionByScheduler")}, FailureCode.EVICTED),
    (ended(137), {"conditions": disrupted("DeletionByTaintManager")}, FailureCode.NODE_LOST),
    (None, {"reason": "Evicted", "message": "The node was low on resource: memory."}, FailureCode.EVICTED),
    (None, {"reason": "NodeLost"}, FailureCode.NODE_LOST),
    (None, {"reason": "DeadlineExceeded"}, FailureCode.TIMEOUT),
]


@pytest.mark.parametrize(("state", "status", "failure"), ENDS)
async def test_an_end_without_a_word_is_told_by_what_the_cluster_says(
    either: Scene, state: dict[str, Any] | None, status: dict[str, Any], failure: FailureCode
) -> None:
    agent = await either.agent()
    handle = await either.launch(agent)
    pod = await either.pod(handle)
    either.cluster.container(pod, {"running": {}}, phase="Running")
    assert isinstance(await agent.inspect(handle), Liveness)
    if state is None:
        either.cluster.set_status(pod, phase="Failed", containerStatuses=[], **status)
    else:
        either.cluster.container(pod, state, phase="Failed", **status)
    found = await either.exit_of(agent, handle)
    assert (found.kind, found.reason) == (ExitKind.DIED, failure)
    assert found.hint
    assert handle in either.hints, "the watch told of it"
    either.cluster.remove(pod)
    assert await agent.inspect(handle) == found, "the verdict stays"


async def test_a_node_that_takes_no_more_pods_gives_the_run_back(scene: Scene) -> None:
    agent = await scene.agent()
    handle = await scene.launch(agent)
    pod = await scene.pod(handle)
    scene.cluster.set_status(pod, phase="Failed", reason="OutOfcpu", message="Node didn't have enough resource: cpu")
    assert (await scene.exit_of(agent, handle)).kind is ExitKind.NEVER_STARTED


@pytest.mark.parametrize("what", ["pod", "job"])
async def test_what_somebody_deletes_while_it_runs_is_missed(either: Scene, what: str) -> None:
    agent = await either.agent()
    handle = await either.launch(agent)
    pod = await either.pod(handle)
    either.cluster.container(pod, {"running": {}}, phase="Running")
    await either.until(lambda: "running" in str(agent._view.seen(handle.infrastructure)[1]), "the agent has seen it")
    either.cluster.controllers.hold_pods = True
    if what == "job":
        either.cluster.store.delete("jobs", "flows", handle.infrastructure.partition("/")[2], {})
    either.cluster.remove(pod)
    found = await either.exit_of(agent, handle)
    assert (found.kind, found.reason) == (ExitKind.DIED, FailureCode.INFRASTRUCTURE_DELETED)


async def test_a_lost_node_is_no_proof_of_death(scene: Scene) -> None:
    """Its pod may run still: it counts as alive until the cluster has taken it out of its books."""
    agent = await scene.agent()
    handle = await scene.launch(agent)
    pod = await scene.pod(handle)
    scene.cluster.kubelet.lingers = True
    scene.cluster.container(pod, {"running": {}}, phase="Running", conditions=disrupted("DeletionByTaintManager"))
    scene.cluster.store.delete("pods", "flows", pod["metadata"]["name"], {})
    await scene.until(lambda: "deletionTimestamp" in str(agent._view.seen(handle.infrastructure)[1]), "it is seen")
    assert isinstance(await agent.inspect(handle), Liveness)
    scene.cluster.remove(pod)
    found = await scene.exit_of(agent, handle)
    assert found.reason is FailureCode.NODE_LOST


async def test_a_sidecar_that_lives_on_does_not_keep_the_run(scene: Scene) -> None:
    agent = await scene.agent(keep_success_seconds=3600.0)
    sidecar = {"name": "proxy", "image": "proxy:1"}
    handle = await scene.launch(agent, pod_patch={"spec": {"containers": [sidecar]}})
    pod = await scene.pod(handle)
    word = {"terminated": {"exitCode": 0, "message": '{"state": 10}'}}
    statuses = [{"name": "proxy", "state": {"running": {}}}, {"name": "flow", "state": word}]
    scene.cluster.set_status(pod, phase="Running", containerStatuses=statuses)
    assert (await scene.exit_of(agent, handle)).kind is ExitKind.FINISHED
    await agent.forget(handle)
    await agent.list()
    await agent.cleanup()
    await scene.until(lambda: not scene.names("jobs"), "nothing runs for nobody")


async def test_an_ended_job_is_kept_for_a_while_without_its_token(scene: Scene) -> None:
    agent = await scene.agent(keep_failed_seconds=3600.0)
    handle = await scene.launch(agent)
    pod = await scene.pod(handle)
    scene.cluster.container(pod, ended(3), phase="Failed")
    await scene.exit_of(agent, handle)
    await agent.forget(handle)
    await agent.list()
    await agent.cleanup()
    assert scene.names("jobs")
    assert scene.names("secrets") == []
    assert await agent.list() == []


@pytest.mark.parametrize(
    ("status", "message", "failure", "delay"),
    [
        (422, "spec.template.spec.containers[0].image: Required value", FailureCode.LAUNCH_SETTINGS, None),
        (400, "json: cannot unmarshal", FailureCode.LAUNCH_SETTINGS, None),
        (403, 'jobs.batch "x" is forbidden: exceeded quota: q, requested: count/jobs.batch=1', None, D.QUOTA),
        (403, 'jobs.batch is forbidden: User "agent" cannot create resource "jobs"', None, D.PERMISSION),
        (403, "namespace flows is being terminated", None, D.SETTINGS),
        (404, 'namespaces "flows" not found', None, D.SETTINGS),
    ],
)
async def test_a_refused_job_is_the_flows_fault_or_waits(
    scene: Scene, status: int, message: str, failure: FailureCode | None, delay: LaunchDelay | None
) -> None:
    agent = await scene.agent()
    scene.cluster.server.plant("POST", "/jobs", status, message=message)
    with pytest.raises(LaunchError) as caught:
        await scene.launch(agent)
    assert (caught.value.failure, caught.value.delay) == (failure, delay)
    assert caught.value.no_room == ("quota" in message or "terminated" in message)
    assert message in str(caught.value)
    assert await agent.list() == []
