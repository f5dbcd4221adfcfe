"""ECSRun: Prefect 1's arguments, judged when the flow is registered; the sizes of Fargate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heliograph.run_configs import ECSRun
from heliograph.run_configs.fargate import check_fargate_size, cpu_units, memory_mib

ROLE = "arn:aws:iam::123456789012:role/flows"


def test_prefect_1s_arguments_are_the_first_ones() -> None:
    run = ECSRun({"cpu": "512", "memory": "1024"}, None, None, "image:1", {"A": "b"}, "1 vcpu", "2 GB", ROLE, ROLE,
                 {"tags": [{"key": "team", "value": "etl"}]}, ["gpu"])  # fmt: skip
    settings = run.launch_settings()
    assert (settings.launcher, settings.image, dict(settings.env), settings.labels) == (
        "ecs", "image:1", {"A": "b"}, ("gpu",),
    )  # fmt: skip
    assert (run.cpu, run.memory) == ("1024", "2048")
    assert (settings.cpu_millis, settings.memory_bytes) == (1000, 2 * 2**30)
    assert settings.options["task_role_arn"] == settings.options["execution_role_arn"] == ROLE
    assert settings.options["task_definition"] == {"cpu": "512", "memory": "1024"}
    assert "A" not in json.dumps(settings.options)
    assert ECSRun() == ECSRun()
    assert ECSRun().launch_settings().options == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"task_definition": {}, "task_definition_arn": "x:1"}, "one of"),
        ({"task_definition_arn": "x:1", "image": "i"}, "image"),
        ({"task_definition_arn": "not an arn"}, "family:revision"),
        ({"task_definition_path": "gs://bucket/key"}, "s3://bucket/key"),
        ({"task_role_arn": "flows"}, "ARN of a role"),
        ({"cpu": "lots"}, "1 vcpu"),
        ({"memory": "2 TB"}, "2 GB"),
        ({"cpu": 1024, "memory": 1024}, "nearest has cpu 1024 .* and memory 2048"),
        ({"cpu": 3000}, "nearest has cpu 4096"),
        ({"task_definition": {"cpu": "256"}, "memory": "4 GB"}, "cpu 512"),
        ({"ephemeral_storage_gib": 20}, "21 to 200"),
        ({"run_task_kwargs": {"clientToken": "x"}}, "the agent does"),
    ],
)
def test_what_cannot_run_is_refused_with_what_could(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ECSRun(**arguments)


def test_sizes_are_fargates_own_only_where_the_task_is_one_of_fargate() -> None:
    odd: dict[str, Any] = {"cpu": 300, "memory": 700}
    for elsewhere in (
        {"run_task_kwargs": {"launchType": "EC2"}},
        {"run_task_kwargs": {"capacityProviderStrategy": [{"capacityProvider": "gpus"}]}},
        {"task_definition": {"requiresCompatibilities": ["EC2"]}},
    ):
        run = ECSRun(**odd, **elsewhere)
        assert round(run.launch_settings().cpu_millis * 1024 / 1000) == 300
    spot = {"capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT"}]}
    with pytest.raises(ValueError, match="Fargate"):
        ECSRun(**odd, run_task_kwargs=spot)


def test_a_definition_is_read_from_a_file_of_this_machine_and_left_to_the_agent_where_it_is_in_a_bucket(
    tmp_path: Path,
) -> None:
    document = {"cpu": "512", "memory": "1024", "containerDefinitions": [{"name": "flow", "image": "i"}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    (tmp_path / "b.yaml").write_text("taskDefinition:\n  cpu: '512'\n  memory: '1024'\n")
    assert ECSRun(task_definition_path=tmp_path / "a.json").task_definition == document
    assert ECSRun(task_definition_path=str(tmp_path / "b.yaml")).task_definition == {"cpu": "512", "memory": "1024"}
    remote = ECSRun(task_definition_path="s3://bucket/definition.json")
    assert remote.launch_settings().options["task_definition_path"] == "s3://bucket/definition.json"
    (tmp_path / "c.yaml").write_text("- a list")
    with pytest.raises(ValueError, match="no task definition"):
        ECSRun(task_definition_path=tmp_path / "c.yaml")


def test_every_size_that_fargate_has_is_taken_and_every_other_one_refused_with_one_that_is_taken() -> None:
    good = 0
    for cpu in (0, 128, 256, 512, 1000, 1024, 2048, 4096, 8192, 16384, 32768):
        for memory in (0, 256, *range(512, 130_000, 512)):
            try:
                check_fargate_size(cpu, memory)
                good += bool(cpu and memory)
            except ValueError as error:
                words = str(error).split("nearest has cpu ")[1]
                nearest = int(words.split()[0]), int(words.split("memory ")[1].split()[0])
                check_fargate_size(*nearest)
                assert (nearest[0] >= cpu and nearest[1] >= memory) or nearest == (16384, 122_880)
    assert good == 3 + 4 + 7 + 13 + 23 + 12 + 12


@pytest.mark.parametrize(
    ("text", "units"), [("1024", 1024), (256, 256), ("1 vcpu", 1024), (".5 vCPU", 0), ("0.25 vCPU", 256)]
)
def test_processors_are_read_as_people_write_them(text: str | int, units: int) -> None:
    if units:
        assert cpu_units(text) == units
        return
    with pytest.raises(ValueError, match="no cpu"):
        cpu_units(text)


@pytest.mark.parametrize(("text", "mib"), [("2048", 2048), (512, 512), ("2 GB", 2048), ("0.5gb", 512), ("512MB", 512)])
def test_memory_is_read_as_people_write_it(text: str | int, mib: int) -> None:
    assert memory_mib(text) == mib
    for nonsense in ("", "GB", "-1", "1.5", True):
        with pytest.raises(ValueError, match="no memory"):
            memory_mib(nonsense)
