"""Images built at registration on a real engine, pushed to a real registry, and run by a Docker agent."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.docker_engine import DockerEngine
from tests.support.registry import Registry
from tests.support.stack import Stack
from tests.unit.storage.conftest import clean_imports, project

from heliograph.core.flow import Flow
from heliograph.engine.codes import StateCode
from heliograph.exceptions import InvalidArgumentError, LaunchSettingsError, StorageError
from heliograph.run_configs import DockerRun, UniversalRun
from heliograph.storage import Docker, from_reference, launch_settings
from heliograph.storage.docker import _built

__all__ = ["clean_imports", "project"]

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(600)]

Project = Callable[..., tuple[Path, Any]]

FLOWS = """
import os
from pathlib import Path
from heliograph import Flow, task
from heliograph.run_configs import DockerRun
from heliograph.storage import Docker

@task
def look():
    if "MODE" in os.environ:
        assert os.environ["MODE"] == 'a "b" $c', os.environ["MODE"]
        assert Path("/data/words.txt").read_text() == "from a file"

made = dict(base_image="{base}", local_image=True, env_vars={{"MODE": 'a "b" $c'}},
            files={{"{file}": "/data/words.txt"}})
beside = Docker("{registry}", image_name="{name}", **made)
baked = Docker("{registry}", image_name="{name}-baked", bake=True, **made)

with Flow("one", storage=beside) as one:
    look()
with Flow("two", storage=beside, run_config=DockerRun(env={{"SECRET_WORD": "x"}})) as two:
    look()
with Flow("in-the-image", storage=baked) as in_the_image:
    look()
with Flow("beside-a-given-image", run_config=DockerRun(image="{given}")) as given:
    look()
"""


@pytest.fixture(autouse=True)
def engine(docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> DockerEngine:
    """The engine, which this process builds on; nobody's logins; nothing built before."""
    for name, value in docker_engine.environment.items():
        monkeypatch.setenv(name, value)
    _built.clear()
    return docker_engine


def _name() -> str:
    return f"flows-{uuid.uuid4().hex[:8]}"


def _registered(flow: Flow, storage: Docker) -> tuple[Any, list[str]]:
    """Does what registration does with storage."""
    notes = list(storage.prepare(flow, project_root=None, pickle=None))
    settings = launch_settings(flow, storage)
    return (storage.put_bundle(storage.make_bundle(flow), settings), settings), notes


def test_flows_run_from_images_and_artifacts_of_a_registry_that_only_the_agent_can_log_in_to(
    tmp_path: Path, docker_engine: DockerEngine, runtime_image: str, protected_registry: Registry
) -> None:
    """One image for two flows, another with the code in it, and a flow kept beside an image that was there."""
    registry, name = protected_registry.address, _name()
    login = tmp_path / "docker-login"
    protected_registry.login(login)
    client = docker_engine.client(timeout=300)
    client.images.get(runtime_image).tag(f"{registry}/{name}-given", "1")
    pushed = list(
        client.images.push(
            f"{registry}/{name}-given", "1", stream=True, decode=True,
            auth_config={"username": protected_registry.user, "password": protected_registry.password},
        )
    )  # fmt: skip
    assert not any("error" in line for line in pushed)
    file = tmp_path / "words.txt"
    file.write_text("from a file")
    environment = {**docker_engine.environment, "DOCKER_CONFIG": str(login)}
    stack = Stack(tmp_path, agent_args=["--type", "docker", "--network", "host"], environment=environment)
    stack.start_control_plane()
    try:
        values = {"base": runtime_image, "file": file, "registry": registry, "name": name,
                  "given": f"{registry}/{name}-given:1"}  # fmt: skip
        stack.register(FLOWS.format(**values), seconds=300)
        for image in client.images.list():
            for tag in image.tags:  # what runs is pulled
                if tag.startswith(f"{registry}/{name}"):
                    client.images.remove(tag, force=True)
        stack.start_agent()
        runs = {flow: stack.run(flow) for flow in ("one", "two", "in-the-image", "beside-a-given-image")}
        for flow, run in runs.items():
            done = stack.wait_for(run, StateCode.SUCCESS, StateCode.FAILED, StateCode.CRASHED, seconds=240)
            assert StateCode(done.state) is StateCode.SUCCESS, (flow, stack.log("agent-1")[-3000:])
        versions = {flow: stack.json("flows", "inspect", f"proof/{flow}", "-o", "json") for flow in runs}
        text = json.dumps(versions)
        assert "SECRET_WORD" in text
        assert protected_registry.password not in text
        images = set(re.findall(rf"{registry}/{name}(?:-baked)?@sha256:[0-9a-f]{{64}}", text))
        assert {image.partition("@")[0].rpartition("/")[2] for image in images} >= {name, f"{name}-baked"}
    finally:
        stack.stop()
        client.close()


def test_the_same_content_is_the_same_image_and_changed_code_builds_one_layer(
    engine: DockerEngine, runtime_image: str, project: Project
) -> None:
    _, flow = project()
    make: dict[str, Any] = {"base_image": runtime_image, "local_image": True, "image_name": _name()}
    make["ignore_healthchecks"] = True
    (first, _), notes = _registered(flow, Docker(**make))
    _built.clear()
    (again, _), _ = _registered(flow, Docker(**make))
    assert again == first
    assert from_reference(first.storage, first.location).fetch_launch(first).image == notes[0].rpartition(" ")[2]
    _built.clear()
    _, changed = project({"more.txt": "x"})
    (second, settings), _ = _registered(changed, Docker(**make))
    assert second.digest != first.digest
    client = engine.client()
    layers = client.images.get(settings.image).attrs["RootFS"]["Layers"]
    base = client.images.get(runtime_image).attrs["RootFS"]["Layers"]
    client.close()
    assert layers[: len(base)] == base
    assert len(layers) == len(base) + 1


