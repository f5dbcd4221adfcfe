"""Runs as tasks of Amazon ECS: on Fargate, on instances, or elsewhere."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from heliograph.run_configs.base import RunConfig
from heliograph.run_configs.fargate import check_fargate_size, cpu_units, memory_mib
from heliograph.storage.launch import LaunchSettings

__all__ = ["CONTAINER", "ECSRun", "is_fargate", "parse_task_definition"]

CONTAINER = "flow"
"""Name of the container in which the flow runs, where nothing else is said."""

_ROLE = re.compile(r"arn:aws[\w-]*:iam::\d{12}:role/[\w+=,.@/-]+")
_DEFINITION = re.compile(r"(?:arn:aws[\w-]*:ecs:[\w-]+:\d{12}:task-definition/)?[A-Za-z0-9_-]{1,255}(?::\d+)?")
_OURS = ("clientToken", "count", "startedBy", "taskDefinition")
"""Arguments of RunTask that make a launch happen once, and findable."""


class ECSRun(RunConfig):
    """A task of the agent's ECS cluster. What is not given is as the agent has it.

    At most one of `task_definition`, `task_definition_path` and `task_definition_arn` is given. The first two, and what
    the agent makes when there is none, are registered once for each content and used again.

    Args:
        task_definition: A task definition, as `RegisterTaskDefinition` takes it. It has a container `flow`
            or gets one.
        task_definition_path: A file with one, JSON or YAML: of this machine, read now, or `s3://bucket/key`, which the
            agent reads at each launch.
        task_definition_arn: One that is registered already: its ARN, `family:revision`, or `family` for its newest
            revision. It decides the image.
        image: The image; best with its digest. It needs Heliograph, and what the flow imports.
        env: Environment variables of the run. They travel with the bundle: ECS never sees them.
        cpu: CPU units (`1024` is one processor), or a text like `1 vcpu`.
        memory: MiB, or a text like `2 GB`.
        task_role_arn: Role of the flow's own calls to AWS.
        execution_role_arn: Role with which ECS pulls the image and writes logs.
        run_task_kwargs: More arguments of `RunTask`, as boto3 takes them.
        labels: Labels that an agent must offer.
        ephemeral_storage_gib: Disk of a Fargate task, 21 to 200 GiB.
        container: Name of the flow's container in the task definition. Default: `flow`.
        python: The interpreter in the image. Default: `python`.
        tags: Tags of the task.
        start_timeout_seconds: How long it may take until the run is heard of.

    Raises:
        TypeError, ValueError: An argument is not what it should be, or Fargate has no task of that size.
    """

    launcher: ClassVar[str] = "ecs"

    def __init__(
        self,
        task_definition: Mapping[str, Any] | None = None,
        task_definition_path: str | os.PathLike[str] | None = None,
        task_definition_arn: str | None = None,
        image: str | None = None,
        env: Mapping[str, str] | None = None,
        cpu: str | int | None = None,
        memory: str | int | None = None,
        task_role_arn: str | None = None,
        execution_role_arn: str | None = None,
        run_task_kwargs: Mapping[str, Any] | None = None,
        labels: Iterable[str] | None = None,
        *,
        ephemeral_storage_gib: int | None = None,
        container: str | None = None,
        python: str | None = None,
        tags: Mapping[str, str] | None = None,
        start_timeout_seconds: int | None = None,
    ) -> None:
        super().__init__(env, labels)
        path = os.fspath(task_definition_path) if task_definition_path is not None else None
        if sum(one is not None for one in (task_definition, path, task_definition_arn)) > 1:
            raise ValueError("give one of task_definition, task_definition_path and task_definition_arn")
        if task_definition_arn is not None and image is not None:
            raise ValueError("the image is that of task_definition_arn: do not give image as well")
        if task_definition_arn is not None and _DEFINITION.fullmatch(task_definition_arn) is None:
            raise ValueError(f"task_definition_arn is an ARN, family:revision or family, not {task_definition_arn!r}")
        for name, role in (("task_role_arn", task_role_arn), ("execution_role_arn", execution_role_arn)):
            if role is not None and _ROLE.fullmatch(role) is None:
                raise ValueError(f"{name} is the ARN of a role, not {role!r}")
        if path is not None and not path.startswith("s3://"):
            if "://" in path:
                raise ValueError(f"task_definition_path is a file of this machine or s3://bucket/key, not {path!r}")
            task_definition, path = parse_task_definition(Path(path).expanduser().read_text(), path), None
        if ephemeral_storage_gib is not None and not 21 <= ephemeral_storage_gib <= 200:
            raise ValueError(f"ephemeral_storage_gib is 21 to 200, not {ephemeral_storage_gib!r}")
        if taken := sorted({*_OURS}.intersection(run_task_kwargs or ())):
            raise ValueError(f"run_task_kwargs cannot set {', '.join(taken)}: the agent does")
        self.task_definition = _json("task_definition", task_definition)
        self.task_definition_path = path
        self.task_definition_arn = task_definition_arn
        self.image = image
        self.cpu = str(cpu_units(cpu)) if cpu is not None else None
        self.memory = str(memory_mib(memory)) if memory is not None else None
        self.task_role_arn = task_role_arn
        self.execution_role_arn = execution_role_arn
        self.run_task_kwargs = _json("run_task_kwargs", run_task_kwargs)
        self.ephemeral_storage_gib = ephemeral_storage_gib
        self.container = container
        self.python = python
        self.tags = dict(tags or {})
        self.start_timeout_seconds = start_timeout_seconds
        self._check_size()

    def _check_size(self) -> None:
        definition = self.task_definition or {}
        cpu, memory = self.cpu or definition.get("cpu"), self.memory or definition.get("memory")
        compatible = definition.get("requiresCompatibilities") or ["FARGATE"]
        if "FARGATE" in compatible and is_fargate(self.run_task_kwargs or {}):
            check_fargate_size(cpu_units(cpu) if cpu else 0, memory_mib(memory) if memory else 0)

    def launch_settings(self) -> LaunchSettings:
        """Returns the settings that the agent reads."""
        given = {
            "task_definition": self.task_definition,
            "task_definition_path": self.task_definition_path,
            "task_definition_arn": self.task_definition_arn,
            "task_role_arn": self.task_role_arn,
            "execution_role_arn": self.execution_role_arn,
            "run_task_kwargs": self.run_task_kwargs,
            "ephemeral_storage_gib": self.ephemeral_storage_gib,
            "container": self.container,
            "python": self.python,
            "tags": self.tags,
        }
        return replace(
            super().launch_settings(),
            image=self.image or "",
            cpu_millis=round(int(self.cpu) * 1000 / 1024) if self.cpu else 0,
            memory_bytes=int(self.memory) * 2**20 if self.memory else 0,
            start_timeout_seconds=self.start_timeout_seconds or 0,
            options={name: value for name, value in given.items() if value},
        )


def is_fargate(run_task: Mapping[str, Any], launch_type: str = "FARGATE") -> bool:
    """True when a task with these arguments of `RunTask` is one of Fargate.

    Args:
        run_task: The arguments.
        launch_type: The launch type where they name none.
    """
    providers = [str(one.get("capacityProvider")) for one in run_task.get("capacityProviderStrategy") or ()]
    if providers:
        return all(name in ("FARGATE", "FARGATE_SPOT") for name in providers)
    return str(run_task.get("launchType") or launch_type) in ("FARGATE", "FARGATE_SPOT")


def parse_task_definition(text: str, where: str) -> dict[str, Any]:
    """Reads a task definition, JSON or YAML.

    Args:
        text: Its text.
        where: Its place, for people.

    Raises:
        ValueError: It is none, or YAML cannot be read here.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = _yaml(text, where)
    if isinstance(found, dict) and isinstance(found.get("taskDefinition"), dict):
        found = found["taskDefinition"]  # as `aws ecs describe-task-definition` prints it
    if isinstance(found, dict):
        return found
    raise ValueError(f"{where} has no task definition")


def _yaml(text: str, where: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ValueError(f"{where} is no JSON; to read YAML: pip install pyyaml") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is neither JSON nor YAML: {error}") from error


def _json(name: str, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    try:
        found: dict[str, Any] = json.loads(json.dumps(given))
    except TypeError as error:
        raise TypeError(f"{name} must be JSON: {error}") from error
    return found
