"""Tasks of the double of Fargate, whose containers run on a private Docker Engine."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker.errors
import pytest
from tests.support.fargate.server import Fargate
from tests.support.fargate.shapes import ServiceError
from tests.support.fargate.task import Task
from tests.support.places.place import Attempt, Place, Shown, texts_in

from heliograph_agents.launchers.ecs.aws import TRIES
from heliograph_agents.start_code import VARIABLE

_FLOW_RUN, _EPOCH = "heliograph.io/flow-run", "heliograph.io/epoch"


class EcsPlace(Place):
    """Tasks that share folders with this host, as on a network's file system."""

    kind = "ecs"
    run_config = "ECSRun"

    def __init__(self, folder: Path, request: pytest.FixtureRequest | None = None) -> None:
        super().__init__(folder, request)
        assert request is not None
        self.fargate: Fargate = request.getfixturevalue("fargate")
        self.image = request.getfixturevalue("runtime_image")
        self._requests, self._tasks = len(self.fargate.requests), len(self.fargate.tasks)

    @property
    def environment(self) -> dict[str, str]:
        return self.fargate.environment

    def agent_arguments(self, address: str) -> list[str]:
        self.fargate.binds.update({str(folder): str(folder) for folder in self.shared})
        return ["--type", "ecs", "--region", "eu-west-1", "--endpoint-url", self.fargate.url, "--cpu", "512",
                "--memory", "1024", "--subnet", "subnet-1", "--poll-seconds", "0.3",
                "--advertise-address", address]  # fmt: skip

    def tag(self, name: str) -> None:
        client = self.fargate.engine.client()
        try:
            client.images.get(self.image).tag(name)
        finally:
            client.close()
        super().tag(name)

    def described(self, label: Callable[[], str], folder: Callable[[], str]) -> dict[str, Any]:
        return {"tags": {"note": label()}}

    def close(self) -> None:
        self.fargate.script.clear()
        for task in self.tasks:
            task.stop("UserInitiated", "the test is over")
        for task in self.tasks:
            task.wait(60)
        for folder in self.shared:
            self.fargate.binds.pop(str(folder), None)

    @property
    def tasks(self) -> list[Task]:
        """The tasks that were made here."""
        return self.fargate.tasks[self._tasks :]

    def kill(self, attempt: Attempt) -> bool:
        killed = False
        client = self.fargate.engine.client()
        try:
            for task in self.tasks:
                if _attempt(task) == attempt and not task.stopped:
                    for name in task.container_names():
                        with suppress(docker.errors.APIError):
                            client.api.kill(name, signal.SIGKILL)
                            killed = True
        finally:
            client.close()
        return killed

    def lose_answer(self) -> None:
        # All of one launch: the SDK asks again by itself.
        self.fargate.script.lose_answers("RunTask", TRIES)

    def hurt(self) -> None:
        for operation in ("DescribeTasks", "ListTasks", "RunTask", "StopTask"):
            trouble = ServiceError("ServerException", "These errors are usually caused by a server issue.", status=500)
            self.fargate.script.refuse(operation, trouble, TRIES)

    def answers_to_lose(self) -> int:
        return self.fargate.script.to_lose("RunTask")

    def shown(self) -> Shown:
        for operation, body in self.fargate.requests[self._requests :]:
            if not body.startswith(b"{"):
                yield operation, body
                continue
            for place, text in texts_in(json.loads(body), operation):
                if place.endswith(f"[{VARIABLE}]"):
                    yield from texts_in(json.loads(base64.b64decode(text)), place)
                yield place, text

    def made(self) -> list[tuple[Attempt, str]]:
        return [(_attempt(task), task.arn) for task in self.tasks]

    def left(self, runs: Collection[str]) -> list[str]:
        found = [f"task {task.arn} is {task.document['lastStatus']}" for task in self.tasks if not task.stopped]
        client = self.fargate.engine.client()
        try:
            mine = {task.arn for task in self.tasks if _attempt(task)[0] in runs}
            there = client.containers.list(all=True, ignore_removed=True, filters={"label": "task"})
            found += [f"container {one.name}" for one in there if one.labels["task"] in mine]
        finally:
            client.close()
        return found


def _attempt(task: Task) -> Attempt:
    tags = {one["key"]: one["value"] for one in task.document["tags"]}
    return tags[_FLOW_RUN].rpartition("/")[2], int(tags[_EPOCH])
