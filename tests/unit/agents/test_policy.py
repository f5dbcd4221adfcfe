"""The agent's policy: what each rule lets through, and that a policy which says nonsense stops the agent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliograph.exceptions import ConfigurationError
from heliograph_agents.launcher import BundleSpec, PlanFacts, RunSpec
from heliograph_agents.policy import Policy, load_policy, parse_bytes, parse_policy

DIGEST = "@sha256:" + "a" * 64
BUNDLE = BundleSpec("s3", "s3://bundles/prod/x", "sha256:0", "sha256:1", False, "3.11", "")
VERSION = "projects/etl/flows/load/versions/1"
SPEC = RunSpec("projects/etl/flowRuns/r", VERSION, "otter", 1, 1, "{}", BUNDLE, "sha256:2", 0)


def at(storage: str, location: str) -> RunSpec:
    return replace(SPEC, bundle=replace(SPEC.bundle, storage=storage, location=location))


@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        ({}, False),
        ({"projects": ["etl"]}, False),
        ({"projects": ["team-*"]}, True),
        ({"projects": []}, True),
        ({"flows": ["etl/*"]}, False),
        ({"flows": ["etl/lo"]}, True),
        ({"storages": ["s3://bundles/prod/"]}, False),
        ({"storages": ["s3://bundles/prod"]}, False),
        ({"storages": ["s3://bundles/pro"]}, True),
        ({"storages": ["s3"]}, False),
        ({"storages": ["local:/srv"]}, True),
    ],
)
def test_where_a_run_comes_from(policy: dict[str, Any], refused: bool) -> None:
    assert bool(parse_policy(policy).refuse_origin(SPEC)) is refused


@pytest.mark.parametrize(
    ("location", "refused"),
    [("/srv/flows", False), ("/srv/flows/a", False), ("/srv/flows-evil", True), ("/srv/flows/../../etc", True)],
)
def test_a_storage_is_compared_by_whole_parts(location: str, refused: bool) -> None:
    policy = parse_policy({"storages": ["local:/srv/flows/"]})
    assert bool(policy.refuse_origin(at("local", location))) is refused


def test_a_run_that_names_another_projects_flow_is_refused() -> None:
    foreign = replace(SPEC, flow_version="projects/other/flows/load/versions/1")
    assert Policy().refuse_origin(foreign)


@pytest.mark.parametrize(
    ("policy", "facts", "refused"),
    [
        ({}, PlanFacts(image="anything", env=("A",), mounts=("/etc",)), False),
        ({}, PlanFacts(privileged=("privileged",)), True),
        ({"privileged": ["host network"]}, PlanFacts(privileged=("host network",)), False),
        ({"privileged": ["host network"]}, PlanFacts(privileged=("host network", "privileged")), True),
        ({"images": ["reg/flows/*"]}, PlanFacts(image="reg/flows/a"), False),
        ({"images": ["reg/flows/*"]}, PlanFacts(image="evil/flows/a"), True),
        ({"images": []}, PlanFacts(), False),
        ({"require_image_digest": True}, PlanFacts(image="reg/a:1"), True),
        ({"require_image_digest": True}, PlanFacts(image=f"reg/a{DIGEST}"), False),
        ({"env": ["APP_*"]}, PlanFacts(env=("APP_A",)), False),
        ({"env": ["APP_*"]}, PlanFacts(env=("APP_A", "LD_PRELOAD")), True),
        ({"mounts": ["/data/*:ro"]}, PlanFacts(mounts=("/data/a:ro",)), False),
        ({"mounts": ["/data/*:ro"]}, PlanFacts(mounts=("/data/a",)), True),
        ({"mounts": ["/data/*"]}, PlanFacts(mounts=("/data/a:ro", "/data/b")), False),
        ({"mounts": ["/data/*"]}, PlanFacts(mounts=("/data/../etc",)), True),
        ({"max_cpu": 2}, PlanFacts(cpu_millis=2000), False),
        ({"max_cpu": 2}, PlanFacts(cpu_millis=2001), True),
        ({"max_memory": "1 GiB"}, PlanFacts(memory_bytes=2**30 + 1), True),
        ({"identities": ["arn:aws:iam::1:role/flows-*"]}, PlanFacts(identities=("arn:aws:iam::1:role/admin",)), True),
        ({"identities": ["flows"]}, PlanFacts(identities=("flows",)), False),
        ({"options": ["networks"]}, PlanFacts(options=("networks",)), False),
        ({"options": ["networks"]}, PlanFacts(options=("networks", "create_kwargs")), True),
    ],
)
def test_what_a_run_asks_for(policy: dict[str, Any], facts: PlanFacts, refused: bool) -> None:
    assert bool(parse_policy(policy).refuse_plan(facts)) is refused


@pytest.mark.parametrize(
    "document",
    [
        {"project": ["etl"]}, {"projects": "etl"}, {"projects": [1]}, {"projects": [""]}, {"max_cpu": "two"},
        {"max_cpu": True}, {"max_memory": "much"}, {"require_signature": "yes"}, {"failure_text": "some"},
    ],
)  # fmt: skip
def test_a_policy_that_says_nonsense_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        parse_policy(document)


def test_a_policy_that_cannot_be_read_stops_the_agent(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_policy(tmp_path / "missing.toml")
    path = tmp_path / "policy.toml"
    path.write_text("projects = [")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_policy(path)
    path.write_text("colour = 'red'")
    with pytest.raises(ConfigurationError, match="not known"):
        load_policy(path)


@pytest.mark.parametrize(
    ("text", "size"), [("8 GiB", 2**33), ("500 MB", 5 * 10**8), (1024, 1024), ("1.5gib", 3 * 2**29), ("7", 7)]
)
def test_sizes(text: Any, size: int) -> None:
    assert parse_bytes(text) == size
