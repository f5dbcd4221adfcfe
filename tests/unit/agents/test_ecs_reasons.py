"""What ECS says of stopped tasks and of refused calls, and what it means for the run."""

from __future__ import annotations

from typing import Any

import pytest

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph_agents import container
from heliograph_agents.exits import exit_of
from heliograph_agents.launcher import ExitKind, InfraExit
from heliograph_agents.launchers.ecs.aws import AwsRefusedError, refusal, unplaced
from heliograph_agents.launchers.ecs.reasons import container_of, delay_in, verdict, waiting

KILLED = 137
MODULE = "heliograph_agents.container"


def judged(
    stop: str = "EssentialContainerExited", said: str = "", code: int | None = None, reason: str = "",
    *, abandoned: bool = False, ours: bool = False, containers: bool = True,
) -> InfraExit:  # fmt: skip
    flow: dict[str, Any] = {"name": "flow", "reason": reason} | ({} if code is None else {"exitCode": code})
    sidecar = {"name": "proxy", "exitCode": 0}
    task = {"stopCode": stop, "stoppedReason": said, "containers": [sidecar, flow] if containers else []}
    return exit_of(verdict(task, "flow", abandoned=abandoned, stopped_by_us=ours))


@pytest.mark.parametrize(
    ("found", "kind", "reason"),
    [
        (judged(code=0), ExitKind.FINISHED, None),
        (judged(code=container.EXIT_TOLD_FAILED), ExitKind.FINISHED, None),
        (judged(code=container.EXIT_TOLD_CRASHED), ExitKind.FINISHED, None),
        (judged(code=container.EXIT_LEASE_LOST), ExitKind.LEASE_LOST, None),
        (judged(code=container.EXIT_CODE_REFUSED), ExitKind.NEVER_STARTED, FailureCode.LAUNCH_FAILED),
        (judged(code=container.EXIT_CODE_SPENT), ExitKind.DIED, FailureCode.SUPERVISOR_DIED),
        (judged(code=container.EXIT_SUPERVISOR_FAILED), ExitKind.DIED, FailureCode.SUPERVISOR_DIED),
        (judged(code=42), ExitKind.DIED, FailureCode.EXIT_CODE),
        (judged(code=1), ExitKind.DIED, FailureCode.LAUNCH_SETTINGS),
        (judged(code=127), ExitKind.DIED, FailureCode.LAUNCH_SETTINGS),
        (judged(code=139), ExitKind.DIED, FailureCode.SIGNAL),
        (judged(code=KILLED), ExitKind.DIED, FailureCode.SIGNAL),
        (judged(code=KILLED, reason="OutOfMemoryError: Container killed due to memory usage"), ExitKind.DIED,
         FailureCode.OUT_OF_MEMORY),
        (judged(said="OutOfMemoryError: container killed", code=1), ExitKind.DIED, FailureCode.OUT_OF_MEMORY),
        (judged("SpotInterruption", "Your Spot Task was interrupted.", KILLED), ExitKind.DIED, FailureCode.EVICTED),
        (judged("SpotInterruption", "Your Spot Task was interrupted.", container.EXIT_TOLD_CRASHED), ExitKind.FINISHED,
         None),
        (judged("SpotInterruption", "Your Spot Task was interrupted."), ExitKind.NEVER_STARTED,
         FailureCode.LAUNCH_FAILED),
        (judged("UserInitiated", "Task stopped by user", KILLED), ExitKind.DIED, FailureCode.INFRASTRUCTURE_DELETED),
        (judged("UserInitiated", "heliograph: cancelled", KILLED, ours=True), ExitKind.DIED,
         FailureCode.INFRASTRUCTURE_DELETED),
        (judged("UserInitiated", "x", 2, abandoned=True), ExitKind.LEASE_LOST, FailureCode.INFRASTRUCTURE_DELETED),
        (judged("TaskFailedToStart", "CannotPullContainerError: ref pull has been retried", reason="x"),
         ExitKind.DIED, FailureCode.IMAGE_UNAVAILABLE),
        (judged("TaskFailedToStart", "CannotPullECRContainerError: AccessDeniedException"), ExitKind.DIED,
         FailureCode.IMAGE_UNAVAILABLE),
        (judged("TaskFailedToStart", "Timeout waiting for network interface provisioning to complete.",
                containers=False), ExitKind.NEVER_STARTED, FailureCode.LAUNCH_FAILED),
        (judged("TaskFailedToStart", "Capacity is unavailable at this time. Please try again later or in a different"
                " availability zone"), ExitKind.NEVER_STARTED, FailureCode.LAUNCH_FAILED),
        (judged("TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: i/o"
                " timeout"), ExitKind.DIED, FailureCode.LAUNCH_SETTINGS),
        (judged("TaskFailedToStart", 'CannotStartContainerError: exec: "python": executable file not found'),
         ExitKind.DIED, FailureCode.LAUNCH_SETTINGS),
        (judged("TaskFailedToStart", "", containers=False), ExitKind.DIED, FailureCode.LAUNCH_SETTINGS),
        (judged("InfrastructureHealth", "Host is unhealthy"), ExitKind.DIED, FailureCode.NODE_LOST),
        (judged("EssentialContainerExited", ""), ExitKind.DIED, FailureCode.NODE_LOST),
    ],
)  # fmt: skip
def test_every_way_a_task_ends_has_its_kind_and_reason(
    found: InfraExit, kind: ExitKind, reason: FailureCode | None
) -> None:
    assert (found.kind, found.reason) == (kind, reason)
    assert found.hint or kind is ExitKind.FINISHED


