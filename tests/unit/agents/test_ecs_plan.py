"""What an ECS task is made of: run config and agent's options put together, and what the policy is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliograph.engine.codes import FailureCode
from heliograph.exceptions import InvalidArgumentError
from heliograph.run_configs import ECSRun
from heliograph.storage import LaunchSettings
from heliograph_agents.launcher import BundleSpec, Credentials, LaunchError, RunSpec
from heliograph_agents.launchers.ecs.definitions import family_of, hash_of
from heliograph_agents.launchers.ecs.kind import read_options
from heliograph_agents.launchers.ecs.launcher import EcsLauncher
from heliograph_agents.launchers.ecs.options import EcsOptions
from heliograph_agents.launchers.ecs.plan import EcsPlan, Owner, make_plan
from heliograph_agents.policy import Policy, parse_policy
from heliograph_agents.run_directory import RunSettings, parse_launch_record
from heliograph_agents.start_code import Start

RUN = "0190f3c2-7b7e-7000-8000-000000000001"
ROLE = "arn:aws:iam::123456789012:role/flows"
SPEC = RunSpec(
    f"projects/p/flowRuns/{RUN}", "projects/p/flows/my flow/versions/1", "run", 3, 1, '{"secret": "hunter2"}',
    BundleSpec("s3", "b/x", "sha256:1", "sha256:2", False, "", "", "image:1", own_launch="[env]\nA='hunter2'"), "h", 0,
)  # fmt: skip
AGENT = EcsOptions(execution_role=ROLE, region="eu-west-1")


def plan(config: ECSRun | None = None, agent: EcsOptions = AGENT, **changes: Any) -> EcsPlan:
    settings = config.launch_settings() if config else LaunchSettings(image="image:1")
    return make_plan(SPEC, replace(settings, **changes), agent, Owner("a", "heliograph-a", 25.0))


def definition(made: EcsPlan) -> dict[str, Any]:
    assert made.definition is not None
    return dict(made.definition)


def test_a_plain_run_is_a_task_of_fargate() -> None:
    made = plan()
    assert definition(made) == {
        "containerDefinitions": [{"name": "flow", "image": "image:1", "essential": True, "stopTimeout": 25}],
        "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "cpu": "1024", "memory": "2048",
        "executionRoleArn": ROLE,
    }  # fmt: skip
    assert made.wants_network
    asked = made.run_task
    assert (asked["launchType"], asked["count"], asked["clientToken"]) == ("FARGATE", 1, f"{RUN}-3")
    assert len(asked["clientToken"]) <= 64
    assert {one["key"]: one["value"] for one in asked["tags"]} == {
        "heliograph.io/agent": "a", "heliograph.io/flow-run": SPEC.flow_run, "heliograph.io/epoch": "3",
        "heliograph.io/start-timeout": "0",
    }  # fmt: skip


def test_nothing_of_the_run_is_in_what_ecs_gets_but_its_name_and_the_start() -> None:
    made = plan(ECSRun(image="image:1", env={"PASSWORD": "hunter2"}))
    shown = json.dumps([made.definition, made.run_task, made.override({"HELIOGRAPH_START": "word"})])
    assert "hunter2" not in shown
    assert "PASSWORD" not in shown
    assert made.facts.env == ("PASSWORD",)


def test_what_can_be_an_override_is_one_so_that_definitions_are_used_again() -> None:
    config = ECSRun(image="image:1", cpu=512, memory=1024, task_role_arn=ROLE, ephemeral_storage_gib=50)
    made = plan(config)
    assert definition(made) == definition(plan())
    overrides = made.override({"V": "w"})
    assert {key: value for key, value in overrides.items() if key != "containerOverrides"} == {
        "cpu": "512", "memory": "1024", "taskRoleArn": ROLE, "ephemeralStorage": {"sizeInGiB": 50},
    }  # fmt: skip
    [flow] = overrides["containerOverrides"]
    assert flow["name"] == "flow"
    assert flow["command"][:4] == ["python", "-m", "heliograph_agents.container", "--start"]
    assert flow["environment"] == [{"name": "V", "value": "w"}]
    assert (made.facts.cpu_millis, made.facts.memory_bytes) == (500, 2**30)


def test_a_definition_is_known_by_its_content_alone() -> None:
    first, second = definition(plan()), definition(plan())
    assert hash_of(first) == hash_of(dict(reversed(list(second.items()))))
    assert hash_of(definition(plan(image="image:2"))) != hash_of(first)
    family = family_of("my flow: ünï/code", hash_of(first))
    assert family.startswith("heliograph-my-flow")
    assert len(family_of("x" * 300, hash_of(first))) <= 255


def test_an_authors_definition_gets_what_it_lacks_and_loses_what_ecs_alone_says() -> None:
    document = {
        "family": "theirs", "revision": 7, "status": "ACTIVE", "taskDefinitionArn": "arn", "requiresAttributes": [],
        "taskRoleArn": ROLE, "cpu": ".5 vCPU".replace(".5", "0.5"), "memory": "1 GB",
        "containerDefinitions": [{"name": "proxy", "image": "p:1", "essential": False}, {"name": "flow", "image": "i"}],
    }  # fmt: skip
    made = definition(plan(ECSRun(document), AGENT))
    assert not made.keys() & {"family", "revision", "status", "taskDefinitionArn", "requiresAttributes"}
    assert (made["cpu"], made["memory"]) == ("512", "1024")
    assert [one["image"] for one in made["containerDefinitions"]] == ["p:1", "i"]
    assert plan(ECSRun(document)).facts.image == "i"
    assert plan(ECSRun(document), replace(AGENT, task_role="arn:other")).run_task["overrides"] == {}
    named = plan(ECSRun(document, container="proxy", image="mine:1"))
    assert [one["image"] for one in definition(named)["containerDefinitions"]] == ["mine:1", "i"]


def test_a_registered_definition_is_used_as_it_is_and_judged_as_unseen() -> None:
    made = plan(ECSRun(task_definition_arn="theirs:4"))
    assert (made.definition, made.definition_name) == (None, "theirs:4")
    assert made.facts.image == "task-definition:theirs:4"
    assert made.facts.privileged == ()
    elsewhere = plan(ECSRun(task_definition_arn="theirs:4", run_task_kwargs={"launchType": "EC2"}))
    assert elsewhere.facts.privileged == ("unseen task definition",)
    policy = parse_policy({"images": ["registry.internal/*"]})
    assert policy.refuse_plan(made.facts), "a rule about images is not passed by naming none"


def test_where_tasks_run() -> None:
    spot = {"capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]}
    weighted = ({"capacityProvider": "FARGATE", "weight": 1, "base": 1}, {"capacityProvider": "FARGATE_SPOT"})
    cases: list[tuple[EcsOptions, dict[str, Any], dict[str, Any]]] = [
        (AGENT, {}, {"launchType": "FARGATE"}),
        (replace(AGENT, launch_type="FARGATE_SPOT"), {}, spot),
        (AGENT, {"launchType": "FARGATE_SPOT"}, spot),
        (replace(AGENT, launch_type="CLUSTER"), {}, {}),
        (replace(AGENT, capacity_providers=weighted), {}, {"capacityProviderStrategy": list(weighted)}),
        (replace(AGENT, capacity_providers=weighted), {"launchType": "FARGATE"}, {"launchType": "FARGATE"}),
        (AGENT, spot, spot),
    ]
    for agent, asked, expected in cases:
        made = plan(ECSRun(image="i", run_task_kwargs=asked), agent).run_task
        assert {key: made[key] for key in ("launchType", "capacityProviderStrategy") if key in made} == expected


def test_tasks_of_instances_need_no_size_of_fargate_and_no_network() -> None:
    made = plan(ECSRun(image="i"), replace(AGENT, launch_type="EC2"))
    assert "networkMode" not in definition(made)
    assert definition(made)["containerDefinitions"][0]["memoryReservation"] == 2048
    assert not made.wants_network


POLICY = Policy(max_cpu_millis=2000, max_memory_bytes=4 * 2**30)
HELD = replace(AGENT, most=POLICY.most)
ON_INSTANCES = replace(HELD, launch_type="EC2")


@pytest.mark.parametrize(
    ("agent", "containers", "size"),
    [
        (HELD, [{"name": "flow"}], ("1024", "2048")),
        (ON_INSTANCES, [{"name": "flow"}], ("2048", "4096")),
        (ON_INSTANCES, [{"name": "flow", "memoryReservation": 64}, {"name": "side", "memory": 64}], ("2048", "4096")),
        (ON_INSTANCES, [{"name": "flow", "memory": 512, "cpu": 256}, {"name": "side", "memory": 64}], ("2048", "576")),
    ],
)
def test_a_task_has_a_size_where_the_policy_has_a_maximum(
    agent: EcsOptions, containers: list[dict[str, Any]], size: tuple[str, str]
) -> None:
    made = plan(ECSRun({"containerDefinitions": containers}, image="image:1"), agent)
    assert (definition(made)["cpu"], definition(made)["memory"]) == size
    assert POLICY.refuse_plan(made.facts) == []


@pytest.mark.parametrize(
    ("agent", "config", "words"),
    [
        (HELD, ECSRun(image="i", cpu=4096, memory=8192), ["max_cpu", "max_memory"]),
        (HELD, ECSRun(image="i", run_task_kwargs={"overrides": {"cpu": "4096", "memory": "8192"}}),
         ["max_cpu", "max_memory"]),
        (ON_INSTANCES, ECSRun({"containerDefinitions": [{"name": "flow", "image": "i", "memory": 8192}]}),
         ["max_memory"]),
        (HELD, ECSRun(task_definition_arn="family:1"), ["max_cpu", "max_memory"]),
        (HELD, ECSRun(task_definition_arn="family:1", cpu=1024), ["max_memory"]),
        (HELD, ECSRun(task_definition_arn="family:1", cpu=1024, memory=2048), []),
    ],
)  # fmt: skip
def test_more_than_the_maximum_is_refused_and_so_is_a_size_that_nobody_sees(
    agent: EcsOptions, config: ECSRun, words: list[str]
) -> None:
    refusals = POLICY.refuse_plan(plan(config, agent).facts)
    assert [next(word for word in ("max_cpu", "max_memory") if word in one) for one in refusals] == words


def test_an_author_may_give_the_network_and_more() -> None:
    network = {"awsvpcConfiguration": {"subnets": ["subnet-9"]}}
    asked = {
        "networkConfiguration": network, "enableExecuteCommand": True, "tags": [{"key": "team", "value": "etl"}],
        "overrides": {"containerOverrides": [{"name": "flow", "cpu": 10}, {"name": "proxy", "command": ["x"]}]},
    }  # fmt: skip
    made = plan(ECSRun(image="i", run_task_kwargs=asked, tags={"cost": "7"}), replace(AGENT, tags={"org": "o"}))
    assert not made.wants_network
    assert made.run_task["networkConfiguration"] == network
    tags = {one["key"]: one["value"] for one in made.run_task["tags"]}
    assert (tags["team"], tags["cost"], tags["org"]) == ("etl", "7", "o")
    containers = made.override({"V": "w"})["containerOverrides"]
    assert [one["name"] for one in containers] == ["flow", "proxy"]
    assert containers[0]["cpu"] == 10
    assert made.facts.options == (
        "run_task_kwargs.enableExecuteCommand", "run_task_kwargs.networkConfiguration", "run_task_kwargs.overrides",
        "run_task_kwargs.tags", "tags",
    )  # fmt: skip


def test_what_the_policy_is_told_of_a_definition() -> None:
    document = {
        "networkMode": "host", "pidMode": "host", "taskRoleArn": ROLE, "requiresCompatibilities": ["EC2"],
        "volumes": [
            {"name": "d", "host": {"sourcePath": "/etc"}},
            {"name": "e", "efsVolumeConfiguration": {"fileSystemId": "fs-1"}},
        ],
        "containerDefinitions": [
            {"name": "flow", "image": "i", "privileged": True, "environment": [{"name": "A", "value": "1"}],
             "secrets": [{"name": "B", "valueFrom": "arn"}],
             "linuxParameters": {"capabilities": {"add": ["SYS_ADMIN"]}, "devices": [{"hostPath": "/dev/kvm"}]}}
        ],
    }  # fmt: skip
    asked = {"overrides": {"executionRoleArn": "arn:x", "containerOverrides": [{"environment": [{"name": "C"}]}]}}
    facts = plan(ECSRun(document, run_task_kwargs={**asked, "launchType": "EC2"})).facts
    assert facts.privileged == ("cap_add SYS_ADMIN", "devices", "host network", "host processes", "privileged")
    assert facts.mounts == ("/etc", "efs:fs-1")
    assert facts.env == ("A", "B", "C")
    assert facts.identities == (ROLE, "arn:x")
    assert parse_policy({}).refuse_plan(facts)


def test_the_log_driver_is_told_the_region_of_the_aws_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    agent = read_options({"log_group": "/flows", "execution_role_arn": ROLE, "image": "i"})
    [flow] = definition(plan(agent=agent))["containerDefinitions"]
    assert flow["logConfiguration"]["options"]["awslogs-region"] == "eu-north-1"


def test_logs_of_fargate_need_a_role_that_writes_them() -> None:
    with pytest.raises(InvalidArgumentError, match="needs --execution-role-arn"):
        read_options({"log_group": "/flows", "region": "eu-west-1"})
    assert read_options({"log_group": "/flows", "region": "eu-west-1", "launch_type": "EC2"}).log_group == "/flows"


def test_logs_go_where_the_agent_says_unless_the_definition_does() -> None:
    agent = replace(AGENT, log_group="/flows", log_prefix="h")
    [flow] = definition(plan(agent=agent))["containerDefinitions"]
    assert flow["logConfiguration"]["options"] == {
        "awslogs-group": "/flows", "awslogs-stream-prefix": "h", "awslogs-region": "eu-west-1",
        "mode": "non-blocking", "max-buffer-size": "4m",
    }  # fmt: skip
    own = {"containerDefinitions": [{"name": "flow", "image": "i", "logConfiguration": {"logDriver": "splunk"}}]}
    [flow] = definition(plan(ECSRun(own), agent))["containerDefinitions"]
    assert flow["logConfiguration"] == {"logDriver": "splunk"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": ""}, "names no image"),
        ({"options": {"nonsense": 1}}, "no option nonsense"),
        ({"options": {"run_task_kwargs": {"cluster": "other"}}}, "agent's cluster"),
        ({"options": {"tags": {"heliograph.io/epoch": "9"}}}, "are the agent's"),
        ({"options": {"run_task_kwargs": {"tags": [{"key": "heliograph.io/x", "value": ""}]}}}, "are the agent's"),
        ({"cpu_millis": 1000, "memory_bytes": 2**30}, "nearest"),
        ({"options": {"task_definition": {"containerDefinitions": [{"name": "flow", "image": "i",
                                                                    "restartPolicy": {"enabled": True}}]}}}, "once"),
        ({"options": {"task_definition": {"containerDefinitions": "nonsense"}}}, "str"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_for_good(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(LaunchError, match=words) as caught:
        plan(**changes)
    assert caught.value.failure is FailureCode.LAUNCH_SETTINGS


class Codes:
    """Hands out one code, and remembers what was to be sealed."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def ask(self, *arguments: Any) -> tuple[str, str]:
        self.asked.append(arguments)
        return "the-code", "00" * 32


