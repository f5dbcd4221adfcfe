"""Launchers that launch twice, leave what they made, or show to their infrastructure what it is not to see.

`brisk` is no bug: agents look around often, and ECS lists tasks at once, as the double does.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

Plant = Callable[[Any], None]


def look_often(agent: Any) -> None:
    """Agents look at their runs several times in a second."""
    agent.RECONCILE_SECONDS = (0.2, 0.4)


def appear_at_once(launcher: Any) -> None:
    """A task that is in no list was never there."""
    launcher.APPEAR_SECONDS = 1.0


# --- twice ------------------------------------------------------------------------------------------------------------


def start_again_elsewhere(launcher: Any) -> None:
    """Where Docker does not say whether a container was started, another is."""
    start = launcher.DockerLauncher._start

    def careless(self: Any, plan: Any, *rest: Any) -> None:
        try:
            start(self, plan, *rest)
        except launcher.EngineAwayError:
            start(self, replace(plan, name=f"{plan.name}-{uuid.uuid4().hex[:4]}"), *rest)

    launcher.DockerLauncher._start = careless


def run_again_with_a_new_token(tasks: Any) -> None:
    """Where ECS does not answer, it is asked with another client token."""
    run = tasks.Tasks.run

    def careless(self: Any, arguments: Any) -> Any:
        try:
            return run(self, arguments)
        except OSError:
            return run(self, {**arguments, "clientToken": uuid.uuid4().hex})

    tasks.Tasks.run = careless


def take_another_name(launcher: Any) -> None:
    """A Job whose name is taken gets another."""
    create = launcher.KubernetesLauncher._make_job

    def careless(self: Any, handle: Any, body: Any) -> Any:
        namespace = body["metadata"]["namespace"]
        try:
            return self._api.create("jobs", namespace, body)
        except launcher.ApiRefusedError as error:
            if error.reason != "AlreadyExists":
                raise
        name = body["metadata"]["name"]
        other = json.loads(json.dumps(body).replace(f'"{name}"', f'"{name}-{uuid.uuid4().hex[:4]}"'))
        return create(self, handle, other)

    launcher.KubernetesLauncher._make_job = careless


def adopt_no_containers(launcher: Any) -> None:
    """A restarted agent does not ask the engine, or its folder, what it had started."""
    launcher.DockerLauncher._left = lambda _: {}


def clean_nothing(cleaning: Any) -> None:
    """What has ended is never removed."""
    cleaning.clean = lambda *_: None


# --- leaks ------------------------------------------------------------------------------------------------------------


def token_in_the_arguments(launcher: Any) -> None:
    """The run token is an argument of a process."""
    launch = launcher.LocalLauncher.launch

    async def careless(self: Any, plan: Any, credentials: Any) -> Any:
        subprocess.Popen(["sh", "-c", "sleep 300; :", credentials.run_token])  # noqa: ASYNC220 (a planted mistake)
        return await launch(self, plan, credentials)

    launcher.LocalLauncher.launch = careless


def token_in_the_environment(launcher: Any) -> None:
    """The run token is a variable of the container."""
    start = launcher.DockerLauncher._start

    def careless(self: Any, plan: Any, record: Any, token: str, *rest: Any) -> None:
        body = {**plan.body, "Env": [*plan.body["Env"], f"RUN_TOKEN={token}"]}
        start(self, replace(plan, body=body), record, token, *rest)

    launcher.DockerLauncher._start = careless


def parameters_in_a_tag(launcher: Any) -> None:
    """The parameters are a tag of the task."""
    run = launcher.EcsLauncher._run

    def careless(self: Any, plan: Any, *rest: Any) -> None:
        tags = [*plan.run_task["tags"], {"key": "parameters", "value": plan.spec.parameters_json}]
        run(self, replace(plan, run_task={**plan.run_task, "tags": tags}), *rest)

    launcher.EcsLauncher._run = careless


def record_in_an_annotation(launcher: Any) -> None:
    """Parameters and run token are annotations of the Job."""
    launch = launcher.KubernetesLauncher._launch

    def careless(self: Any, plan: Any, credentials: Any) -> Any:
        meta = plan.job["metadata"]
        notes = {**meta["annotations"], "parameters": plan.spec.parameters_json, "token": credentials.run_token}
        job = {**plan.job, "metadata": {**meta, "annotations": notes}}
        return launch(self, replace(plan, job=job), credentials)

    launcher.KubernetesLauncher._launch = careless


_DOCKER = "heliograph_agents.launchers.docker.launcher"
_ECS = "heliograph_agents.launchers.ecs.launcher"
_KUBERNETES = "heliograph_agents.launchers.kubernetes.launcher"
_LOCAL = "heliograph_agents.launchers.local.launcher"

BUGS: dict[str, dict[str, Plant]] = {
    "brisk": {"heliograph_agents.agent": look_often, _ECS: appear_at_once},
    "docker_starts_again": {_DOCKER: start_again_elsewhere},
    "ecs_runs_again": {"heliograph_agents.launchers.ecs.tasks": run_again_with_a_new_token},
    "kubernetes_takes_another_name": {_KUBERNETES: take_another_name},
    "adopt_no_containers": {_DOCKER: adopt_no_containers},
    "clean_nothing": {
        "heliograph_agents.launchers.docker.cleaning": clean_nothing,
        "heliograph_agents.launchers.kubernetes.cleaning": clean_nothing,
    },
    "local_leak": {_LOCAL: token_in_the_arguments},
    "docker_leak": {_DOCKER: token_in_the_environment},
    "ecs_leak": {_ECS: parameters_in_a_tag},
    "kubernetes_leak": {_KUBERNETES: record_in_an_annotation},
}
