"""The demo in a container: its image built here, pushed to a registry and pulled by an agent started by its command."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.covid.server import CaseServer
from tests.support.docker_engine import DockerEngine
from tests.support.registry import Registry
from tests.support.seaweed import S3Server
from tests.support.stack import PROJECT, Stack, wait_until

from heliograph.engine.codes import FailureCode, StateCode

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]

PLACED = """

from heliograph.engine.results import S3Result
from heliograph.run_configs import DockerRun
from heliograph.storage import S3

flow.storage = S3({bucket!r})
flow.result = S3Result({bucket!r})
flow.run_config = DockerRun(image={image!r})
"""

MOST_BYTES = 2**30


@pytest.fixture
def stack(
    tmp_path: Path, docker_engine: DockerEngine, s3_server: S3Server, protected_registry: Registry
) -> Iterator[Stack]:
    """A control plane and a Docker agent; the agent alone can log in to the registry."""
    protected_registry.login(tmp_path / "agent-docker")
    environment = {**docker_engine.environment, **s3_server.environment}
    environment["DOCKER_CONFIG"] = str(tmp_path / "agent-docker")
    (tmp_path / "policy.toml").write_text(f"max_cpu = 1.5\nmax_memory = {MOST_BYTES}\n")
    arguments = ["--type", "docker", "--network", "host", "--policy", str(tmp_path / "policy.toml")]
    for name, value in s3_server.environment.items():
        if name.startswith("AWS_") and not name.endswith("_FILE"):
            arguments += ["--env", f"{name}={value}"]
    made = Stack(tmp_path, agent_args=arguments, environment=environment)
    made.start_control_plane()
    try:
        made.start_agent()
        yield made
    finally:
        made.stop()


def _pushed(engine: DockerEngine, registry: Registry, image: str) -> str:
    """Pushes an image under a name of its own, and forgets it here. Returns the name."""
    name, client = f"{registry.address}/covid-{uuid.uuid4().hex[:8]}", engine.client(timeout=300)
    login = {"username": registry.user, "password": registry.password}
    try:
        client.images.get(image).tag(name, "1")
        told = list(client.images.push(name, "1", stream=True, decode=True, auth_config=login))
        assert not any("error" in line for line in told), told
        client.images.remove(f"{name}:1")
    finally:
        client.close()
    return f"{name}:1"


def test_the_demo_runs_in_a_container_and_its_failure_is_read_when_the_container_is_gone(
    stack: Stack, docker_engine: DockerEngine, runtime_image: str, protected_registry: Registry, s3_server: S3Server
) -> None:
    image = _pushed(docker_engine, protected_registry, runtime_image)
    bucket = s3_server.new_bucket("covid")
    stack.register((ROOT / "examples" / "covid" / "flow.py").read_text() + PLACED.format(bucket=bucket, image=image))
    with CaseServer() as cases:
        good = stack.run("covid-cases", f"url={cases.url}", f"bucket={bucket}")
        stack.wait_for(good, StateCode.SUCCESS, seconds=240)
        bad = stack.run("covid-cases", f"url={cases.url}", "country=Nowhere", f"bucket={bucket}")
        stack.wait_for(bad, StateCode.FAILED, seconds=240)
    body = s3_server.client().get_object(Bucket=bucket, Key="covid-germany.csv")["Body"].read().decode()
    assert body.startswith("year_month,cases,deaths\n2019-12,")

    client = docker_engine.client()
    try:
        name = f"heliograph-{bad}-1"
        wait_until(lambda: client.api.inspect_container(name)["State"]["Status"] == "exited", "it has ended", 60)
        host = client.api.inspect_container(name)["HostConfig"]
        assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (MOST_BYTES, MOST_BYTES, 1_500_000_000), (
            "the run asks for nothing, and the policy has a maximum"
        )
        client.api.remove_container(name, v=True)
        client.api.remove_volume(name)
    finally:
        client.close()
    why = stack.cli("runs", "why", bad).stdout
    errors = re.findall(r"heliograph errors show (\S+)", why)
    shown = stack.cli("errors", "show", errors[0]).stdout
    assert "there are no records of 'Nowhere'" in shown
    log = stack.log("agent-1")
    assert f"{image.rpartition(':')[0]}@sha256:" in log
    assert "Nowhere" not in log


def test_an_agent_whose_containers_cannot_reach_the_control_plane_does_not_start(tmp_path: Path) -> None:
    stack = Stack(tmp_path, environment={"HELIOGRAPH__CLIENT__TOKEN": "none"})
    refused = stack.cli("agent", "start", "--type", "docker", check=False)
    assert refused.returncode != 0
    assert "containers cannot reach the control plane" in refused.stderr
    assert "--advertise-address" in refused.stderr


def test_an_agent_without_an_engine_says_where_it_looked(tmp_path: Path) -> None:
    stack = Stack(tmp_path, environment={"HELIOGRAPH__CLIENT__TOKEN": "none"})
    place = f"unix://{tmp_path}/nothing.sock"
    refused = stack.cli("agent", "docker", "start", "--network", "host", "--base-url", place, check=False)
    assert refused.returncode != 0
    assert place in refused.stderr


def test_what_the_policy_does_not_name_is_refused_before_any_container(
    stack: Stack, docker_engine: DockerEngine, runtime_image: str, s3_server: S3Server
) -> None:
    bucket = s3_server.new_bucket("hostile")
    source = (
        "from heliograph import Flow, task\n\n\n@task\ndef hello():\n    return 1\n\n\n"
        "with Flow('hello') as flow:\n    hello()\n" + PLACED.format(bucket=bucket, image=runtime_image)
    )
    stack.register(
        source + "flow.run_config = DockerRun(image=flow.run_config.image, host_config={'privileged': True})\n"
    )
    run = stack.run("hello")
    told = stack.wait_for(run, StateCode.CRASHED)
    assert told.failure.reason == FailureCode.POLICY
    client = docker_engine.client()
    assert not client.containers.list(all=True, filters={"name": run})
    client.close()
    assert PROJECT in stack.log("agent-1")
