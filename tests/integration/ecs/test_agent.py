"""The demo in tasks of ECS, launched by an agent that its command started, killed and started again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.covid.server import CaseServer
from tests.support.fargate.script import Misfortune
from tests.support.fargate.server import Fargate
from tests.support.seaweed import S3Server
from tests.support.stack import Stack, wait_until

from heliograph.engine.codes import FailureCode, StateCode

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]

PLACED = """

from heliograph.engine.results import S3Result
from heliograph.run_configs import ECSRun
from heliograph.storage import S3

flow.storage = S3({bucket!r})
flow.result = S3Result({bucket!r})
flow.run_config = ECSRun(image={image!r}, cpu="1 vcpu", memory="2 GB")
"""

HELLO = """
from heliograph import Flow, task

@task
def hello():
    return 1

with Flow("hello") as flow:
    hello()
"""


@pytest.fixture
def stack(tmp_path: Path, fargate: Fargate, s3_server: S3Server) -> Iterator[Stack]:
    """A control plane and an ECS agent; what tasks need of S3 is the agent's `--env`."""
    made = Stack(tmp_path, environment={**fargate.environment, **s3_server.environment})
    made.agent_args = [
        "--type", "ecs", "--region", "eu-west-1", "--endpoint-url", fargate.url, "--subnet", "subnet-1",
        "--advertise-address", made.address, "--poll-seconds", "0.3", "--tag", "team=etl",
    ]  # fmt: skip
    for name, value in s3_server.environment.items():
        if name.startswith("AWS_") and not name.endswith("_FILE"):
            made.agent_args += ["--env", f"{name}={value}"]
    fargate.access_keys.add(s3_server.access_key)
    made.start_control_plane()
    try:
        made.start_agent()
        yield made
    finally:
        fargate.script.clear()
        made.stop()


def test_the_demo_runs_in_tasks_and_an_agent_that_is_killed_adopts_them(
    stack: Stack, fargate: Fargate, runtime_image: str, s3_server: S3Server
) -> None:
    bucket = s3_server.new_bucket("covid")
    demo = (ROOT / "examples" / "covid" / "flow.py").read_text()
    stack.register(demo + PLACED.format(bucket=bucket, image=runtime_image))
    before = len(fargate.tasks)
    with CaseServer() as cases:
        held = fargate.script.befall(Misfortune(hold="PENDING"))
        good = stack.run("covid-cases", f"url={cases.url}", f"bucket={bucket}")
        wait_until(lambda: len(fargate.tasks) > before, "its task is made", 120)
        for process in stack.processes("agent", "start"):
            process.kill()
        held.let_go.set()
        stack.start_agent()
        stack.wait_for(good, StateCode.SUCCESS, seconds=240)
        bad = stack.run("covid-cases", f"url={cases.url}", "country=Nowhere", f"bucket={bucket}")
        stack.wait_for(bad, StateCode.FAILED, seconds=240)
    body = s3_server.client().get_object(Bucket=bucket, Key="covid-germany.csv")["Body"].read().decode()
    assert body.startswith("year_month,cases,deaths\n2019-12,")
    mine = fargate.tasks[before:]
    assert all("/heliograph-covid-cases-" in task.document["taskDefinitionArn"] for task in mine)
    assert len(mine) == 2, "one for each run"
    assert {"key": "team", "value": "etl"} in mine[0].document["tags"]
    assert "adopting" in stack.log("agent-1")
    shown = b"".join(body for _, body in fargate.requests)
    for secret in (b"Nowhere", cases.url.encode(), s3_server.secret_key.encode()):
        assert secret not in shown, "parameters and variables are not for AWS"


def test_a_run_that_finds_no_capacity_waits_in_the_queue_and_one_that_never_can_crashes(
    stack: Stack, fargate: Fargate, runtime_image: str, s3_server: S3Server
) -> None:
    bucket = s3_server.new_bucket("hello")
    placed = PLACED.format(bucket=bucket, image=runtime_image)
    stack.register(HELLO + placed)
    fargate.script.place_nowhere("RESOURCE:ENI", times=1)
    waiting = stack.run("hello")
    wait_until(lambda: "RESOURCE:ENI" in stack.log("agent-1"), "the agent is told that there is no place", 120)
    wait_until(lambda: stack.inspect(waiting).state == StateCode.SCHEDULED, "it waits in the queue again", 60)
    assert not stack.inspect(waiting).failure.reason
    fargate.script.befall(Misfortune("TaskFailedToStart", "CannotPullContainerError: pull access denied", times=1))
    hopeless = stack.run("hello")
    told = stack.wait_for(hopeless, StateCode.CRASHED, seconds=120)
    assert told.failure.reason == FailureCode.IMAGE_UNAVAILABLE
    assert "CannotPullContainerError" in stack.log("agent-1")
    stack.cli("runs", "cancel", waiting, check=False)


def test_an_agent_that_cannot_list_tasks_does_not_start(tmp_path: Path, fargate: Fargate) -> None:
    stack = Stack(tmp_path, environment={**fargate.environment, "HELIOGRAPH__CLIENT__TOKEN": "none"})
    start = ["agent", "ecs", "start", "--region", "eu-west-1", "--endpoint-url", fargate.url]
    here = stack.cli(*start, check=False)
    assert here.returncode != 0
    assert "tasks cannot reach the control plane" in here.stderr
    nowhere = stack.cli(*start, "--advertise-address", stack.address, "--cluster", "no-such-cluster", check=False)
    assert nowhere.returncode != 0
    assert "ClusterNotFoundException" in nowhere.stderr
    odd = stack.cli(*start, "--cpu", "1024", "--memory", "1024", check=False)
    assert "nearest has cpu 1024" in odd.stderr
