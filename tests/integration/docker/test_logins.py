"""Logins of registries: credential helpers, and tokens of ECR that are new at every pull."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from tests.support.docker_engine import DockerEngine
from tests.support.registry import Registry

from heliograph.engine.codes import FailureCode
from heliograph_agents.launcher import LaunchError
from heliograph_agents.launchers.docker.engine import Engine
from heliograph_agents.launchers.docker.images import provide
from heliograph_agents.launchers.docker.logins import LoginError, login_for

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(600)]

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"

HELPER = """#!/bin/sh
echo "$1 $(cat)" >> {asked}
[ -f {answer} ] || {{ echo "the vault is sealed"; exit 1; }}
cat {answer}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The agent's own `config.json`; what is not written there is not known."""
    folder = tmp_path / "docker-config"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder / "config.json"


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AWS's wire by moto, and an environment that knows nobody."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    server.stop()


def test_a_credential_helper_is_asked_at_every_pull(
    docker_engine: DockerEngine,
    runtime_image: str,
    protected_registry: Registry,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program, asked, answer = tmp_path / "bin" / "docker-credential-proof", tmp_path / "asked", tmp_path / "answer"
    program.parent.mkdir()
    program.write_text(HELPER.format(asked=asked, answer=answer))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    registry = protected_registry
    config.write_text(json.dumps({"credHelpers": {registry.address: "proof"}}))
    name, client = f"{registry.address}/helped-{uuid.uuid4().hex[:8]}", docker_engine.client(timeout=300)
    engine = Engine(docker_engine.url, 60.0)
    try:
        client.images.get(runtime_image).tag(name, "1")
        login = {"username": registry.user, "password": registry.password}
        told = list(client.images.push(name, "1", stream=True, decode=True, auth_config=login))
        assert not any("error" in line for line in told), told
        client.images.remove(f"{name}:1")

        with pytest.raises(LaunchError, match="credential helper") as caught:
            provide(engine, f"{name}:1", "Always", "")
        assert caught.value.failure is FailureCode.IMAGE_UNAVAILABLE

        answer.write_text(json.dumps({"ServerURL": "", "Username": registry.user, "Secret": registry.password}))
        before = asked.read_text().count("get")
        for _ in range(2):
            assert provide(engine, f"{name}:1", "Always", "").reference.startswith(f"{name}@sha256:")
        assert asked.read_text().count("get") == before + 2
        assert registry.address in asked.read_text()
    finally:
        engine.close()
        client.close()


def test_ecr_gives_a_login_for_each_pull(
    amazon: None, config: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    config.write_text("{}")
    assert login_for(ECR) == {}, "without credentials of AWS it is left to Docker's own configuration"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    login = login_for(ECR)
    assert login["username"] == "AWS"
    assert login["password"]
    assert login_for("registry.example.org") == {}
    config.write_text(json.dumps({"auths": {ECR: {"auth": "dXNlcjpvbGQ="}}}))
    assert login_for(ECR)["username"] == "AWS", "what `docker login` left is twelve hours old at some time"


def test_amazon_that_refuses_is_said_to(amazon: None, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("{}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(LoginError, match="AWS gives no login of ECR"):
        login_for(ECR)
