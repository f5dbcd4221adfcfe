"""The ECS launcher over a double of ECS: what a disk that takes nothing costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.agents.test_ecs_plan import AGENT, plan

from heliograph_agents.launcher import Handle, LaunchError, Liveness
from heliograph_agents.launchers.ecs.launcher import EcsLauncher
from heliograph_agents.run_directory import RunSettings

ARN = "arn:aws:ecs:eu-west-1:1:task/c/1"


class Tasks:
    """ECS that starts one task, which runs."""

    def __init__(self) -> None:
        self.started = 0

    def run(self, _: Any) -> dict[str, Any]:
        self.started += 1
        return {"tasks": [{"taskArn": ARN}]}

    def list(self, _: str) -> list[str]:
        return []

    def look(self, _: Any) -> None:
        pass

    def seen(self, *_: Any) -> dict[str, Any]:
        return {"lastStatus": "RUNNING"}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[EcsLauncher, Tasks, Handle]:
    settings = RunSettings("plane:4480", "a", str(tmp_path), str(tmp_path))
    launcher, tasks = EcsLauncher(settings, tmp_path / "runs", AGENT, cast("Any", None)), Tasks()
    monkeypatch.setattr(launcher, "_tasks", tasks)
    asked = plan()
    return launcher, tasks, Handle(asked.spec.flow_run, asked.spec.epoch, asked.name)


async def test_a_task_that_cannot_be_noted_is_known_all_the_same(made: tuple[EcsLauncher, Tasks, Handle]) -> None:
    launcher, tasks, handle = made
    (launcher._records.folder(handle).path / "arn").mkdir(parents=True)
    launcher._run(plan(), handle, {"taskDefinition": "d"}, "start")
    assert tasks.started == 1
    assert await launcher.inspect(handle) is Liveness.STARTING
    assert await launcher.list() == [handle]


def test_what_cannot_be_noted_before_is_not_started(tmp_path: Path, made: tuple[EcsLauncher, Tasks, Handle]) -> None:
    launcher, tasks, handle = made
    (tmp_path / "runs").write_text("no folder")
    with pytest.raises(LaunchError) as refused:
        launcher._run(plan(), handle, {"taskDefinition": "d"}, "start")
    assert (refused.value.failure, tasks.started) == (None, 0)
