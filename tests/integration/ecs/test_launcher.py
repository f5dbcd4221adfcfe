"""The ECS launcher where it meets ECS: definitions, doubled and lost calls, no capacity, deaths, and what ECS sees."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.retries.bucket import TokenBucket
from botocore.retries.standard import ExponentialBackoff
from tests.contract.launchers.ecs_ground import EcsGround
from tests.contract.launchers.ground import Attempt
from tests.support.control_plane import ControlPlaneProcess, control_plane_process
from tests.support.fargate.script import Misfortune
from tests.support.fargate.shapes import ServiceError
from tests.support.fargate.task import PHASES
from tests.support.figures import Figure

from heliograph.engine.codes import FailureCode, StateCode
from heliograph_agents.launcher import ExitKind, Handle, InfraExit, Launcher, LaunchError, Liveness
from heliograph_agents.launchers.ecs import definitions
from heliograph_agents.launchers.ecs import plan as ecs_plan
from heliograph_agents.launchers.ecs.launcher import EcsLauncher
from heliograph_agents.start_code import VARIABLE

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlaneProcess]:
    """A control plane."""
    with control_plane_process(tmp_path_factory.mktemp("plane")) as process:
        yield process


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What AWS' SDK and the launcher ask again is asked as often, after shorter pauses."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.01)
    monkeypatch.setattr(TokenBucket, "acquire", lambda *_, **__: True)
    monkeypatch.setattr(definitions, "FIRST_PAUSE_SECONDS", 0.02)


@pytest.fixture
async def ground(
    request: pytest.FixtureRequest, tmp_path: Path, plane: ControlPlaneProcess
) -> AsyncIterator[EcsGround]:
    """An open launcher."""
    made = EcsGround(tmp_path, plane, request)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def hold(ground: EcsGround, phase: str = "PROVISIONING") -> Misfortune:
    """Keeps tasks from beginning, so that a test about calls needs no containers."""
    return ground.fargate.script.befall(Misfortune(hold=phase))


async def launch_with(launcher: Launcher, attempt: Attempt) -> Handle:
    return await launcher.launch(launcher.plan(attempt.spec, attempt.settings), attempt.credentials)


async def refused(ground: EcsGround, attempt: Attempt) -> LaunchError:
    """Launches what cannot be launched now; nothing is left of it."""
    tasks = len(ground.fargate.tasks)
    with pytest.raises(LaunchError) as caught:
        await ground.launch(attempt)
    assert len(ground.fargate.tasks) == tasks
    assert await ground.launcher.list() == []
    return caught.value


# --- definitions -----------------------------------------------------------------------------------------------------


async def test_a_definition_is_registered_once_for_all_who_need_it(ground: EcsGround, figure: Figure) -> None:
    hold(ground)
    attempts = [ground.attempt("pass", tags={"of": ground.project}) for _ in range(6)]
    # Its content makes it another one than those of other tests: nobody has registered it before.
    for number, attempt in enumerate(attempts):
        options = {**attempt.settings.options, "task_definition": {"pidMode": "task"}}
        attempts[number] = replace(attempt, settings=replace(attempt.settings, options=options, cpu_millis=500))
    before = ground.fargate.definitions.registered
    handles = await asyncio.gather(*(ground.launch(one) for one in attempts))
    assert ground.fargate.definitions.registered - before == 1
    assert len({ground.task(one).document["taskDefinitionArn"] for one in handles}) == 1
    await ground.restart()
    again = replace(ground.attempt("pass"), settings=attempts[0].settings)
    handle = await ground.launch(again)
    assert ground.fargate.definitions.registered - before == 1, "found by its hash"
    arn = ground.task(handle).document["taskDefinitionArn"]
    assert arn == ground.task(handles[0]).document["taskDefinitionArn"]
    figure("7 launches, 6 of them at once, by 2 agents: 1 task definition")


async def test_a_definition_that_somebody_took_away_is_registered_again(ground: EcsGround) -> None:
    hold(ground)
    first = await ground.launch(ground.attempt("pass"))
    arn = ground.task(first).document["taskDefinitionArn"]
    ground.fargate.definitions.deregister(arn)
    gone = await refused_once(ground, ground.attempt("pass"))
    assert "inactive" in str(gone)
    assert gone.failure is None, "the run is not at fault"
    second = await ground.launch(ground.attempt("pass"))
    assert ground.task(second).document["taskDefinitionArn"] != arn


async def test_a_definition_in_a_bucket_is_read_at_each_launch(ground: EcsGround) -> None:
    bucket, client = ground.project, ground.fargate.client("s3")
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    hold(ground)
    arns = []
    for role in ("first", "second"):
        containers = [{"name": "flow", "image": ground.image}, {"name": "proxy", "image": "p:1", "essential": False}]
        document = {"taskRoleArn": f"arn:aws:iam::123456789012:role/{role}", "containerDefinitions": containers}
        client.put_object(Bucket=bucket, Key="definition.json", Body=json.dumps(document).encode())
        attempt = ground.attempt("pass", image=None, task_definition_path=f"s3://{bucket}/definition.json")
        handle = await ground.launch(attempt)
        arns.append(ground.task(handle).document["taskDefinitionArn"])
        registered = ground.fargate.definitions.find(arns[-1])
        assert registered is not None
        assert registered["taskRoleArn"].endswith(role)
        assert registered["requiresCompatibilities"] == ["FARGATE"]
    assert len(set(arns)) == 2
    missing = await refused_once(
        ground, ground.attempt("pass", image=None, task_definition_path=f"s3://{bucket}/nothing")
    )
    assert missing.failure is FailureCode.LAUNCH_SETTINGS
    client.close()


async def refused_once(ground: EcsGround, attempt: Attempt) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        await ground.launch(attempt)
    return caught.value


# --- once ------------------------------------------------------------------------------------------------------------


async def asked_twice(ground: EcsGround) -> list[str]:
    """Has two agents' processes that know nothing of each other launch one attempt. Returns the tasks."""
    attempt = ground.attempt("pass")
    twin = ground.make_launcher(disk="elsewhere")
    await twin.open(ground.hints.append)
    try:
        first = await launch_with(ground.launcher, attempt)
        await launch_with(twin, attempt)
        await ground.exit_of(first)
        await ground.until(lambda: ground.state(attempt.run) is StateCode.SUCCESS, "one of them ran")
        return [one.arn for one in ground.all_tasks(first)]
    finally:
        await twin.close()


