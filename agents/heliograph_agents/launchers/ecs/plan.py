"""What an ECS task of a run is made of: run config and agent's options put together, without any I/O."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heliograph.engine.codes import FailureCode
from heliograph.run_configs.ecs import is_fargate
from heliograph.run_configs.fargate import check_fargate_size, cpu_units, memory_mib
from heliograph.storage import LaunchSettings
from heliograph_agents.launcher import LaunchError, PlanFacts, RunSpec
from heliograph_agents.launchers.ecs.facts import (
    identities_in,
    images_in,
    mounts_in,
    privileges_in,
    sizes_in,
    variables_in,
)
from heliograph_agents.launchers.ecs.options import EcsOptions
from heliograph_agents.launchers.labels import LABEL, labels_of
from heliograph_agents.most import Most

PLACE = "/tmp/heliograph"  # noqa: S108 (of a container that has one run, and where every user may write)
"""Where a run's folders are in its container."""

LONGEST_STOP_SECONDS = 120
"""Most that ECS waits between SIGTERM and SIGKILL."""

_KNOWN = {"task_definition", "task_definition_path", "task_definition_arn", "task_role_arn", "execution_role_arn",
          "run_task_kwargs", "ephemeral_storage_gib", "container", "python", "tags"}  # fmt: skip
_OURS = ("clientToken", "count", "startedBy", "taskDefinition", "tags", "overrides", "cluster")
_ANSWERED = ("taskDefinitionArn", "revision", "status", "requiresAttributes", "compatibilities", "registeredAt",
             "registeredBy", "deregisteredAt", "family", "tags")  # fmt: skip
"""What ECS says of a definition and does not take, or what is ours to say."""


@dataclass(frozen=True, slots=True)
class EcsPlan:
    """One task.

    Attributes:
        spec: The attempt.
        facts: What the policy judges.
        name: Its client token: ECS makes one task for it, however often it is asked.
        flow: Name of the flow.
        definition: What to register, without family and tags; None when `definition_name` or `definition_url` has it.
        definition_name: ARN, `family:revision` or family of a definition that is registered.
        definition_url: Where the definition is, `s3://…`, for `definition_from`.
        container: Name of the flow's container.
        command: What it runs.
        run_task: Arguments of `RunTask`; the definition, the start and the network are added at launch.
        wants_network: True when the network has to be found.
        start_timeout_seconds: How long it may take until it is heard of; 0 means the agent's.
    """

    spec: RunSpec
    facts: PlanFacts
    name: str
    flow: str
    definition: Mapping[str, Any] | None
    definition_name: str
    definition_url: str
    container: str
    command: tuple[str, ...]
    run_task: Mapping[str, Any]
    wants_network: bool
    start_timeout_seconds: float

    def override(self, variables: Mapping[str, str]) -> dict[str, Any]:
        """Returns `overrides` of `RunTask`, with these variables of the flow's container."""
        overrides = copy.deepcopy(dict(self.run_task.get("overrides") or {}))
        containers = overrides.setdefault("containerOverrides", [])
        mine = next((one for one in containers if one.get("name") == self.container), None)
        if mine is None:
            mine = {"name": self.container}
            containers.append(mine)
        mine["command"] = list(self.command)
        given = [one for one in mine.get("environment") or () if one.get("name") not in variables]
        mine["environment"] = given + [{"name": name, "value": value} for name, value in variables.items()]
        return overrides


