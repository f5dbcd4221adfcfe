"""Every way in which a pod ends or does not begin, made on a real cluster, and what the launcher says of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.contract.launchers.cluster_ground import ClusterGround
from tests.support.kubernetes.api import Json

from heliograph.engine.codes import FailureCode, StateCode
from heliograph_agents.launcher import ExitKind, InfraExit, LaunchError
from heliograph_agents.launchers.kubernetes.launcher import KubernetesLauncher


async def renew(ground: ClusterGround, **options: Any) -> None:
    """Restarts the launcher with other options of its owner."""
    ground.more_options |= options
    await ground.restart()


async def end_of(ground: ClusterGround, what: str = "pass", **changes: Any) -> InfraExit:
    """Launches an attempt and waits for its end."""
    return await ground.exit_of(await ground.launch(ground.attempt(what, **changes)))


def told(found: InfraExit) -> FailureCode | None:
    """Returns the reason of an end that must have a sentence for people."""
    assert found.hint
    return found.reason


async def test_memory_is_limited_and_its_lack_is_told(ground: ClusterGround) -> None:
    attempt = ground.attempt("eat", memory_limit="160Mi")
    found = await ground.exit_of(await ground.launch(attempt))
    failure = ground.client.get_flow_run(attempt.run).failure
    # The flow is a child of the supervisor: the kernel may take either.
    assert FailureCode.OUT_OF_MEMORY in (found.reason, failure.reason)


@pytest.mark.parametrize(
    ("image", "word"), [("127.0.0.1:1/nothing:1", "ErrImagePull ImagePullBackOff"), ("No_Such", "InvalidImageName")]
)
async def test_an_image_that_cannot_be_had_is_told_after_its_grace(
    ground: ClusterGround, image: str, word: str
) -> None:
    await renew(ground, image_grace_seconds=3.0)
    found = await end_of(ground, image=image)
    assert told(found) is FailureCode.IMAGE_UNAVAILABLE
    assert any(one in found.hint for one in word.split())
    assert found.kind is not ExitKind.FINISHED


async def test_an_image_that_must_not_be_pulled_is_told(ground: ClusterGround) -> None:
    await renew(ground, image_grace_seconds=3.0)
    found = await end_of(ground, image="nothing:1", image_pull_policy="Never")
    assert told(found) is FailureCode.IMAGE_UNAVAILABLE
    assert "ErrImageNeverPull" in found.hint


async def test_a_container_that_cannot_be_made_is_told(ground: ClusterGround) -> None:
    await renew(ground, config_grace_seconds=2.0)
    found = await end_of(ground, env_from=[{"secretRef": {"name": "no-such"}}])
    assert told(found) is FailureCode.LAUNCH_SETTINGS
    assert "CreateContainerConfigError" in found.hint
    assert "no-such" in found.hint


async def test_an_interpreter_that_is_not_there_is_told(ground: ClusterGround) -> None:
    found = await end_of(ground, python="/no/such/python")
    assert told(found) is FailureCode.LAUNCH_SETTINGS


async def test_a_pod_that_no_node_takes_is_told_when_its_time_to_start_is_over(ground: ClusterGround) -> None:
    attempt = ground.attempt("pass", node_selector={"color": "blue"})
    handle = await ground.launch(attempt)

    def refused() -> bool:
        conditions = [one for pod in ground.pods() for one in pod["status"].get("conditions", [])]
        return any(one.get("reason") == "Unschedulable" for one in conditions)

    await ground.until(refused, "the scheduler finds no node")
    assert not isinstance(await ground.launcher.inspect(handle), InfraExit), "a node may come"
    await ground.launcher.stop(handle, abandon=True)  # as the tracker does when the time to start is over
    found = await ground.exit_of(handle)
    assert told(found) is FailureCode.NO_CAPACITY
    assert "node" in found.hint


async def test_more_than_any_node_has_is_told(ground: ClusterGround) -> None:
    handle = await ground.launch(ground.attempt("pass", cpu_request="500"))
    await ground.until(lambda: any(pod["status"].get("conditions") for pod in ground.pods()), "the scheduler looked")
    await ground.launcher.stop(handle, abandon=True)
    found = await ground.exit_of(handle)
    assert told(found) is FailureCode.NO_CAPACITY
    assert "Insufficient cpu" in found.hint


@pytest.mark.parametrize("way", ["eviction", "deletion", "deletion of the Job", "deletion by force"])
async def test_what_somebody_removes_is_told_and_does_not_begin_again(ground: ClusterGround, way: str) -> None:
    attempt = ground.attempt("hold")
    handle = await ground.launch(attempt)
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    flow = ground.marked("hold")
    [pod] = ground.pods()
    name = pod["metadata"]["name"]
    core, batch = f"/api/v1/namespaces/{ground.namespace}", f"/apis/batch/v1/namespaces/{ground.namespace}"
    (ground.shared / "hold").unlink()
    if way == "eviction":
        body: Json = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": name}}
        ground.admin.post(f"{core}/pods/{name}/eviction", body)
    elif way == "deletion":
        ground.admin.delete(f"{core}/pods/{name}")
    elif way == "deletion by force":
        ground.admin.delete(f"{core}/pods/{name}", gracePeriodSeconds=0)
    else:
        ground.admin.delete(f"{batch}/jobs/{handle.infrastructure.partition('/')[2]}", propagationPolicy="Background")
    found = await ground.exit_of(handle)
    run = ground.client.get_flow_run(attempt.run)
    assert (found.reason or run.failure.reason) in (FailureCode.EVICTED, FailureCode.INFRASTRUCTURE_DELETED)
    await ground.until(lambda: not ground.alive(flow), "its process is gone")
    assert not ground.marked("hold"), "it has not begun again"


async def test_a_job_that_takes_too_long_for_its_template_is_told(ground: ClusterGround) -> None:
    template = ground.template()
    await renew(ground, template={"spec": {"activeDeadlineSeconds": 20, "template": template}})
    attempt = ground.attempt("hold")
    handle = await ground.launch(attempt)
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    found = await ground.exit_of(handle)
    run = ground.client.get_flow_run(attempt.run)
    # The Job's controller deletes the pod: its supervisor, which is warned, may have said so before.
    reasons = (FailureCode.TIMEOUT, FailureCode.EVICTED, FailureCode.INFRASTRUCTURE_DELETED)
    assert (found.reason or run.failure.reason) in reasons


async def test_a_namespace_that_is_not_there_gives_the_run_back(ground: ClusterGround) -> None:
    attempt = ground.attempt("pass")
    ground.more_options["namespaces"] = ("no-such",)
    spare = ground.make_launcher("another")
    assert isinstance(spare, KubernetesLauncher)
    with pytest.raises(LaunchError, match="no-such") as refused:
        await spare.launch(spare.plan(attempt.spec, attempt.settings), attempt.credentials)
    assert refused.value.failure is None, "another agent, or another day, may have it"
    await spare.close()


@pytest.mark.parametrize("what", ["count/jobs.batch", "pods"])
async def test_a_used_up_quota_is_told(ground: ClusterGround, what: str) -> None:
    quotas = f"/api/v1/namespaces/{ground.namespace}/resourcequotas"
    ground.admin.post(quotas, {"metadata": {"name": "none"}, "spec": {"hard": {what: "0"}}})
    ground.admin.until(f"{quotas}/none", lambda one: one.get("status", {}).get("hard"), "the quota counts")
    attempt = ground.attempt("pass")
    if what == "pods":
        handle = await ground.launch(attempt)
        events = f"/api/v1/namespaces/{ground.namespace}/events"
        ground.admin.until(
            events, lambda found: [1 for one in found["items"] if one["reason"] == "FailedCreate"], "it fails"
        )
        await ground.launcher.stop(handle, abandon=True)
        found = await ground.exit_of(handle)
        assert told(found) is FailureCode.NO_CAPACITY
        assert "quota" in found.hint
    else:
        with pytest.raises(LaunchError, match="quota") as refused:
            await ground.launch(attempt)
        assert (refused.value.failure, refused.value.retry_seconds > 0) == (None, True)


async def test_a_service_account_that_is_not_there_is_told_by_the_jobs_events(ground: ClusterGround) -> None:
    await renew(ground, config_grace_seconds=2.0)
    found = await end_of(ground, service_account_name="no-such")
    assert told(found) is FailureCode.LAUNCH_SETTINGS
    assert "no-such" in found.hint


async def test_a_job_that_the_cluster_finds_invalid_is_refused_for_good(ground: ClusterGround) -> None:
    attempt = ground.attempt("pass", json_patch=[
        {"op": "add", "path": "/spec/template/spec/dnsPolicy", "value": "Sometimes"}])  # fmt: skip
    with pytest.raises(LaunchError) as refused:
        await ground.launch(attempt)
    assert refused.value.failure is FailureCode.LAUNCH_SETTINGS
    assert "dnsPolicy" in str(refused.value)


async def test_what_ends_well_is_removed_with_its_secret(ground: ClusterGround) -> None:
    attempt = ground.attempt("pass")
    handle = await ground.launch(attempt)
    assert (await ground.exit_of(handle)).kind is ExitKind.FINISHED
    assert ground.state(attempt.run) is StateCode.SUCCESS
    secrets = f"/api/v1/namespaces/{ground.namespace}/secrets/{handle.infrastructure.partition('/')[2]}"
    await ground.launcher.forget(handle)
    await asyncio.to_thread(ground.admin.until, secrets, lambda one: one.get("code") == 404, "the run token is gone")
    await ground.launcher.cleanup()
    assert await ground.remains(handle) == []


async def test_the_cluster_removes_what_no_agent_does(ground: ClusterGround) -> None:
    await renew(ground, ttl_seconds=1)
    handle = await ground.launch(ground.attempt("pass"))
    await ground.leave()
    try:
        assert await ground.remains(handle) == []
    finally:
        await ground.restart()
    found = await ground.exit_of(handle)
    assert isinstance(found, InfraExit)