async def test_a_task_is_made_once_whoever_asks_for_it(ground: EcsGround) -> None:
    assert len(await asked_twice(ground)) == 1


async def test_a_second_task_is_found_where_tokens_do_not_tell(
    ground: EcsGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted twin: a token of each call's own. The start code still lets one of both begin alone."""
    numbers = iter(range(100))
    monkeypatch.setattr(ecs_plan, "name_of", lambda run, epoch: f"{run[:20]}-{epoch}-{next(numbers)}")
    assert len(await asked_twice(ground)) == 2
    assert len(list(ground.shared.glob("pass"))) == 1
    spare = [one for one in ground.fargate.tasks[-2:] if one.wait(60) and one.document["containers"][0]["exitCode"]]
    assert [one.document["containers"][0]["exitCode"] for one in spare] == [79], "its code was spent"


async def test_answers_that_are_lost_make_no_second_task(ground: EcsGround) -> None:
    ground.fargate.script.lose_answers("RunTask", 2)
    attempt = ground.attempt("pass")
    handle = await ground.launch(attempt)
    assert (await ground.exit_of(handle)).kind is ExitKind.FINISHED
    assert len(ground.all_tasks(handle)) == 1
    assert ground.task(handle).phases == list(PHASES)


async def test_a_task_whose_start_was_never_answered_is_found(ground: EcsGround) -> None:
    hold(ground)
    ground.fargate.script.lose_answers("RunTask", 100)
    handle = await ground.launch(ground.attempt("pass"))
    ground.fargate.script.clear()
    assert await ground.launcher.list() == [handle]
    assert isinstance(await ground.launcher.inspect(handle), Liveness | InfraExit)
    assert len(ground.all_tasks(handle)) == 1


async def test_an_agent_without_its_folder_finds_its_tasks_by_their_tags(ground: EcsGround) -> None:
    held = hold(ground)
    handle = await ground.launch(ground.attempt("pass"))
    await ground.leave()
    ground.launcher = ground.make_launcher(disk="new-disk")
    await ground.launcher.open(ground.hints.append)
    assert await ground.launcher.list() == [handle]
    assert await ground.launcher.inspect(handle) is Liveness.STARTING
    held.let_go.set()
    assert (await ground.exit_of(handle)).kind is ExitKind.FINISHED


async def test_hundreds_of_tasks_are_looked_at_a_hundred_with_one_call(ground: EcsGround, figure: Figure) -> None:
    hold(ground)
    handle = await ground.launch(ground.attempt("pass"))
    assert isinstance(ground.launcher, EcsLauncher)
    tasks = ground.launcher._tasks
    arn = ground.task(handle).arn
    names = [arn, *(f"{arn[:-32]}{number:032x}" for number in range(249))]
    await ground.leave()
    before = ground.fargate.count("DescribeTasks")
    tasks.look(names)
    assert ground.fargate.count("DescribeTasks") - before == 3
    assert sum(1 for name in names if tasks.seen(name, 60) is not None) == 250
    figure("250 tasks described with 3 calls")
    ground.launcher = ground.make_launcher()
    await ground.launcher.open(ground.hints.append)


# --- no place, no pace -----------------------------------------------------------------------------------------------


async def test_a_run_that_finds_no_place_goes_back_to_the_queue(ground: EcsGround) -> None:
    script = ground.fargate.script
    for reason in ("RESOURCE:ENI", "RESOURCE:MEMORY", "Capacity is unavailable at this time. Please try again later"):
        script.place_nowhere(reason)
        error = await refused(ground, ground.attempt("pass"))
        assert error.failure is None
        assert error.retry_seconds >= 30
        assert error.no_room
        assert reason in str(error)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ThrottlingException", "Rate exceeded"),
        ("InvalidParameterException", "Error retrieving subnets: Throttling (Request limit exceeded)"),
        ("ClientException", "You've reached the limit on the number of vCPUs"),
    ],
)  # fmt: skip
async def test_a_throttled_run_goes_back_to_the_queue_too(ground: EcsGround, code: str, message: str) -> None:
    ground.fargate.script.refuse("RunTask", ServiceError(code, message), times=10)
    error = await refused(ground, ground.attempt("pass"))
    assert error.failure is None
    assert error.retry_seconds > 0
    assert error.no_room
    ground.fargate.script.clear()
    hold(ground)
    await ground.launch(ground.attempt("pass"))