def name_of(run_id: str, epoch: int) -> str:
    """Returns the name of an attempt's task: the same however often it is launched."""
    return f"{run_id}-{epoch}"[:64]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose tasks they are.

    Attributes:
        agent: Name of the agent.
        started_by: What its tasks are listed by.
        end_seconds: How long a task has to end.
    """

    agent: str
    started_by: str
    end_seconds: float


def make_plan(spec: RunSpec, settings: LaunchSettings, agent: EcsOptions, owner: Owner) -> EcsPlan:
    """Puts the task together.

    Args:
        spec: The attempt.
        settings: What its author asks for.
        agent: What the agent's owner sets.
        owner: Whose task it is.

    Raises:
        LaunchError: It cannot be made.
    """
    try:
        return _Plan(spec, settings, agent, owner).made()
    except LaunchError:
        raise
    except Exception as error:  # the boundary to what authors write
        raise _refusal(str(error)) from error


def definition_from(
    document: Mapping[str, Any], plan: EcsPlan, agent: EcsOptions, end_seconds: float
) -> dict[str, Any]:
    """Returns what to register of a definition that was read at launch.

    Raises:
        LaunchError: It cannot be.
    """
    fargate = is_fargate(plan.run_task)
    return _complete(document, plan.facts.image, plan.container, agent, end_seconds, fargate=fargate)


class _Plan:
    """Puts one task together."""

    def __init__(self, spec: RunSpec, settings: LaunchSettings, agent: EcsOptions, owner: Owner) -> None:
        self._spec, self._settings, self._agent, self._owner = spec, settings, agent, owner
        self._options = dict(settings.options)
        if unknown := self._options.keys() - _KNOWN:
            raise _refusal(f"ECS agents know no option {', '.join(sorted(unknown))}")
        self._asked: dict[str, Any] = dict(self._options.get("run_task_kwargs") or {})
        if self._asked.get("cluster") not in (None, agent.cluster):
            raise _refusal("runs go to their agent's cluster: start an agent with --cluster for another one")
        run_task = {**agent.capacity(), **agent.run_task}
        if self._asked.keys() & {"launchType", "capacityProviderStrategy"}:
            run_task = {k: v for k, v in run_task.items() if k not in ("launchType", "capacityProviderStrategy")}
        self._run_task = {**run_task, **{key: value for key, value in self._asked.items() if key not in _OURS}}
        if self._run_task.get("launchType") == "FARGATE_SPOT":
            self._run_task.pop("launchType")
            self._run_task["capacityProviderStrategy"] = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
        self._fargate = is_fargate(self._run_task, "" if agent.launch_type == "CLUSTER" else agent.launch_type)
        self._container = str(self._options.get("container") or agent.container)

    def made(self) -> EcsPlan:
        spec, options, agent = self._spec, self._options, self._agent
        name = str(options.get("task_definition_arn") or "")
        url = str(options.get("task_definition_path") or "")
        asked = options.get("task_definition") or {}
        definition = None
        image = self._settings.image
        if not (name or url):
            base = asked or agent.definition
            image = image or _image_in(base, self._container) or agent.image
            if not image:
                raise _refusal("the flow names no image, and this agent has no --image for such flows")
            definition = _complete(base, image, self._container, agent, self._owner.end_seconds, fargate=self._fargate)
            if role := options.get("execution_role_arn"):
                definition["executionRoleArn"] = role  # ECS wants it there when the definition logs, or pulls from ECR
        overrides = self._overrides(definition)
        cpu, memory = self._size(definition, overrides, known=definition is not None)
        unlimited = tuple(unit for unit, size in (("cpu", cpu), ("memory", memory)) if not size)
        cpu, memory = map(max, (cpu, memory), sizes_in(asked, overrides))
        timeout = float(self._settings.start_timeout_seconds)
        run_task = self._run_task | {
            "overrides": overrides,
            "clientToken": name_of(spec.run_id, spec.epoch),
            "startedBy": self._owner.started_by,
            "count": 1,
            "tags": self._tags(timeout),
        }
        if agent.cluster:
            run_task["cluster"] = agent.cluster
        run_task.setdefault("propagateTags", agent.propagate_tags)
        if run_task["propagateTags"] == "NONE":
            run_task.pop("propagateTags")
        for key, value in (
            ("enableECSManagedTags", agent.managed_tags),
            ("enableExecuteCommand", agent.execute_command),
            ("platformVersion", agent.platform_version if self._fargate else ""),
        ):
            if value:
                run_task.setdefault(key, value)
        # What is not seen here cannot be judged: each rule that it could break has to allow it by its name.
        unseen = (f"task-definition:{name or url}",) if name or url else ()
        privileged = privileges_in(asked, fargate=self._fargate)
        facts = PlanFacts(
            image=image or "".join(unseen),
            env=tuple(sorted({*self._settings.env, *variables_in(asked), *variables_in(self._asked)})),
            mounts=mounts_in(asked, self._asked) + unseen,
            cpu_millis=round(cpu * 1000 / 1024),
            memory_bytes=memory * 2**20,
            unlimited=unlimited,
            # On Fargate there is nothing that a container could have more.
            privileged=privileged + (("unseen task definition",) if unseen and not self._fargate else ()),
            identities=identities_in(options, asked, self._asked) + unseen,
            more_images=images_in(asked, self._container) + unseen,
            options=tuple(sorted({*options} - {"run_task_kwargs"} | {f"run_task_kwargs.{key}" for key in self._asked})),
        )
        awsvpc = self._fargate if definition is None else definition.get("networkMode") == "awsvpc"
        command = (str(options.get("python") or "python"), "-m", "heliograph_agents.container", "--start", "--runs",
                   f"{PLACE}/runs")  # fmt: skip
        return EcsPlan(
            spec, facts, name_of(spec.run_id, spec.epoch), spec.flow_version.split("/")[3], definition, name, url,
            self._container, command, run_task, awsvpc and "networkConfiguration" not in run_task, timeout,
        )  # fmt: skip

    def _overrides(self, definition: Mapping[str, Any] | None) -> dict[str, Any]:
        options, agent = self._options, self._agent
        overrides = copy.deepcopy(dict(self._asked.get("overrides") or {}))
        known = definition or {}
        roles = (
            ("taskRoleArn", options.get("task_role_arn") or ("" if known.get("taskRoleArn") else agent.task_role)),
            ("executionRoleArn", options.get("execution_role_arn")),
            ("cpu", str(round(self._settings.cpu_millis * 1024 / 1000) or "")),
            ("memory", str(self._settings.memory_bytes // 2**20 or "")),
        )
        for key, value in roles:
            if value:
                overrides.setdefault(key, value)
        disk = options.get("ephemeral_storage_gib") or (
            agent.ephemeral_storage_gib if not known.get("ephemeralStorage") else 0
        )
        if disk:
            overrides.setdefault("ephemeralStorage", {"sizeInGiB": int(disk)})
        return overrides

    def _size(
        self, definition: Mapping[str, Any] | None, overrides: Mapping[str, Any], *, known: bool
    ) -> tuple[int, int]:
        """Returns CPU units and MiB; 0 where the definition, which is not seen here, has them."""
        base = definition or {}
        cpu, memory = overrides.get("cpu") or base.get("cpu"), overrides.get("memory") or base.get("memory")
        units, mib = cpu_units(cpu) if cpu else 0, memory_mib(memory) if memory else 0
        if self._fargate and known:
            check_fargate_size(units, mib)
        return units, mib

    def _tags(self, timeout: float) -> list[dict[str, str]]:
        given = {str(one.get("key")): str(one.get("value")) for one in self._asked.get("tags") or ()}
        given |= {str(key): str(value) for key, value in (self._options.get("tags") or {}).items()}
        if taken := [key for key in given if key.startswith((LABEL, "aws:"))]:
            raise _refusal(f"tags that begin with {LABEL} are the agent's: {', '.join(taken)}")
        own = {f"{LABEL}agent": self._owner.agent, **labels_of(self._spec, timeout)}
        return [{"key": key, "value": value} for key, value in {**self._agent.tags, **given, **own}.items()]


def _image_in(definition: Mapping[str, Any], container: str) -> str:
    found = [one for one in definition.get("containerDefinitions") or () if one.get("name") == container]
    return str(found[0].get("image") or "") if found else ""


def _complete(
    base: Mapping[str, Any], image: str, container: str, agent: EcsOptions, end_seconds: float, *, fargate: bool
) -> dict[str, Any]:
    """Returns a definition with everything that it needs and does not say."""
    made = {key: copy.deepcopy(value) for key, value in base.items() if key not in _ANSWERED and value is not None}
    containers = made.setdefault("containerDefinitions", [])
    mine = next((one for one in containers if one.get("name") == container), None)
    if mine is None:
        mine = {"name": container}
        containers.insert(0, mine)
    if image and not image.startswith("task-definition:"):
        mine["image"] = image
    if not mine.get("image"):
        raise _refusal(f"container {container} of the task definition has no image")
    mine.setdefault("essential", True)
    if mine.get("restartPolicy"):
        raise _refusal("the flow's container cannot have a restartPolicy: an attempt is started once")
    mine.setdefault("stopTimeout", min(LONGEST_STOP_SECONDS, max(2, math.ceil(end_seconds))))
    if agent.log_group:
        options = {"awslogs-group": agent.log_group, "awslogs-stream-prefix": agent.log_prefix}
        if agent.region:
            options["awslogs-region"] = agent.region
        options |= {"mode": "non-blocking", "max-buffer-size": "4m"}
        mine.setdefault("logConfiguration", {"logDriver": "awslogs", "options": options})
    if fargate:
        made.setdefault("networkMode", "awsvpc")
        made.setdefault("requiresCompatibilities", ["FARGATE"])
        made.setdefault("cpu", str(agent.cpu))
        made.setdefault("memory", str(agent.memory))
        made["cpu"], made["memory"] = str(cpu_units(made["cpu"])), str(memory_mib(made["memory"]))
    else:
        _hold(made, agent.most)
    if not (made.get("memory") or mine.get("memory") or mine.get("memoryReservation")):
        mine["memoryReservation"] = agent.memory  # instances want one of them
    if agent.execution_role:
        made.setdefault("executionRoleArn", agent.execution_role)
    return made


def _hold(made: dict[str, Any], most: Most) -> None:
    """Gives a task that no Fargate sizes the size that the policy allows, where it has none: only its own holds all of
    its containers, whose processor shares are none that an idle instance holds them to."""
    if most.cpu_millis and not made.get("cpu"):
        made["cpu"] = str(most.cpu_millis * 1024 // 1000)
    if most.memory_bytes and not made.get("memory"):
        limits = [one.get("memory") for one in made["containerDefinitions"]]
        made["memory"] = str(sum(map(int, limits)) if all(limits) else most.memory_bytes // 2**20)


def _refusal(message: str) -> LaunchError:
    return LaunchError(message, FailureCode.LAUNCH_SETTINGS)
