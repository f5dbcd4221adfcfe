"""The Docker launcher where it meets the engine: images, logins, users, memory, deaths of everything around it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.launchers.docker_ground import DockerGround
from tests.support.control_plane import ControlPlaneProcess, control_plane_process
from tests.support.registry import Registry

from heliograph.engine.codes import FailureCode, StateCode
from heliograph_agents.launcher import ExitKind, Handle, InfraExit, LaunchError, Liveness
from heliograph_agents.most import Most

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlaneProcess]:
    """A control plane."""
    with control_plane_process(tmp_path_factory.mktemp("plane")) as process:
        yield process


@pytest.fixture
async def ground(
    request: pytest.FixtureRequest, tmp_path: Path, plane: ControlPlaneProcess
) -> AsyncIterator[DockerGround]:
    """An open launcher."""
    made = DockerGround(tmp_path, plane, request)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


async def _refused(ground: DockerGround, **changes: Any) -> LaunchError:
    """Launches what cannot be launched; nothing is left of it."""
    attempt = ground.attempt("pass", **changes)
    with pytest.raises(LaunchError) as caught:
        await ground.launch(attempt)
    name = ground.launcher.plan(attempt.spec, replace(attempt.settings, image="any", options={})).name  # type: ignore[attr-defined]
    assert await ground.remains(Handle(attempt.run, attempt.spec.epoch, name)) == []
    assert await ground.launcher.list() == []
    return caught.value


async def _ends_well(ground: DockerGround, **changes: Any) -> Handle:
    attempt = ground.attempt("pass", **changes)
    for path in (ground.folder / "storage", *(ground.folder / "storage").rglob("*")):
        path.chmod(0o755)
    handle = await ground.launch(attempt)
    found = await ground.exit_of(handle)
    assert found.kind is ExitKind.FINISHED, found
    assert ground.state(attempt.run) is StateCode.SUCCESS
    return handle


# --- images ----------------------------------------------------------------------------------------------------------


async def test_an_image_that_is_nowhere_is_said_to_be(ground: DockerGround, registry: Registry) -> None:
    missing = await _refused(ground, image=f"{registry.address}/nothing:1")
    assert missing.failure is FailureCode.IMAGE_UNAVAILABLE
    assert "nothing:1" in str(missing)
    never = await _refused(ground, image="nothing-of-this-name:1", pull_policy="Never")
    assert never.failure is FailureCode.IMAGE_UNAVAILABLE


async def test_a_private_image_is_pulled_with_the_login_of_the_agent_and_run_by_its_digest(
    ground: DockerGround, protected_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, client = f"{protected_registry.address}/private", ground.engine.client(timeout=300)
    login = {"username": protected_registry.user, "password": protected_registry.password}
    try:
        client.images.get(ground.image).tag(name, "1")
        told = list(client.images.push(name, "1", stream=True, decode=True, auth_config=login))
        assert not any("error" in line for line in told), told
        client.images.remove(f"{name}:1")
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        assert (await _refused(ground, image=f"{name}:1")).failure is FailureCode.IMAGE_UNAVAILABLE
        protected_registry.login(tmp_path / "docker")  # while the agent runs: the next pull knows it
        handle = await _ends_well(ground, image=f"{name}:1")
        labels = client.containers.get(handle.infrastructure).labels
        assert labels["heliograph.io/image"] == f"{name}:1"
        digest = labels["heliograph.io/image-run"]
        assert digest.startswith(f"{name}@sha256:")
        assert client.api.inspect_container(handle.infrastructure)["Config"]["Image"] == digest
    finally:
        client.close()


# --- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"host_config": {"cap_add": ["NO_SUCH_RIGHT"]}},
        {"host_config": {"no_such_option": 1}},
        {"networks": ["no-such-network"]},
        {"python": "no-such-python"},
        {"user": "nobody-knows"},
    ],
)
async def test_settings_that_cannot_be_are_the_end_of_the_run(ground: DockerGround, changes: dict[str, Any]) -> None:
    assert (await _refused(ground, **changes)).failure is FailureCode.LAUNCH_SETTINGS


@pytest.mark.parametrize(
    "changes",
    [
        {"user": "flow"},
        {"user": "10001:10001", "host_config": {"read_only": True, "tmpfs": {"/tmp": ""}, "cap_drop": ["ALL"]}},
    ],
    ids=["a user by name", "a number, and nothing to write to"],
)
async def test_a_container_needs_no_rights(ground: DockerGround, changes: dict[str, Any]) -> None:
    handle = await _ends_well(ground, **changes)
    await ground.launcher.forget(handle)
    await ground.launcher.cleanup()
    assert await ground.remains(handle) == []


@pytest.mark.parametrize("whose", ["the run's own limit", "the most that the policy allows"])
async def test_too_little_memory_is_called_that(ground: DockerGround, whose: str) -> None:
    asked: dict[str, Any] = {"mem_limit": "256m", "host_config": {"memswap_limit": "256m"}}
    if "policy" in whose:
        ground.owner_says, asked = {"most": Most(500, 256 * 2**20)}, {}
        await ground.restart()
    attempt = ground.attempt("eat", **asked)
    handle = await ground.launch(attempt)
    found = await ground.exit_of(handle)
    told = ground.client.get_flow_run(attempt.run)
    reason = found.reason if found.kind is ExitKind.DIED else FailureCode(told.failure.reason)
    assert reason is FailureCode.OUT_OF_MEMORY


# --- deaths ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("swept")
async def test_an_engine_that_is_killed_is_no_verdict_about_its_containers(ground: DockerGround) -> None:
    handle = await ground.launch(ground.attempt("hold"))
    other = ground.attempt("pass")
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    ground.engine.kill()
    try:
        with pytest.raises(OSError, match="Docker"):
            await ground.launcher.inspect(handle)
        with pytest.raises(OSError, match="Docker"):
            await ground.launcher.list()
        with pytest.raises(LaunchError) as caught:
            await ground.launch(other)
        assert caught.value.failure is None, "the run goes back to the queue"
    finally:
        ground.engine.start()
    assert isinstance(await ground.launcher.inspect(handle), Liveness)
    ground.let_go()
    assert (await ground.exit_of(handle)).kind is ExitKind.FINISHED


async def test_an_agent_without_its_folder_finds_its_containers_by_their_labels(ground: DockerGround) -> None:
    handle = await ground.launch(ground.attempt("hold"))
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    await ground.leave()
    for path in ground.folder.glob("runs-*"):
        path.rename(ground.folder / f"lost-{path.name}")
    await ground.restart()
    assert await ground.launcher.list() == [handle]
    await ground.kill(handle)
    found = await ground.exit_of(handle)
    assert (found.kind, found.reason, found.signal) == (ExitKind.DIED, FailureCode.SIGNAL, 9)
    assert await ground.launcher.outbox(handle) is not None, "what it had not reported is here now"


async def test_a_kept_container_keeps_no_secrets(ground: DockerGround) -> None:
    attempt = ground.attempt("fail")
    handle = await ground.launch(attempt)
    assert isinstance(await ground.exit_of(handle), InfraExit)
    await ground.launcher.forget(handle)
    await ground.launcher.cleanup()
    assert sorted(await ground.remains(handle)) == [
        f"container {handle.infrastructure}",
        f"volume {handle.infrastructure}",
    ]
    client = ground.engine.client()
    stream, _ = client.api.get_archive(handle.infrastructure, "/heliograph")
    everything = b"".join(stream) + json.dumps(client.api.inspect_container(handle.infrastructure)).encode()
    client.close()
    assert attempt.credentials.run_token.encode() not in everything
    assert b"act" in everything


async def test_ended_containers_stay_as_long_and_as_many_as_the_owner_says(ground: DockerGround) -> None:
    async def keeping(**options: Any) -> None:
        """Has the agent come back with other options and clean up."""
        ground.owner_says = options
        await ground.restart()
        await ground.launcher.cleanup()

    ended = []
    for number, what in enumerate(("pass", "fail", "fail")):
        handle = await ground.launch(ground.attempt(what))
        await ground.exit_of(handle)
        await ground.launcher.forget(handle)
        [mark] = ground.folder.glob(f"runs-*/{handle.run_id}*/forgotten")
        os.utime(mark, (time.time() - 3600 + number,) * 2)
        ended.append(handle)
    good, older, newer = ended

    await keeping(keep="failed")
    assert await ground.remains(good) == []
    assert await ground.remains(older)
    await keeping(keep="failed", keep_count=1)
    assert await ground.remains(older) == [], "one may stay: the newest"
    assert await ground.remains(newer)
    await keeping(keep="failed", keep_seconds=7200.0)
    assert await ground.remains(newer)
    await keeping(keep="failed", keep_seconds=1800.0)
    assert await ground.remains(newer) == []


async def test_launches_do_not_wait_for_each_other(ground: DockerGround) -> None:
    attempts = [ground.attempt("pass") for _ in range(3)]
    handles = await asyncio.gather(*(ground.launch(attempt) for attempt in attempts))
    assert len({handle.infrastructure for handle in handles}) == 3
    for handle in handles:
        assert (await ground.exit_of(handle)).kind is ExitKind.FINISHED