def test_the_flows_container_is_the_one_that_was_told_to_begin_a_run() -> None:
    told = [{"name": "proxy", "command": ["serve"]}, {"name": "work", "command": ["python", "-m", MODULE]}]
    containers = [{"name": "flow", "exitCode": 0}, {"name": "proxy", "exitCode": 0}, {"name": "work", "exitCode": 42}]
    task = {"overrides": {"containerOverrides": told}, "containers": containers}
    assert container_of(task, "flow")["name"] == "work"
    assert exit_of(verdict(task, "flow", abandoned=False, stopped_by_us=False)).exit_code == 42
    assert container_of({"containers": containers}, "flow")["name"] == "flow"
    assert container_of({"containers": containers}, "unknown")["name"] == "flow"
    assert container_of({}, "flow") == {}


def test_what_ecs_says_is_in_the_hint_and_what_to_do_as_well() -> None:
    assert "registry auth" in judged("TaskFailedToStart", "ResourceInitializationError: registry auth").hint
    assert "NAT" in judged("TaskFailedToStart", "ResourceInitializationError: registry auth").hint
    assert "more" in judged(code=KILLED, reason="OutOfMemoryError: x").hint
    assert judged(code=KILLED).signal == 9


@pytest.mark.parametrize(
    ("code", "message", "goes_back"),
    [
        ("ThrottlingException", "Rate exceeded", True),
        ("ClientException", "Too many concurrent attempts to create a new revision of the specified family.", True),
        ("InvalidParameterException", "Error retrieving subnet information (RequestLimitExceeded)",
         True),
        ("InvalidParameterException", "Rate exceeded while calling CreateNetworkInterface", True),
        ("ClientException", "You've reached the limit on the number of tasks you can run concurrently", True),
        ("ServerException", "Capacity is unavailable at this time.", True),
        ("AccessDeniedException", "User is not authorized to perform ecs:RunTask", True),
        ("ClusterNotFoundException", "Cluster not found.", True),
        ("InvalidParameterException", "No Fargate configuration exists for given values.", False),
        ("ClientException", "TaskDefinition not found.", False),
        ("PlatformUnknownException", "no such platform", False),
    ],
)  # fmt: skip
def test_what_may_pass_sends_the_run_back_and_the_rest_ends_it(code: str, message: str, goes_back: bool) -> None:
    error = refusal("ECS refuses the task", AwsRefusedError(code, message))
    assert (error.failure is None) is goes_back
    assert (error.retry_seconds > 0) is goes_back
    assert message in str(error)


@pytest.mark.parametrize(
    ("code", "message", "delay"),
    [
        ("ThrottlingException", "Rate exceeded", LaunchDelay.THROTTLED),
        ("ClientException", "You've reached the limit on the number of vCPUs", LaunchDelay.QUOTA),
        ("ServerException", "Capacity is unavailable at this time.", LaunchDelay.NO_ROOM),
        ("AccessDeniedException", "User is not authorized to perform ecs:RunTask", LaunchDelay.PERMISSION),
        ("PlatformUnknownException", "no such platform", None),
    ],
)
def test_what_sends_a_run_back_is_told_as_one_of_a_closed_list(
    code: str, message: str, delay: LaunchDelay | None
) -> None:
    assert refusal("ECS refuses the task", AwsRefusedError(code, message)).delay is delay


@pytest.mark.parametrize(
    ("said", "delay"),
    [
        ("Capacity is unavailable at this time", LaunchDelay.NO_ROOM),
        ("Timeout waiting for network interface provisioning to complete.", LaunchDelay.PLATFORM),
        ("Rate exceeded while calling CreateNetworkInterface", LaunchDelay.THROTTLED),
    ],
)
def test_a_task_that_never_began_says_as_much(said: str, delay: LaunchDelay) -> None:
    task = {"stopCode": "TaskFailedToStart", "stoppedReason": said, "containers": [{"name": "flow"}]}
    record = verdict(task, "flow", abandoned=False, stopped_by_us=False)
    assert record.reason == FailureCode.LAUNCH_FAILED
    assert delay_in(record.hint) is delay


def test_a_task_waits_until_it_runs() -> None:
    for status in ("PROVISIONING", "PENDING", "ACTIVATING"):
        found = waiting({"lastStatus": status})
        assert found is not None
        assert (found.delay, status in found.hint) == (LaunchDelay.PREPARING, True)
    assert [waiting(task) for task in ({"lastStatus": "RUNNING"}, {"lastStatus": "MISSING"}, None)] == [None] * 3


def test_no_place_is_no_failure_of_the_run_but_a_place_that_cannot_be_is() -> None:
    for reason in ("RESOURCE:MEMORY", "RESOURCE:CPU", "RESOURCE:ENI", "AGENT", "CAPACITY"):
        assert unplaced([{"reason": reason}]).failure is None
    assert unplaced([]).failure is None
    assert unplaced([{"reason": "ATTRIBUTE", "detail": "gpu"}]).failure is FailureCode.LAUNCH_SETTINGS
    assert "RESOURCE:ENI" in str(unplaced([{"reason": "RESOURCE:ENI"}]))
