"""The kind `ecs`: runs are tasks of an ECS cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from heliograph.exceptions import InvalidArgumentError
from heliograph_agents.launchers.ecs.options import LAUNCH_TYPES, PROPAGATE, EcsOptions, parse_provider, parse_tags
from heliograph_agents.most import BOUNDLESS, Most

if TYPE_CHECKING:
    from heliograph_agents.launcher import Launcher
    from heliograph_agents.launchers.kinds import Ground

OPTIONS: Sequence[click.Option] = (
    click.Option(["--cluster"], default="", help="The cluster's name or ARN. [default: the cluster default]"),
    click.Option(["--region"], default="", help="AWS region. [default: as the AWS settings have it]"),
    click.Option(["--endpoint-url"], default="", metavar="URL", help="Where AWS is, for all services."),
    click.Option(
        ["--advertise-address"],
        default="",
        metavar="HOST:PORT",
        help="The control plane as tasks reach it. [default: the agent's own address]",
    ),
    click.Option(
        ["--launch-type"],
        type=click.Choice(LAUNCH_TYPES),
        default="FARGATE",
        show_default=True,
        help="Where tasks run; CLUSTER leaves it to the cluster's own strategy.",
    ),
    click.Option(
        ["--capacity-provider", "capacity_providers"],
        multiple=True,
        metavar="NAME[:WEIGHT[:BASE]]",
        help="A capacity provider, in place of the launch type. May be repeated.",
    ),
    click.Option(["--subnet", "subnets"], multiple=True, help="Subnet of tasks. [default: those of the default VPC]"),
    click.Option(
        ["--security-group", "security_groups"], multiple=True, help="Security group of tasks. May be repeated."
    ),
    click.Option(
        ["--assign-public-ip/--no-public-ip"],
        default=None,
        help="Give tasks a public address. [default: only in the default VPC's subnets]",
    ),
    click.Option(["--task-role-arn"], default="", metavar="ARN", help="Role of flows that name none."),
    click.Option(["--execution-role-arn"], default="", metavar="ARN", help="Execution role of flows that name none."),
    click.Option(["--image"], default="", help="Image of flows that name none."),
    click.Option(["--cpu"], default="1024", show_default=True, help="CPU units of runs that say nothing, or '1 vcpu'."),
    click.Option(["--memory"], default="2048", show_default=True, help="MiB of runs that say nothing, or '2 GB'."),
    click.Option(
        ["--ephemeral-storage"],
        type=click.IntRange(21, 200),
        metavar="GIB",
        help="Disk of runs that say nothing. [default: Fargate's 20]",
    ),
    click.Option(
        ["--task-definition"],
        type=click.Path(exists=True, dir_okay=False),
        help="Task definition of flows that have none, a JSON or YAML file.",
    ),
    click.Option(
        ["--run-task-kwargs"],
        type=click.Path(exists=True, dir_okay=False),
        help="More arguments of RunTask, a JSON or YAML file.",
    ),
    click.Option(["--log-group"], default="", help="CloudWatch log group for the output of tasks."),
    click.Option(
        ["--log-prefix"], default="heliograph", show_default=True, help="Beginning of the names of log streams."
    ),
    click.Option(
        ["--crash-lines"],
        type=click.IntRange(0, 10_000),
        default=200,
        show_default=True,
        help="Lines of a task's output in this agent's log when it died; needs --log-group.",
    ),
    click.Option(["--tag", "tags"], multiple=True, metavar="KEY=VALUE", help="Tag of tasks. May be repeated."),
    click.Option(
        ["--propagate-tags"],
        type=click.Choice(PROPAGATE),
        default="TASK_DEFINITION",
        show_default=True,
        help="Whether tasks get the tags of their definition.",
    ),
    click.Option(["--ecs-managed-tags"], is_flag=True, help="Have ECS add its own tags, for the bill."),
    click.Option(["--enable-execute-command"], is_flag=True, help="Allow `aws ecs execute-command` in tasks."),
    click.Option(["--platform-version"], default="", help="Fargate's platform version. [default: the newest]"),
    click.Option(
        ["--poll-seconds"],
        type=click.FloatRange(0.1, 300),
        default=15.0,
        show_default=True,
        help="How often tasks are looked at, a hundred with one call.",
    ),
)
SHARES_HOST = False


def make(ground: Ground) -> Launcher:
    """Makes the launcher."""
    try:
        import boto3  # noqa: F401 (says here what is missing, before anything needs it)
    except ImportError as error:
        raise InvalidArgumentError("agents of type ecs need boto3", hint="pip install 'heliograph[aws]'") from error
    from heliograph_agents.launchers.ecs.launcher import EcsLauncher
    from heliograph_agents.link import Link
    from heliograph_agents.start_code import StartCodes

    link = ground.link or Link("", None, None, insecure=False)
    codes = StartCodes(f"agents/{ground.settings.agent}", link)
    return EcsLauncher(
        ground.settings,
        ground.places.runs,
        read_options(ground.options, most=ground.most),
        codes,
        advertised=str(ground.options.get("advertise_address") or ""),
        start_timeout_seconds=ground.start_timeout_seconds,
    )


def read_options(given: Mapping[str, Any], *, most: Most = BOUNDLESS) -> EcsOptions:
    """Reads the options of the command.

    Raises:
        InvalidArgumentError: One is not possible.
    """
    from heliograph.run_configs.fargate import check_fargate_size, cpu_units, memory_mib

    if given.get("security_groups") and not given.get("subnets"):
        raise InvalidArgumentError("--security-group needs --subnet: security groups belong to a VPC")
    try:
        options = EcsOptions(
            region=given.get("region") or _usual_region(),
            endpoint_url=given.get("endpoint_url") or "",
            cluster=given.get("cluster") or "",
            launch_type=given.get("launch_type") or "FARGATE",
            capacity_providers=tuple(parse_provider(text) for text in given.get("capacity_providers") or ()),
            subnets=tuple(given.get("subnets") or ()),
            security_groups=tuple(given.get("security_groups") or ()),
            assign_public_ip=given.get("assign_public_ip"),
            task_role=given.get("task_role_arn") or "",
            execution_role=given.get("execution_role_arn") or "",
            image=given.get("image") or "",
            cpu=cpu_units(given.get("cpu") or 1024),
            memory=memory_mib(given.get("memory") or 2048),
            ephemeral_storage_gib=given.get("ephemeral_storage") or 0,
            definition=_document(given.get("task_definition")),
            run_task=_run_task(given.get("run_task_kwargs")),
            log_group=given.get("log_group") or "",
            log_prefix=given.get("log_prefix") or "heliograph",
            crash_lines=given.get("crash_lines", 200),
            tags=parse_tags(tuple(given.get("tags") or ())),
            propagate_tags=given.get("propagate_tags") or "TASK_DEFINITION",
            managed_tags=bool(given.get("ecs_managed_tags")),
            execute_command=bool(given.get("enable_execute_command")),
            platform_version=given.get("platform_version") or "",
            poll_seconds=given.get("poll_seconds") or 15.0,
            most=most,
        )
        if options.fargate and not options.definition:
            check_fargate_size(options.cpu, options.memory)
        if options.log_group and options.fargate and not _writes_logs(options):
            raise InvalidArgumentError(
                "--log-group needs --execution-role-arn: on Fargate that role writes the logs",
                hint="It needs logs:CreateLogStream and logs:PutLogEvents.",
            )
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from error
    return options


def _usual_region() -> str:
    """Returns the region of the AWS settings: clients find it by themselves, the driver of logs does not."""
    import boto3

    return boto3.Session().region_name or ""


def _writes_logs(options: EcsOptions) -> bool:
    return bool(options.execution_role or options.definition.get("executionRoleArn"))


def _document(path: str | None) -> dict[str, Any]:
    from heliograph.run_configs.ecs import parse_task_definition

    return parse_task_definition(Path(path).read_text(), path) if path else {}


def _run_task(path: str | None) -> dict[str, Any]:
    found = _document(path)
    if taken := sorted(found.keys() & {"clientToken", "count", "startedBy", "taskDefinition", "cluster", "tags"}):
        raise InvalidArgumentError(f"{path} cannot set {', '.join(taken)}: the agent does, or has an option for it")
    return found
