"""Wherever runs are launched: agents, control planes and what runs are in are killed, and answers to launches lost.

One storm and one judgement for all kinds (`support/storm.py`, `support/storm_checks.py`), whose quick form for runs on
the agent's own host is `test_kill_storm.py`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.docker_engine import docker_engine
from tests.support.fargate.server import fargate
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.places import PLACES, kinds
from tests.support.runtime_image import runtime_image
from tests.support.storm import storm
from tests.support.storm_checks import findings, judge
from tests.support.storm_plan import Plan

__all__ = ["docker_engine", "fargate", "runtime_image"]

LISTEN = "listen,brisk"
"""No bugs: what is acknowledged is written down, and agents look around often."""
REMOTE = ("answer", "infrastructure")
"""What only happens where the infrastructure is somebody else's."""
PLANS = {
    "quick": Plan(
        runs=6,
        capacity=2,
        daemons=0,
        script=((1, "answer"), (1, "attempt"), (2, "agent"), (3, "control plane"), (4, "attempt")),
    ),
    "full": Plan(
        runs=100,
        capacity=2,
        daemons=0,
        kills={
            "agent": 8,
            "answering control plane": 3,
            "control plane": 3,
            "attempt": 15,
            "answer": 6,
            "infrastructure": 4,
        },
        patience=180,
    ),
}


@kinds(full=("local",))
@forms("form", quick="quick", full="full", seconds=3600, quick_seconds=300)
def test_a_storm_loses_no_run_and_launches_none_twice(
    tmp_path: Path, request: pytest.FixtureRequest, figure: Figure, kind: str, form: str
) -> None:
    place, plan = PLACES[kind](tmp_path / "place", request), PLANS[form]
    if not place.is_remote:
        plan = replace(
            plan,
            script=tuple(one for one in plan.script if one[1] not in REMOTE),
            kills={what: count for what, count in plan.kills.items() if what not in REMOTE},
        )
    with storm(tmp_path / "storm", plan, planted=LISTEN, place=place) as raged:
        judgement = judge(raged)
        log = "\n".join(raged.stack.log(f"agent-{number}") for number in range(plan.agents))
        assert not place.answers_to_lose(), "all were lost that were to be"
    figure(f"{kind}: {judgement.figures}")
    assert not judgement.findings, "\n".join([*judgement.findings[:20], log[-4000:]])


HELD = Plan(runs=2, agents=1, capacity=2, daemons=0, patience=20)
DEAF = replace(HELD, runs=1, script=((0, "answer"),))
TWINS = [
    # Launchers that ask again under another name when they hear no answer.
    ("docker", "docker_starts_again", DEAF, "was launched as|two copies"),
    ("ecs", "ecs_runs_again", DEAF, "was launched as"),
    ("kubernetes", "kubernetes_takes_another_name", DEAF, "was launched as"),
    # One that looks for nothing when it is started again.
    ("docker", "adopt_no_containers", replace(HELD, held=True, script=((2, "agent"), (2, "attempt"))), "never ended"),
    # Those that leave what they made.
    ("docker", "clean_nothing", replace(HELD, patience=3), "volume .* is left"),
    ("kubernetes", "clean_nothing", replace(HELD, patience=3), "jobs .* is left"),
]
FULL = {("docker", "adopt_no_containers"), ("docker", "clean_nothing")}
"""What is found by the same judgement as another's mistake."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("kind", "bug", "plan", "finding"),
    [
        pytest.param(*twin, id="-".join(twin[:2]), marks=[
            pytest.mark.xdist_group("docker" if twin[0] != "kubernetes" else "place-kubernetes"),
            *([pytest.mark.full] if twin[:2] in FULL else []),
        ])
        for twin in TWINS
    ],
)  # fmt: skip
def test_a_storm_finds_the_launchers_mistake(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, bug: str, plan: Plan, finding: str
) -> None:
    """The planted twins."""
    place = PLACES[kind](tmp_path / "place", request)
    with storm(tmp_path / "storm", plan, planted=f"{LISTEN},{bug}", place=place) as raged:
        found = []
        for one in findings(raged):
            found.append(one)
            if re.search(finding, one):
                return
    raise AssertionError(f"not found: {finding}, but {found}")