async def test_a_task_is_given_what_it_needs_to_reach_the_control_plane_and_its_certificates_sealed(
    tmp_path: Path,
) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("tls_ca", "tls_cert", "tls_key")}
    for name, path in files.items():
        path.write_text(f"-----{name}-----")
    settings = RunSettings("plane:4480", "a", "/home", "/cache", tls={key: str(path) for key, path in files.items()})
    codes = Codes()
    launcher = EcsLauncher(settings, tmp_path / "runs", AGENT, codes, advertised="inside:4480")
    made = launcher.plan(SPEC, LaunchSettings(image="i", start_timeout_seconds=100))
    start = Start.parse(await launcher._start(made, Credentials("hg_run-token", "incarnation", 15.0)))
    assert (start.address, start.code, start.insecure, start.seconds) == ("inside:4480", "the-code", False, 160.0)
    assert start.tls_ca == "-----tls_ca-----"
    assert "tls_key" not in start.text()
    [(flow_run, epoch, token, launch, sealed, seconds)] = codes.asked
    assert (flow_run, epoch, token, seconds) == (SPEC.flow_run, 3, "hg_run-token", 160.0)
    assert sealed == {f"{name}.pem": path.read_bytes() for name, path in files.items()}
    record = parse_launch_record(launch)
    assert record.spec == SPEC
    assert record.settings.tls == {name: f"/tmp/heliograph/offer/{name}.pem" for name in files}
    await launcher.close()