def test_without_a_registry_the_image_stays_and_its_host_is_said(runtime_image: str, project: Project) -> None:
    _, flow = project()
    storage = Docker(base_image=runtime_image, local_image=True)
    (ref, settings), _ = _registered(flow, storage)
    assert settings.image.startswith("sha256:")
    assert settings.launcher == "docker", "no other agent has the image"
    assert ref.storage == "docker"
    assert ref.host
    with pytest.raises(StorageError, match="this is no container of it") as caught:
        from_reference(ref.storage, ref.location, host=ref.host).fetch_manifest(ref)
    assert "DockerRun" in caught.value.hint
    flow.run_config = UniversalRun(env={"API_KEY": "guess-me"})
    with pytest.raises(LaunchSettingsError, match=r"no place for the flow's env\.API_KEY") as refused:
        _registered(flow, storage)
    assert "guess-me" not in str(refused.value)


def test_a_run_configs_image_wins(runtime_image: str, project: Project) -> None:
    _, flow = project()
    flow.run_config = DockerRun(image="registry.internal/mine:1")
    storage = Docker(base_image=runtime_image, local_image=True, ignore_healthchecks=True)
    (_, settings), _ = _registered(flow, storage)
    assert settings.image == "registry.internal/mine:1"


def test_a_failing_step_is_told_whole(runtime_image: str, project: Project) -> None:
    _, flow = project()
    storage = Docker(
        base_image=runtime_image, local_image=True,
        extra_dockerfile_commands=["RUN echo first line && echo second line >&2 && exit 7"],
    )  # fmt: skip
    with pytest.raises(StorageError) as caught:
        _registered(flow, storage)
    said = str(caught.value)
    assert "RUN echo first line" in said
    assert "first line\n" in said
    assert "second line" in said
    assert "non-zero code: 7" in said


def test_an_image_in_which_no_run_can_begin_is_refused(runtime_image: str, project: Project, tmp_path: Path) -> None:
    _, flow = project()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "heliograph_agents.py").write_text("raise ImportError('broken here')")
    made = {"base_image": runtime_image, "local_image": True, "env_vars": {"PYTHONPATH": "/broken"},
            "files": {str(tmp_path / "broken"): "/broken"}}  # fmt: skip
    with pytest.raises(StorageError, match="broken here"):
        _registered(flow, Docker(**made))
    _registered(flow, Docker(**made, ignore_healthchecks=True))


def test_a_dockerfile_has_its_folder_as_context_and_its_ignore_file(
    engine: DockerEngine, runtime_image: str, project: Project, tmp_path: Path
) -> None:
    _, flow = project()
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {runtime_image}\nCOPY . /context\n")
    (folder / ".dockerignore").write_text("*.secret\n")
    (folder / "kept.txt").write_text("kept")
    (folder / "a.secret").write_text("secret")
    (_, settings), _ = _registered(flow, Docker(dockerfile=folder / "Dockerfile", local_image=True))
    client = engine.client()
    found = client.containers.run(settings.image, ["ls", "/context"], remove=True, entrypoint=[]).decode()
    client.close()
    assert "kept.txt" in found
    assert "a.secret" not in found


def test_a_push_without_a_login_is_told(runtime_image: str, protected_registry: Registry, project: Project) -> None:
    _, flow = project()
    storage = Docker(protected_registry.address, base_image=runtime_image, local_image=True, image_name=_name())
    with pytest.raises(StorageError, match=r"cannot be pushed: .*no basic auth"):
        _registered(flow, storage)


def test_a_storage_is_named_by_its_flow_before_anything_is_built(project: Project) -> None:
    _, flow = project()
    storage = Docker("registry.internal/team", base_image="x")
    storage.make_bundle(flow)
    assert (storage.reference_kind, storage.location) == ("oci", "oci://registry.internal/team/etl")
    baked = Docker("registry.internal/team", base_image="x", bake=True)
    baked.make_bundle(flow)
    assert (baked.reference_kind, baked.location) == ("docker", "docker://registry.internal/team/etl")


def test_arguments_that_cannot_be_meant_are_refused(tmp_path: Path, project: Project) -> None:
    with pytest.raises(InvalidArgumentError, match="only one"):
        Docker(base_image="a", dockerfile="b")
    with pytest.raises(InvalidArgumentError, match="registry_url"):
        Docker(bake=False)
    with pytest.raises(InvalidArgumentError, match="tag"):
        Docker(build_kwargs={"tag": "x"})
    with pytest.raises(TypeError, match="wat"):
        Docker(wat=1)
    _, flow = project()
    with pytest.raises(StorageError, match="is not there"):
        Docker(base_image="x", files={str(tmp_path / "none"): "/x"}).prepare(flow, project_root=None, pickle=None)
    with pytest.raises(StorageError, match="absolute"):
        Docker(base_image="x", files={"rel": "/x"}).prepare(flow, project_root=None, pickle=None)
