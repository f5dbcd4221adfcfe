"""What the owner of an ECS agent sets for all of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heliograph.exceptions import InvalidArgumentError
from heliograph.run_configs.ecs import CONTAINER, is_fargate
from heliograph_agents.most import BOUNDLESS, Most

LAUNCH_TYPES = ("FARGATE", "FARGATE_SPOT", "EC2", "EXTERNAL", "CLUSTER")
"""`CLUSTER`: none is named, and the cluster's own strategy decides."""

PROPAGATE = ("TASK_DEFINITION", "NONE")


@dataclass(frozen=True, slots=True)
class EcsOptions:
    """The agent's own settings: defaults of run configs, and what they are added to.

    Attributes:
        region: AWS region; empty means as the AWS settings have it.
        endpoint_url: Where AWS is, for all services; empty means the real one.
        cluster: Name or ARN; empty means `default`.
        launch_type: One of `LAUNCH_TYPES`.
        capacity_providers: A capacity provider strategy, in place of the launch type.
        subnets: Subnets of tasks in `awsvpc` networks; empty means those of the default VPC.
        security_groups: Their security groups; empty means the VPC's default one.
        assign_public_ip: Whether they have a public address; None means: where subnets are looked up, yes.
        task_role: Role of flows that name none.
        execution_role: Execution role of tasks that name none.
        image: Image of flows that name none; empty means they are refused.
        cpu: CPU units of runs that say nothing.
        memory: MiB of runs that say nothing.
        ephemeral_storage_gib: Disk of runs that say nothing; 0 means Fargate's own.
        definition: Task definition of flows that have none.
        run_task: Arguments of `RunTask` of runs that do not set them.
        log_group: CloudWatch log group; empty means that definitions say what becomes of the output.
        log_prefix: Beginning of the log streams' names.
        crash_lines: Lines of a task's output that go into the agent's log when it died; read from `log_group`.
        tags: Tags of tasks and of definitions.
        propagate_tags: `TASK_DEFINITION` or `NONE`.
        managed_tags: True to have ECS add its own tags.
        execute_command: True to allow `aws ecs execute-command`.
        platform_version: Fargate's platform version; empty means the newest.
        poll_seconds: How often tasks are looked at.
        container: Name of the flow's container.
        most: What the agent's policy lets one run take: the limit of runs that have none.
    """

    region: str = ""
    endpoint_url: str = ""
    cluster: str = ""
    launch_type: str = "FARGATE"
    capacity_providers: tuple[Mapping[str, Any], ...] = ()
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    assign_public_ip: bool | None = None
    task_role: str = ""
    execution_role: str = ""
    image: str = ""
    cpu: int = 1024
    memory: int = 2048
    ephemeral_storage_gib: int = 0
    definition: Mapping[str, Any] = field(default_factory=dict)
    run_task: Mapping[str, Any] = field(default_factory=dict)
    log_group: str = ""
    log_prefix: str = "heliograph"
    crash_lines: int = 200
    tags: Mapping[str, str] = field(default_factory=dict)
    propagate_tags: str = "TASK_DEFINITION"
    managed_tags: bool = False
    execute_command: bool = False
    platform_version: str = ""
    poll_seconds: float = 15.0
    container: str = CONTAINER
    most: Most = BOUNDLESS

    def capacity(self) -> dict[str, Any]:
        """Returns where tasks run, as arguments of `RunTask`."""
        if self.capacity_providers:
            return {"capacityProviderStrategy": [dict(one) for one in self.capacity_providers]}
        if self.launch_type == "FARGATE_SPOT":
            return {"capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]}
        return {} if self.launch_type == "CLUSTER" else {"launchType": self.launch_type}

    @property
    def fargate(self) -> bool:
        """True when tasks run on Fargate where a run config does not say otherwise."""
        return is_fargate({**self.capacity(), **self.run_task}, self.launch_type)


def parse_provider(text: str) -> dict[str, Any]:
    """Reads `NAME[:WEIGHT[:BASE]]`.

    Raises:
        InvalidArgumentError: It is none.
    """
    name, _, rest = text.partition(":")
    weight, _, base = rest.partition(":")
    if not name or not (weight or "1").isdecimal() or not (base or "0").isdecimal():
        raise InvalidArgumentError(f"{text!r} is no capacity provider; write NAME, NAME:WEIGHT or NAME:WEIGHT:BASE")
    found: dict[str, Any] = {"capacityProvider": name, "weight": int(weight or 1)}
    return {**found, "base": int(base)} if base else found


def parse_tags(pairs: tuple[str, ...]) -> dict[str, str]:
    """Reads `KEY=VALUE` texts.

    Raises:
        InvalidArgumentError: One is none.
    """
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InvalidArgumentError(f"{pair!r} is not KEY=VALUE")
        found[key] = value
    return found