async def test_a_registration_that_meets_another_one_is_tried_again(ground: EcsGround) -> None:
    hold(ground)
    words = "Too many concurrent attempts to create a new revision of the specified family."
    ground.fargate.script.refuse("RegisterTaskDefinition", ServiceError("ClientException", words), times=2)
    attempt = ground.attempt("pass")
    options = {**attempt.settings.options, "task_definition": {"ipcMode": "none", "pidMode": "task"}}
    handle = await ground.launch(replace(attempt, settings=replace(attempt.settings, options=options)))
    assert ground.task(handle).document["lastStatus"] == "PROVISIONING"


async def test_what_ecs_will_never_take_ends_the_run(ground: EcsGround) -> None:
    error = await refused(ground, ground.attempt("pass", task_definition_arn="nobody-has-this:1", image=None))
    assert error.failure is FailureCode.LAUNCH_SETTINGS
    assert "not found" in str(error)


async def test_an_account_without_a_cluster_is_said_before_anything_is_taken(ground: EcsGround) -> None:
    ground.fargate.clusters.clear()
    try:
        with pytest.raises(Exception, match="cannot be listed"):
            await ground.restart()
    finally:
        ground.fargate.clusters.add("default")
        ground.launcher = ground.make_launcher()
        await ground.launcher.open(ground.hints.append)


# --- deaths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop_code", "words", "kind", "reason"),
    [
        ("TaskFailedToStart", "Timeout waiting for network interface provisioning to complete.",
         ExitKind.NEVER_STARTED, FailureCode.LAUNCH_FAILED),
        ("TaskFailedToStart", "CannotPullContainerError: pull access denied", ExitKind.DIED,
         FailureCode.IMAGE_UNAVAILABLE),
        ("SpotInterruption", "Your Spot Task was interrupted.", ExitKind.NEVER_STARTED, FailureCode.LAUNCH_FAILED),
    ],
)  # fmt: skip
async def test_a_task_that_never_began_is_told_of_with_its_reason(
    ground: EcsGround, stop_code: str, words: str, kind: ExitKind, reason: FailureCode
) -> None:
    ground.fargate.script.befall(Misfortune(stop_code, words))
    handle = await ground.launch(ground.attempt("pass"))
    found = await ground.exit_of(handle)
    assert (found.kind, found.reason) == (kind, reason)
    assert words in found.hint


async def test_an_image_that_is_nowhere_is_said_to_be(ground: EcsGround) -> None:
    handle = await ground.launch(ground.attempt("pass", image="nowhere.internal/nothing:1"))
    found = await ground.exit_of(handle)
    assert found.reason is FailureCode.IMAGE_UNAVAILABLE
    assert "nowhere.internal/nothing:1" in found.hint


async def test_spot_capacity_that_goes_is_no_cancellation(ground: EcsGround) -> None:
    attempt = ground.attempt("hold")
    handle = await ground.launch(attempt)
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    ground.task(handle).stop("SpotInterruption", "Your Spot Task was interrupted.")
    assert (await ground.exit_of(handle)).kind is ExitKind.FINISHED, "it had the time to say so itself"
    run = ground.client.get_flow_run(attempt.run)
    assert (run.state, run.failure.reason) == (StateCode.CRASHED, FailureCode.EVICTED)


async def test_a_flow_that_eats_all_memory_is_known_to_have(ground: EcsGround) -> None:
    # The container's own limit, below that of the task: there is less to eat.
    limited = {"overrides": {"containerOverrides": [{"name": "flow", "memory": 256}]}}
    attempt = ground.attempt("eat", run_task_kwargs=limited)
    found = await ground.exit_of(await ground.launch(attempt))
    told = ground.client.get_flow_run(attempt.run)
    # The kernel chooses whom it kills: the flow, of which the supervisor tells, or all, of which ECS does.
    reason = found.reason if found.kind is ExitKind.DIED else FailureCode(told.failure.reason)
    assert reason is FailureCode.OUT_OF_MEMORY


async def test_what_a_dead_task_printed_is_in_the_agents_log_and_its_network_is_found(
    ground: EcsGround, caplog: pytest.LogCaptureFixture
) -> None:
    """With logs and VPCs of the AWS that moto speaks."""
    await ground.leave()
    made = replace(ground.options(), log_group="/flows", subnets=())
    ground.options = lambda: made  # type: ignore[method-assign]
    ground.launcher = ground.make_launcher()
    await ground.launcher.open(ground.hints.append)
    with caplog.at_level(logging.INFO, "heliograph.agent"):
        logging.getLogger("heliograph.agent").propagate = True
        handle = await ground.launch(ground.attempt("pass", python="ls"))
        found = await ground.exit_of(handle)
    assert found.reason is FailureCode.LAUNCH_SETTINGS
    assert "before it began" in found.hint
    assert "invalid option" in caplog.text or "unrecognized option" in caplog.text
    network = next(json.loads(body) for name, body in reversed(ground.fargate.requests) if name == "RunTask")
    subnets = network["networkConfiguration"]["awsvpcConfiguration"]
    assert subnets["assignPublicIp"] == "ENABLED"
    assert all(one.startswith("subnet-") for one in subnets["subnets"])


async def test_a_task_that_ecs_forgot_is_gone(ground: EcsGround) -> None:
    hold(ground)
    handle = await ground.launch(ground.attempt("pass"))
    folder = next((ground.folder / f"runs-{ground.agent}").iterdir())
    import os

    os.utime(folder / "started", (1, 1))  # long ago: it would be in every list
    task = ground.task(handle)
    ground.fargate.tasks.remove(task)
    try:
        found = await ground.exit_of(handle)
    finally:
        ground.fargate.tasks.append(task)
    assert found.reason is FailureCode.INFRASTRUCTURE_DELETED


# --- what ECS sees ---------------------------------------------------------------------------------------------------


def shown_to_aws(ground: EcsGround, since: int) -> bytes:
    """Returns everything that AWS got, with the starts opened."""
    found = []
    for _, body in ground.fargate.requests[since:]:
        found.append(body)
        if body.startswith(b"{"):
            for one in (json.loads(body).get("overrides") or {}).get("containerOverrides") or ():
                starts = [item["value"] for item in one.get("environment") or () if item["name"] == VARIABLE]
                found += [base64.b64decode(text) for text in starts]
    return b"\n".join(found)


async def launched_with_secrets(ground: EcsGround) -> tuple[bytes, list[str]]:
    since = len(ground.fargate.requests)
    attempt = ground.attempt("pass", env={"APP_KEY": "canary-of-the-environment"})
    spec = replace(
        attempt.spec,
        bundle=replace(attempt.spec.bundle, own_launch='[env]\nOWN = "canary-of-the-agents-file"\n'),
        parameters_json='{"what": "pass"}  ',
    )
    handle = await launch_with(ground.launcher, replace(attempt, spec=spec))
    await ground.exit_of(handle)
    assert ground.state(attempt.run) is StateCode.SUCCESS, "it got all of it"
    secrets = [attempt.credentials.run_token, "canary-of-the-environment", "canary-of-the-agents-file", '"what"',
               "parameters_json", "APP_KEY", attempt.spec.bundle.location]  # fmt: skip
    shown = shown_to_aws(ground, since)
    return shown, [secret for secret in secrets if secret.encode() in shown]


async def test_nothing_of_a_run_is_shown_to_aws(ground: EcsGround, figure: Figure) -> None:
    shown, leaked = await launched_with_secrets(ground)
    assert leaked == []
    assert b"hg_start-" in shown, "the start itself was looked into"
    figure(f"{len(shown):,} bytes to AWS for a run with secrets: none of them shown")


async def test_a_leak_to_aws_is_found(ground: EcsGround, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: environment values in the override, as Prefect 1 had them."""
    honest = ecs_plan.EcsPlan.override

    def careless(self: Any, variables: dict[str, str]) -> Any:
        return honest(self, {**variables, "APP_KEY": "canary-of-the-environment"})

    monkeypatch.setattr(ecs_plan.EcsPlan, "override", careless)
    _, leaked = await launched_with_secrets(ground)
    assert set(leaked) == {"canary-of-the-environment", "APP_KEY"}
